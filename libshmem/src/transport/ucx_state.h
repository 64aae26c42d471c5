/* Transport ucx, inside: what its files share. ucx_lib.c finds the library, ucx.c opens and closes, knows peers, memory
 * and the service thread, ucx_ops.c moves bytes. */
#ifndef SHMEMI_TRANSPORT_UCX_STATE_H
#define SHMEMI_TRANSPORT_UCX_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "transport.h"
#include "ucx.h"

enum ucx_kind { UCX_PUT, UCX_GET, UCX_AMO };

struct ucx_peer {
    void *ep;                  /* NULL = not connected */
    ucx_status status;         /* of the endpoint: not 0 = the peer is lost, for good */
    bool reached;              /* something came back from it */
    bool dirty;                /* operations since the last flush was started */
    bool listed;               /* in ucx.dirty */
    bool owes;                 /* operations were lost with it, and no quiet has said so */
    unsigned flushes, flushed; /* started, ended */
    enum ucx_kind last;        /* what was issued last, for messages */
    size_t last_bytes;
};

/* An exposed range and what peers said of theirs. */
struct ucx_chunk {
    uint64_t offset;
    size_t n;
    void *memory;
    struct {
        uint64_t base; /* address of `offset` there */
        void *key;
    } *at; /* [npes] */
};

/* The operands of an atomic; UCX reads and writes them until it is done. */
struct ucx_word {
    uint64_t value, old; /* `old` of a compare-and-swap is what to store, until it is the old value */
    size_t size;
    void *fetched; /* where the caller wants the old value, NULL = nowhere */
    struct ucx_peer *peer;
    bool waited, done; /* the caller waits for it and gives it back; it may */
    struct ucx_word *next;
};

/* All under `lock`, but for what is atomic and what only open and close change. */
extern struct shmemi_ucx_state {
    struct shmemi_ucx u;
    const struct shmemi_job *job;
    void *context, *worker;
    struct ucx_peer *peers; /* [npes] */
    int *dirty, ndirty;     /* those that are listed */
    int flushing, owing;    /* flushes on the way; peers that owe */
    struct {
        struct ucx_chunk *chunks;
        int n;
    } segment[SHMEMI_SEGMENT_COUNT];
    struct ucx_word *words, *blocks; /* free ones; the allocations they came in */
    pthread_mutex_t lock;
    atomic_int wanted;    /* threads that wait for the lock */
    atomic_uint attended; /* counts looks of waiting callers */
    atomic_int lost;      /* the first peer that was lost, -1 = none */
    int fd, stop;         /* the worker's events; ends the thread */
    bool running;
    pthread_t thread;
} shmemi_ucx_state;

void shmemi_ucx_lock(void);
/* Gives way where somebody else wants the lock: the mutex itself is not fair. */
void shmemi_ucx_unlock(void);
/* One line on why a peer is lost. */
void shmemi_ucx_describe(int pe, char *text, size_t n);
int shmemi_ucx_dead(const char *call, int pe);

int shmemi_ucx_put(int pe, int segment, uint64_t offset, const void *source, size_t n, bool nbi);
int shmemi_ucx_get(int pe, int segment, uint64_t offset, void *dest, size_t n, bool nbi);
int shmemi_ucx_amo(int pe, int segment, uint64_t offset, const struct shmemi_amo *a, bool nbi);
int shmemi_ucx_put_signal(int pe, int segment, uint64_t offset, const void *source, size_t n, int sig_segment,
                          uint64_t sig_offset, uint64_t signal, int sig_op, bool nbi);
int shmemi_ucx_fence(int pe);
int shmemi_ucx_quiet(int pe);
void shmemi_ucx_words_close(void);

#endif
