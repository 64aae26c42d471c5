/* The software NIC, what its files share. Top of the house: nic.c.
 *
 *   nic.c       one NIC: its thread, its lock, a pass over its work
 *   keys.c      memory keys: range, domain, access
 *   memory.c    the bytes that keys name, in host memory and (gpu.c) in GPU memory
 *   wqe.c       reading work queue elements
 *   requester.c doorbells, fetching, sending, completing, timers, flushing
 *   answers.c   what peers answer
 *   responder.c what requests of peers do here
 *   atomics.c   what the atomic opcodes compute
 *   cq.c        completion queue entries
 *   qp.c        queue pairs and the machine of their states
 *   fabric.c    packets between the NICs of this machine's processes
 *   faults.c    faults on demand, and what it lacks
 *   trace.c     the trace
 *   verbs.c, queues.c, post.c, devx.c   the faces: libibverbs, its queues, posting; mlx5dv with DevX
 *
 * Everything below is guarded by the NIC's lock, which its thread holds during a pass. What programs share with a NIC
 * (queues, records, registers, registered memory) is read and written by atomic words, as hardware does; the order is
 * the format's (device/mlx5.h): an acquire on register or record sees what came before it, and what the NIC has written
 * is seen by who acquires a CQE's last word or, as the bytes of one queue pair land in order, any later word. */
#ifndef SIM_ENGINE_H
#define SIM_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "device/mlx5.h"
#include "trace.h"

#define SIM_PRINTF(f, a) __attribute__((format(printf, f, a)))

enum {
    SIM_PAYLOAD = 32768,     /* most bytes of a packet */
    SIM_RING = 1 << 19,      /* bytes of a ring of packets */
    SIM_BURST = 1 << 17,     /* bytes that one queue pair sends before the next one's turn */
    SIM_MOST_BLOCKS = 16,    /* of a WQE: 63 segments */
    SIM_LOG_MOST_DEPTH = 15, /* of queues: 2^15 blocks or entries, as indices have 16 bits */
    SIM_KEYS = 1 << 16
};

/* ---- objects ------------------------------------------------------------------------------------------- */

struct sim_key {
    uint32_t key;        /* index << 8 | tag; 0 = free */
    uint32_t pd, access; /* enum ibv_access_flags */
    uint64_t address, bytes;
    bool gpu;
};

struct sim_cq {
    struct sim_cq *next;
    uint32_t number, log_size;
    bool collapsed, ignore_overrun, overrun;
    unsigned char *buffer;
    _Atomic uint32_t *record;
    uint32_t produced; /* entries so far */
    _Atomic int armed; /* the next entry is an event */
    void (*event)(struct sim_cq *cq);
    void *user;
};

/* A UAR page. What a program writes to its register the NIC takes out: 0 is no doorbell. */
struct sim_uar {
    struct sim_uar *next;
    uint32_t number;
    unsigned char *page;
    unsigned users; /* queue pairs */
    bool announced; /* who writes it wakes the NIC; else the NIC must look again and again */
};

/* A WQE that is under way. */
struct sim_wqe {
    const unsigned char *raw;                 /* as fetched, in one piece */
    uint16_t index;                           /* of its first block */
    uint8_t blocks, ds, opcode, opmod, flags; /* flags: fm_ce_se */
    bool remote;                              /* has a sequence number, and is answered by the peer */
    bool done;                                /* may complete, with this syndrome: */
    uint8_t syndrome, vendor;
    uint8_t list; /* segment where the data segments begin */
    uint32_t sequence, imm, rkey;
    uint32_t bytes;
    uint64_t address;
    uint64_t done_at; /* ns */
};

struct sim_cursor { /* within a WQE's data segments */
    unsigned segment;
    uint32_t at; /* bytes into that segment */
};

struct sim_qp {
    struct sim_qp *next;
    uint32_t number, pd, user_index;
    enum sim_state state;
    uint8_t type; /* PRM_ST_RC, PRM_ST_UD */
    struct sim_cq *send_cq, *receive_cq;
    struct sim_uar *uar;
    unsigned char *sq, *rq;
    unsigned sq_blocks, rq_count, rq_stride;
    _Atomic uint32_t *record; /* [receive, send] */
    void *user;
    /* the connection */
    uint32_t remote_qpn, qkey;
    uint16_t remote_lid;
    uint32_t send_psn, receive_psn;
    uint8_t ack_timeout, retries, rnr_retries, rnr_timer, log_reads, log_served, log_message, mtu;
    bool remote_read, remote_write, remote_atomic;
    /* requester; indices of blocks, free-running */
    uint16_t producer, fetched;
    unsigned char *copy;    /* of fetched WQEs: the ring's blocks, and SIM_MOST_BLOCKS - 1 more */
    struct sim_wqe *flight; /* [sq_blocks], by `first` and `last`, free-running */
    unsigned first, next_sent, last;
    struct sim_cursor cursor; /* in flight[next_sent], when `sent` bytes of it have gone */
    uint32_t sent;
    uint32_t sequence, reads;
    bool stopped;      /* fetches no more: a WQE of it has failed */
    bool stalled;      /* by a fault */
    uint64_t late;     /* by a fault: ns, it sends nothing before */
    uint64_t progress; /* ns: when the peer last gave a sign */
    uint64_t rnr_until;
    uint8_t rnr_left;
    uint16_t flushed;          /* error state: the next block to flush */
    struct sim_cursor landing; /* where the answer to flight[first_read] goes on */
    uint32_t landed;
    /* a delayed doorbell */
    uint64_t doorbell_at;
    uint16_t doorbell;
    /* responder */
    uint32_t expected;
    uint32_t received; /* bytes of the message so far */
    bool within;       /* a message */
    uint16_t rq_taken, rq_flushed;
    unsigned char receive[16 * 32]; /* the receive in use */
    unsigned receive_segments;
    uint16_t receive_index;
    struct sim_cursor receiving;
};

/* ---- packets ------------------------------------------------------------------------------------------- */

enum sim_packet_kind { SIM_REQUEST, SIM_DATAGRAM, SIM_ACK, SIM_NAK, SIM_RNR, SIM_READ_DATA, SIM_OLD_VALUE };
enum { SIM_FIRST = 1, SIM_LAST = 2, SIM_SOLICITED = 4 };

struct sim_packet {
    uint32_t bytes; /* of the packet in its ring, with this head; the highest bit: skip to the ring's start */
    uint8_t kind, flags, opcode, opmod;
    uint32_t to, from; /* queue pairs */
    uint32_t sequence, payload;
    uint32_t total; /* bytes of the message */
    uint32_t rkey;
    uint64_t address;
    uint64_t operand[4]; /* an atomic's segment in host order; [0] the old value, in an answer */
    uint32_t imm, qkey;
    uint16_t lid; /* of the sender */
    uint8_t syndrome, vendor;
    uint8_t reads, reserved[3]; /* reads and atomics of the sender under way, this one among them */
};

struct sim_ring {
    _Alignas(64) _Atomic uint64_t head; /* written: by the sender */
    _Alignas(64) _Atomic uint64_t tail; /* read: by the receiver */
    _Alignas(64) unsigned char data[SIM_RING];
};
struct sim_link_memory {
    _Atomic uint32_t sleeping[2]; /* [0] who asks, [1] who answers: wants a byte on the socket */
    struct sim_ring requests, answers;
};

/* One direction of asking between two NICs: requests go one way, their answers back. */
struct sim_link {
    struct sim_link *next;
    uint16_t lid; /* the other NIC's */
    bool ours;    /* we ask */
    bool dead;
    int fd;
    uint64_t again; /* ns: not before it is a way tried that was not there */
    struct sim_link_memory *memory;
    uint64_t
        prepared; /* where the next packet of ours goes; what is before it and after the ring's head is unpublished */
    struct { /* a read that is being answered: later requests of the link wait */
        bool active;
        struct sim_packet request;
        uint32_t done;
    } answer;
};

/* ---- faults -------------------------------------------------------------------------------------------- */

/* X(name, text): each a number, 0 = not; SHMEM_SIM_FAULTS=name=N,... */
#define SIM_FAULTS(X)                                                                                        \
    X(drop_doorbell, "the NIC does not see its N-th doorbell")                                               \
    X(delay_doorbell_us, "it sees every doorbell that much later")                                           \
    X(stall, "the queue pair that the NIC's N-th WQE belongs to stops before it, for ever")                  \
    X(nak, "the NIC's N-th WQE fails, with the syndrome nak_syndrome")                                       \
    X(nak_syndrome, "0x14, remote operation error, unless set")                                              \
    X(slow_cqe_us, "completion queue entries come that much later")                                          \
    X(reorder, "queue pairs take turns at random, N is the seed; order within each stays")                   \
    X(late_us, "a queue pair that gets work when it had none begins that much later, every other time")      \
    X(deaf, "from the N-th request of peers on the NIC answers none, as if its host were dead")              \
    X(kill, "the process ends by SIGKILL when the N-th request of peers comes")                              \
    X(unresolved, "the first N queue pairs to a peer find no address for it (ETIMEDOUT)")                    \
    X(no_key, "from its N-th on, every registration of memory fails (ENOMEM)")                               \
    X(retry_ms, "how long a peer may be silent, instead of what the queue pair says")
struct sim_faults {
#define X(name, text) uint64_t name;
    SIM_FAULTS(X)
#undef X
};

/* X(name, text): what ibgda needs of a NIC, and this one then has not; SHMEM_SIM_LACKS=name,... */
#define SIM_LACKS(X)                                                                                         \
    X(mlx5, "it is none of mlx5")                                                                            \
    X(devx, "it cannot be opened for DevX commands (EOPNOTSUPP)")                                            \
    X(commands, "it takes no command that asks what it can do (EOPNOTSUPP)")                                 \
    X(cq_oi, "completion queues without consumer index")                                                     \
    X(atomics, "atomics")                                                                                    \
    X(masked_atomics, "atomics with masks")                                                                  \
    X(atomics_of_4, "atomics of 4 bytes")                                                                    \
    X(umem, "it takes no memory for queues by its address (EOPNOTSUPP)")                                     \
    X(uar, "pages of doorbell registers for kernels (ENOMEM)")
enum sim_lack {
#define X(name, text) SIM_LACK_##name,
    SIM_LACKS(X)
#undef X
};

/* ---- the NIC ------------------------------------------------------------------------------------------- */

struct sim_nic {
    pthread_mutex_t lock;
    _Atomic unsigned wanted; /* threads that want the lock: the NIC's thread lets them in */
    pthread_t thread;
    bool running;
    _Atomic bool stop;
    _Atomic uint32_t asleep;
    int bell; /* eventfd: wakes the thread */
    int listener;
    uint64_t spin_ns;
    bool crowded;
    uint16_t lid;
    uint8_t gid[16];           /* the port's first */
    bool roce, global_atomics; /* global: atomic against this host's processors as well */
    struct sim_key *keys;      /* [SIM_KEYS] */
    uint32_t next_key, next_number, next_pd, next_uar;
    struct sim_qp *qps, *found[256]; /* found: the last ones, by number */
    struct sim_cq *cqs;
    struct sim_uar *uars;
    struct sim_link *links;
    uint64_t links_looked;
    uint64_t now; /* ns, of this pass */
    struct sim_faults faults;
    uint32_t lacks;                                                    /* bits 1 << SIM_LACK_* */
    uint64_t doorbells, wqes, requests, unresolved, keys_made, random; /* counted, for the faults */
    bool deaf;
    bool held; /* packets are unpublished */
    _Atomic uint64_t violations;
    char violation[200]; /* the last one */
    FILE *trace;
    unsigned char payload[SIM_PAYLOAD];
};

/* ---- nic.c --------------------------------------------------------------------------------------------- */
/* A NIC on the fabric; with its thread, or driven by sim_step alone (tests). NULL, with errno and a message. */
struct sim_nic *sim_open(bool thread);
void sim_close(struct sim_nic *nic);
/* One pass; true = something moved. With the lock held. */
bool sim_step(struct sim_nic *nic);
void sim_lock(struct sim_nic *nic);
void sim_unlock(struct sim_nic *nic);
/* After a write to an announced UAR, from any thread, without the lock. */
void sim_wake(struct sim_nic *nic);
uint64_t sim_now(void); /* ns, CLOCK_MONOTONIC */
/* The program broke a rule that hardware leaves undefined: said on standard error, counted, traced. */
void sim_violation(struct sim_nic *nic, uint32_t number, const char *fmt, ...) SIM_PRINTF(3, 4);

/* ---- keys.c -------------------------------------------------------------------------------------------- */
/* 0 = no more keys */
uint32_t sim_key_create(struct sim_nic *nic, uint32_t pd, uint64_t address, uint64_t bytes, uint32_t access,
                        bool gpu);
bool sim_key_destroy(struct sim_nic *nic, uint32_t key);
/* The key that covers the range for this domain with all bits of `access`; NULL = none does. */
const struct sim_key *sim_key_check(const struct sim_nic *nic, uint32_t key, uint32_t pd, uint64_t address,
                                    uint64_t bytes, uint32_t access);

/* ---- memory.c, gpu.c ----------------------------------------------------------------------------------- */
/* Copies out of, and into, memory that a key names. false = the memory is gone (GPU memory). */
bool sim_load(const struct sim_key *k, void *to, uint64_t address, size_t n);
/* The same, but the bytes are there after sim_gpu_settle. */
bool sim_load_later(const struct sim_key *k, void *to, uint64_t address, size_t n);
bool sim_store(const struct sim_key *k, uint64_t address, const void *from, size_t n);
/* Replaces an aligned element of 4 or 8 bytes on the host if it still is *old; else that becomes what it is. */
bool sim_replace(uint64_t address, unsigned bytes, uint64_t *old, uint64_t next);
/* Memory that a program and the NIC share, on the host. */
void sim_copy_out(void *to, const void *memory, size_t n);
void sim_copy_in(void *memory, const void *from, size_t n);
/* Whether an address is memory of a GPU that the host cannot touch. */
bool sim_gpu_owns(uint64_t address);
/* Copies of GPU memory are under way: packets stay unpublished, and whoever says that something has happened settles. */
extern bool sim_gpu_unsettled;
void sim_gpu_settle(void);
bool sim_gpu_load(void *to, uint64_t address, size_t n);
bool sim_gpu_load_later(void *to, uint64_t address, size_t n);
bool sim_gpu_store(uint64_t address, const void *from, size_t n);

/* ---- wqe.c --------------------------------------------------------------------------------------------- */
/* Reads a WQE that has been fetched to w->raw. 0, or the syndrome that it fails with; `why` says it. */
uint8_t sim_wqe_read(const struct sim_qp *qp, struct sim_wqe *w, uint16_t expected, const char **why);
/* Next `n` bytes of a list of data segments and inline data, out of it or into it. 0, or a syndrome. */
uint8_t sim_gather(struct sim_nic *nic, const struct sim_qp *qp, const unsigned char *list, unsigned segments,
                   struct sim_cursor *c, void *to, uint32_t n);
/* The same, but the bytes are there after sim_gpu_settle: for packets. */
uint8_t sim_gather_later(struct sim_nic *nic, const struct sim_qp *qp, const unsigned char *list,
                         unsigned segments, struct sim_cursor *c, void *to, uint32_t n);
uint8_t sim_scatter(struct sim_nic *nic, const struct sim_qp *qp, const unsigned char *list,
                    unsigned segments, struct sim_cursor *c, const void *from, uint32_t n);
/* Whether keys cover a whole list. 0, or a syndrome. */
uint8_t sim_list_check(struct sim_nic *nic, const struct sim_qp *qp, const unsigned char *list,
                       unsigned segments, uint32_t access);
/* Bytes of a list; over SHMEMX_MLX5_MOST_MESSAGE counts as that and one more. */
uint32_t sim_list_bytes(const unsigned char *list, unsigned segments);
uint32_t sim_be32(const void *p);
uint64_t sim_be64(const void *p);
void sim_put_be32(void *p, uint32_t v);
void sim_put_be64(void *p, uint64_t v);

/* ---- cq.c ---------------------------------------------------------------------------------------------- */
struct sim_entry {
    uint8_t opcode; /* enum shmemx_mlx5_cqe_opcode */
    uint8_t wqe_opcode, syndrome, vendor;
    bool solicited;
    uint16_t counter;
    uint32_t bytes, imm, remote_qpn;
};
struct sim_cq *sim_cq_create(struct sim_nic *nic, const struct sim_cq *like);
void sim_cq_destroy(struct sim_nic *nic, struct sim_cq *cq);
struct sim_cq *sim_cq_find(struct sim_nic *nic, uint32_t number);
/* Whether an entry fits. */
bool sim_cq_room(const struct sim_cq *cq);
void sim_cq_add(struct sim_nic *nic, struct sim_cq *cq, const struct sim_qp *qp, const struct sim_entry *e);

/* How far one index of a queue is ahead of another, of 16 bits both: up to a whole queue, the deepest one too, whose 2^15
 * are no negative number. 0 = it is the same, or behind. */
static inline unsigned sim_ahead(uint16_t index, uint16_t of)
{
    uint16_t blocks = (uint16_t)(index - of);
    return blocks <= 1u << SIM_LOG_MOST_DEPTH ? blocks : 0;
}

/* ---- qp.c ---------------------------------------------------------------------------------------------- */
struct sim_uar *sim_uar_create(struct sim_nic *nic, bool announced);
void sim_uar_destroy(struct sim_nic *nic, struct sim_uar *uar);
struct sim_uar *sim_uar_find(struct sim_nic *nic, uint32_t number);
struct sim_qp *sim_qp_create(struct sim_nic *nic, const struct sim_qp *like);
void sim_qp_destroy(struct sim_nic *nic, struct sim_qp *qp);
struct sim_qp *sim_qp_find(struct sim_nic *nic, uint32_t number);
/* To a state. The caller has set the fields that the step needs. false = no such step. */
bool sim_qp_step(struct sim_nic *nic, struct sim_qp *qp, enum sim_state state);
const char *sim_state_name(enum sim_state state);
/* Nanoseconds that a receiver asks for by its code for the RNR timer, IBTA's table. */
uint64_t sim_rnr_ns(uint8_t code);

/* ---- requester.c, answers.c --------------------------------------------------------------------------- */
bool sim_doorbells(struct sim_nic *nic);
bool sim_send(struct sim_nic *nic, struct sim_qp *qp);
void sim_answered(struct sim_nic *nic, const struct sim_packet *p, const unsigned char *payload);
/* What has been fetched and not completed is flushed from now on; the queue pair is in the error state. */
void sim_flush(struct sim_nic *nic, struct sim_qp *qp);

/* ---- responder.c --------------------------------------------------------------------------------------- */
/* false = the answer does not fit now: the packet must come again */
bool sim_request(struct sim_nic *nic, struct sim_link *link, const struct sim_packet *p,
                 const unsigned char *payload);
/* Goes on with an answer in pieces. */
bool sim_answer(struct sim_nic *nic, struct sim_link *link);
/* ---- atomics.c ----------------------------------------------------------------------------------------- */
/* Bytes of the operand, 4 or 8; 0 = no such atomic. */
unsigned sim_atomic_bytes(uint8_t opcode, uint8_t opmod);
/* Operands of a WQE's atomic segment, host order. */
void sim_atomic_operands(uint8_t opcode, unsigned bytes, const unsigned char *segment, uint64_t operand[4]);
uint64_t sim_atomic_apply(uint8_t opcode, unsigned bytes, uint64_t old, const uint64_t operand[4]);

/* ---- fabric.c ------------------------------------------------------------------------------------------ */
bool sim_fabric_open(struct sim_nic *nic);
void sim_fabric_close(struct sim_nic *nic);
/* The way to ask a NIC; NULL = none now. */
struct sim_link *sim_link_to(struct sim_nic *nic, uint16_t lid);
/* Room for a packet of that many bytes of payload, to fill and push; NULL = the ring is full. */
struct sim_packet *sim_packet_room(struct sim_link *link, uint32_t payload);
/* It goes now, or, while GPU memory is unsettled, with sim_publish. */
void sim_packet_push(struct sim_nic *nic, struct sim_link *link);
/* Settles, and lets the packets go that have waited for that. */
void sim_publish(struct sim_nic *nic);
/* Looks at the sockets, takes what has come. */
bool sim_fabric_step(struct sim_nic *nic);
/* Sleeps until something comes by a socket or the bell, at most `ns`. Without the lock. */
void sim_fabric_sleep(struct sim_nic *nic, uint64_t ns);

/* ---- faults.c ------------------------------------------------------------------------------------------ */
/* SHMEM_SIM_FAULTS's text; 0, or the offset + 1 of what is wrong in it. */
int sim_faults_read(struct sim_faults *f, const char *text);
/* The same for SHMEM_SIM_LACKS's text: bits of SIM_LACK_*. */
int sim_lacks_read(uint32_t *lacks, const char *text);
static inline bool sim_lacks(const struct sim_nic *nic, enum sim_lack what)
{
    return nic->lacks >> what & 1;
}
uint64_t sim_random(struct sim_nic *nic);

/* ---- trace.c ------------------------------------------------------------------------------------------- */
bool sim_trace_open(struct sim_nic *nic, const char *file);
void sim_trace_close(struct sim_nic *nic);
void sim_trace(struct sim_nic *nic, enum sim_trace_kind kind, uint32_t number, const void *head,
               size_t head_bytes, const void *body, size_t body_bytes);
void sim_trace_text(struct sim_nic *nic, enum sim_trace_kind kind, uint32_t number, const char *fmt, ...)
    SIM_PRINTF(4, 5);
void sim_trace_qp_state(struct sim_nic *nic, const struct sim_qp *qp);

#endif
