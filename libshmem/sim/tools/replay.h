/* What nic_replay.c and replay_compare.c share: the records of traces in the order of time, and the queue pairs that stand
 * for theirs. */
#ifndef SIM_TOOLS_REPLAY_H
#define SIM_TOOLS_REPLAY_H

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine.h"

struct record {
    const char *file;
    uint16_t lid;
    uint64_t wall; /* ns */
    const struct sim_trace_record *head;
    const void *body;
    unsigned bytes;
    bool silent; /* a WQE whose entry says that the peer did not answer */
};

/* The WQEs and the entries of one queue pair, as numbers of records. The number of a queue pair may be used again. */
struct numbers {
    size_t *at, count, room, next;
};
struct stream {
    struct stream *next;
    uint16_t lid;
    uint32_t number;
    bool gone, taken;
    struct numbers wqes, entries;
};

/* A key of a trace, and the memory and keys that stand for it. */
struct key {
    struct key *next;
    uint16_t lid;
    uint32_t number, at_near, at_far;
    bool good;
    uint64_t old, now; /* addresses */
};

/* What an entry says, but for numbers that differ from run to run. */
struct said {
    uint8_t kind, opcode, syndrome, vendor;
    uint16_t index;
    uint32_t bytes;
};

struct pair {
    struct pair *next;
    struct stream *stream;
    uint16_t lid, remote_lid;
    uint32_t number; /* in the trace */
    bool gone, reset, begun;
    struct sim_qp *qp, *peer;
    unsigned char *sq, *rq;
    _Atomic uint32_t record[2], peer_record[2];
    uint16_t written;   /* blocks */
    size_t flushed;     /* entries of the stream, looked through for flushed WQEs */
    struct said *found; /* by the replay */
    size_t count, room;
};

struct ring {
    struct ring *next;
    uint16_t lid;
    uint32_t number, taken;
    struct sim_cq *cq;
    unsigned char *buffer;
};

struct replay {
    struct record *records;
    size_t count;
    struct stream *streams;
    struct sim_nic *near, *far;
    struct key *keys;
    struct pair *pairs;
    struct ring *rings;
    void *landing;
    size_t requests;
};
extern struct replay replay;

/* replay_compare.c */
void give_up(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
void read_traces(char **names, int n);
const unsigned char *entry_at(const struct numbers *entries, size_t i);
bool is_flush(const unsigned char *e);
/* Takes the entries that have come. */
void collect(void);
/* The records of the queue pair of this number that was made first, of those that no pair has yet. */
struct stream *take_stream(uint16_t lid, uint32_t number);
/* Prints what differs; the exit status. */
int compare(bool json);

#endif
