/* Transport verbs, what its files share.
 *
 *   verbs.c          the slots: put, get, put_signal, fence, quiet, and the order between them
 *   verbs_device.c   which device, port, GID and partition
 *   verbs_qp.c       queue pairs: connecting, posting, completions, errors
 *   verbs_connect.c  connections that are made when they are first used
 *   verbs_memory.c   registered memory: the heap's chunks, users' buffers, bounce slots
 *   verbs_amo.c      atomics: by the target's processor, or by the NIC
 *   verbs_lib.c      libibverbs
 *
 * One reliable connection a peer, one completion queue for all that this PE sends, one for the requests it
 * receives. One lock guards everything here; a wait gives it away between two looks. */
#ifndef SHMEMI_VERBS_H
#define SHMEMI_VERBS_H

#include <pthread.h>

#include "base/wait.h"
#include "transport.h"
#include "verbs_lib.h"

enum {
    /* Atomics under way to one peer; as many receives are posted for that peer's, so a request always
     * finds one. */
    VERBS_CREDITS = 16,
    VERBS_LIST = 16, /* work requests posted with one doorbell */
    VERBS_SLOT_BYTES =
        8192, /* of a bounce slot; a blocking put of more from registered memory is not copied */
    VERBS_SLOTS = 256,
    VERBS_INLINE = 256,       /* bytes asked for */
    VERBS_DEPTH = 256,        /* of a send queue, fewer where there are many peers: */
    VERBS_WQES = 65536,       /* of all send queues together */
    VERBS_REQUEST_BYTES = 64, /* room for a request of an atomic */
    /* Jobs of more PEs than this connect on first use, unless SHMEM_IB_CONNECT says otherwise. Up front each PE makes as
     * many queue pairs, of some 100 KiB each (256 requests of up to 256 bytes inline): 6 MiB here. On first use
     * the first request to a peer takes a message there and back more. */
    VERBS_EAGER = 64,
};

/* The port in use. */
struct verbs_port {
    struct ibv_context *context;
    struct ibv_device_attr device;
    struct ibv_port_attr attr;
    char name[80]; /* "mlx5_0:1" */
    uint8_t number;
    bool ethernet; /* RoCE */
    int gid_index, pkey_index;
    union ibv_gid gid;
    int roce; /* version, 0 = InfiniBand */
};

/* What is known of a posted work request: for its completion, and for the message if it fails. */
struct verbs_wqe {
    void *dest; /* where a staged get or an atomic's old value goes, NULL = nowhere */
    uint64_t remote;
    uint32_t bytes;
    int16_t slot; /* bounce slot it holds, -1 = none */
    uint8_t what; /* enum verbs_what */
};
enum verbs_what { VERBS_WRITE, VERBS_READ, VERBS_REQUEST, VERBS_REPLY, VERBS_ATOMIC, VERBS_PROBE };

/* Where a peer writes the answer to an atomic. One write of 16 bytes within a cache line: `sequence`, the
 * later half, is not seen before `value` is. */
struct verbs_landing {
    uint64_t value;
    _Atomic uint64_t sequence; /* of the answered request, from 1 */
};

/* What a peer must know, followed by the QP number for each PE of the job, unless connections are made on
 * first use. */
struct verbs_card {
    uint32_t version, psn, landing_key, max_message;
    uint64_t landing;   /* of PE 0; each PE's are VERBS_CREDITS further on */
    uint32_t hello_qpn; /* takes hellos, with psn as key */
    uint8_t gid[16];
    uint16_t lid, pkey;
    uint8_t roce, mtu, reads, native, lazy;
    char port[24];
};

/* How far a context has come with a peer. */
struct verbs_mark {
    uint64_t posted, amos; /* behind its last work request, its last atomic */
    uint64_t fence;        /* its atomics below come before whatever of it follows */
};

struct verbs_peer {
    int pe;
    bool reachable; /* this transport serves it: its card is known */
    bool connected; /* this end of the connection is there */
    bool ready;     /* so is the peer's */
    struct verbs_card card;
    struct ibv_ah *ah; /* its address, for hellos */
    double asked;      /* since when a sign of life is owed; 0 = none is */
    struct ibv_qp *qp;
    uint32_t peer_qpn;
    /* Work requests by number: the ring holds done .. posted - 1; all below `signalled` will be known to
     * be complete. */
    uint64_t posted, done, signalled;
    struct verbs_wqe *ring;       /* [shmemi_verbs.depth] */
    int broken;                   /* the error after which nothing works any more; 0 = none */
    bool told;                    /* quiet has returned it */
    char *why;                    /* its text */
    uint64_t amos, amos_done;     /* atomics by number */
    struct verbs_mark own;        /* of the default context */
    unsigned owner;               /* the context that issued last */
    uint64_t mixed;               /* requests below have a completion each: contexts take turns */
    void *fetched[VERBS_CREDITS]; /* where the old value goes, NULL = not wanted */
    uint8_t size[VERBS_CREDITS];
    struct verbs_landing *landing; /* [VERBS_CREDITS] here, written by the peer */
    uint64_t peer_landing;         /* this PE's there */
    uint32_t peer_landing_key;
};

struct verbs_key {
    uint64_t addr;
    uint32_t rkey;
    uint32_t known; /* 0 = that PE has not said */
};
struct verbs_chunk {
    uint64_t offset;
    size_t n;
    struct ibv_mr *mr;
    struct verbs_key *keys; /* [npes] */
};
struct verbs_chunks {
    struct verbs_chunk *chunk;
    int count;
    uint64_t end; /* of the exposed range, which starts at 0 */
};

struct shmemi_verbs {
    const struct shmemi_verbs_lib *lib;
    const struct shmemi_job *job;
    pthread_mutex_t lock;
    struct verbs_port port;
    struct ibv_pd *pd;
    struct ibv_comp_channel *channel;
    struct ibv_cq *sent, *received;
    struct verbs_peer *peers; /* [npes] */
    unsigned depth, inline_bytes;
    uint32_t psn, max_message;
    bool native;         /* atomics by the NIC */
    bool lazy;           /* connections on first use */
    uint64_t wqes, amos; /* under way, all peers together */
    uint64_t looks;      /* of threads that wait in the library, for requests of peers */
    struct verbs_mark *
        marks[SHMEMI_CONTEXTS]; /* [npes], from a context's first use; the default one's are the peers' own */
    struct verbs_chunks chunks[SHMEMI_SEGMENT_COUNT];
};
extern struct shmemi_verbs shmemi_verbs;

/* ---- verbs_device.c ------------------------------------------------------------------------------------ */
/* Opens a device; NULL: `why` goes on after its name. */
typedef struct ibv_context *(*verbs_opener)(struct ibv_device *device, char *why, size_t n);
/* The port that PE number `local` of a node should use, opened by `opener`, NULL = any device will do; 0 = none, `why` says
 * what each lacks. On success `why` describes it. */
int shmemi_verbs_choose(struct verbs_port *port, int local, verbs_opener opener, char *why, size_t n);
/* GID, partition, and the limits of the settings. */
int shmemi_verbs_settings(const char *call, struct verbs_port *port);
/* The way from a port to a peer's. */
struct ibv_ah_attr shmemi_verbs_path(const struct verbs_port *port, uint16_t lid, const uint8_t gid[16]);

/* ---- verbs_memory.c ------------------------------------------------------------------------------------ */
/* Bounce slots, landings, receives: made and registered. */
int shmemi_verbs_memory_open(const char *call);
void shmemi_verbs_memory_close(void);
int shmemi_verbs_register(const char *call, void *addr, size_t n, int access, struct ibv_mr **mr);
/* The same for another opener of a port. */
int shmemi_verbs_register_in(const char *call, const struct verbs_port *port, struct ibv_pd *pd, void *addr,
                             size_t n, int access, struct ibv_mr **mr);
/* The same for GPU memory. */
int shmemi_verbs_register_gpu(const char *call, const struct verbs_port *port, struct ibv_pd *pd, char *addr,
                              size_t n, int access, struct ibv_mr **mr);
int shmemi_verbs_expose(int segment, uint64_t offset, size_t n, void *key, size_t room);
int shmemi_verbs_learn(int pe, int segment, uint64_t offset, size_t n, const void *key, size_t key_bytes);
int shmemi_verbs_buffer_register(void *addr, size_t n);
void shmemi_verbs_buffer_unregister(void *addr);
/* Where an offset is at a peer. *n shrinks to what lies in one registration. */
int shmemi_verbs_remote(const char *call, int pe, int segment, uint64_t offset, size_t *n, uint64_t *addr,
                        uint32_t *rkey);
/* Is local memory registered? Then *n shrinks to what lies in one registration. */
bool shmemi_verbs_local(const void *addr, size_t *n, uint32_t *lkey, bool *gpu);
/* -1 = all are in use */
int shmemi_verbs_slot_take(void);
void shmemi_verbs_slot_give(int slot);
void *shmemi_verbs_slot(int slot);
uint32_t shmemi_verbs_slot_key(void);
/* The landing area as peers see it, and the receives' buffers. */
uint32_t shmemi_verbs_landing_key(bool remote);
struct verbs_landing *shmemi_verbs_landing(int pe);
int shmemi_verbs_receive(struct verbs_peer *p, unsigned index);
const void *shmemi_verbs_received(const struct verbs_peer *p, unsigned index);

/* ---- verbs_qp.c ---------------------------------------------------------------------------------------- */
int shmemi_verbs_qp_open(const char *call);
void shmemi_verbs_qp_close(void);
/* This end, not connected: `qp`, or with NULL a new one. */
int shmemi_verbs_qp_create(const char *call, struct verbs_peer *p, struct ibv_qp *qp);
/* To the peer's queue pair of that number. SHMEMX_ERR_TIMEOUT, and no message: made on first use, it finds the peer's
 * address not yet; to be called again. */
int shmemi_verbs_qp_connect(const char *call, struct verbs_peer *p, uint32_t number);
/* Queue pairs of PEs that other transports serve. */
void shmemi_verbs_qp_drop_idle(void);
/* Everything under way to this peer is given up; `why`, allocated, or NULL, is its text. */
void shmemi_verbs_break(struct verbs_peer *p, int code, char *why);

/* Work requests to one peer, posted together. */
struct verbs_list {
    struct verbs_peer *p;
    unsigned n;
    bool signal;             /* completion is wanted */
    struct verbs_mark *mark; /* of the context that issues them, NULL = none does */
    struct ibv_send_wr wr[VERBS_LIST];
    struct ibv_sge sge[VERBS_LIST];
};
/* Begins a list for a peer and the context of `how`; takes the lock, which end gives back. */
int shmemi_verbs_begin(const char *call, struct verbs_list *l, int pe, unsigned how);
/* Gives back what was added and not posted, if there is an error, which it passes on. */
int shmemi_verbs_end(struct verbs_list *l, int rc);
/* A context's mark, NULL = it has issued nothing to any peer. */
struct verbs_mark *shmemi_verbs_mark(struct verbs_peer *p, unsigned context);
/* With the lock held; waits until one more fits, which may post what is there. `call` names it in
 * messages. */
int shmemi_verbs_room(const char *call, struct verbs_list *l);
/* The next request; there is room. lkey 0 = the bytes go into it, and stay until it is posted. The caller
 * may fill in what atomics need. */
struct ibv_send_wr *shmemi_verbs_add(struct verbs_list *l, enum ibv_wr_opcode opcode, const void *local,
                                     size_t n, uint32_t lkey, uint64_t remote, uint32_t rkey,
                                     struct verbs_wqe wqe);
int shmemi_verbs_post(const char *call, struct verbs_list *l);
/* Takes completions; how many there were. */
int shmemi_verbs_poll(void);
/* One look and, where it saw nothing, one step of a wait; the lock is given away meanwhile. Errors of the
 * wait, or p's. */
int shmemi_verbs_step(struct shmemi_wait *w, struct verbs_peer *p);
/* The error of a broken peer, logged. */
SHMEMI_COLD int shmemi_verbs_broken(const char *call, struct verbs_peer *p);
/* Posts something to a peer whose later requests have no completion coming, or, `always`, to any. */
int shmemi_verbs_nudge(struct verbs_peer *p, bool always);

/* ---- verbs_connect.c ----------------------------------------------------------------------------------- */
/* The queue pair that takes hellos, made after the completion queues, of which it needs some entries more. */
int shmemi_verbs_hello_open(const char *call);
void shmemi_verbs_hello_close(void);
unsigned shmemi_verbs_hello_entries(void);
uint32_t shmemi_verbs_hello_number(void);
/* Hello number `index` has come, with the lock held. */
void shmemi_verbs_heard(uint32_t index, uint32_t bytes);
/* Connects to a peer for its first request, with the lock held, which is given away meanwhile. Errors of the wait, or
 * p's. */
int shmemi_verbs_reach(const char *call, struct verbs_peer *p);
/* A sign of life from a peer without connection; it breaks when it owes one for too long. */
void shmemi_verbs_ask_unconnected(struct verbs_peer *p);

/* ---- verbs_amo.c --------------------------------------------------------------------------------------- */
int shmemi_verbs_amo_open(const char *call);
void shmemi_verbs_amo_close(void);
int shmemi_verbs_amo(int pe, int segment, uint64_t offset, const struct shmemi_amo *a, unsigned how);
/* Puts an add without old value into a list, behind the puts before it. `room`, VERBS_REQUEST_BYTES, stays
 * until posted. */
int shmemi_verbs_amo_add(const char *call, struct verbs_list *l, int segment, uint64_t offset,
                         const struct shmemi_amo *a, void *room);
/* Takes the answers that have arrived from a peer. */
void shmemi_verbs_amo_collect(struct verbs_peer *p);
/* Executes what peers have asked for. */
int shmemi_verbs_amo_serve(void);

#endif
