/* Transport ucx, inside: what its files share. ucx_lib.c finds the library, ucx.c opens and closes, knows peers, memory
 * and the service thread, ucx_ops.c and ucx_words.c move host memory, ucx_gpu.c and ucx_gpu_serve.c GPU memory. */
#ifndef SHMEMI_TRANSPORT_UCX_STATE_H
#define SHMEMI_TRANSPORT_UCX_STATE_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "transport.h"
#include "ucx.h"

enum ucx_kind { UCX_PUT, UCX_GET, UCX_AMO, UCX_PUT_SIGNAL };

/* What is on the way to a peer is counted; what ends, ends in the order of its kind. */
struct ucx_count {
    uint64_t issued, done;
};

/* How far a context has come with a peer: when the flush and the word of these numbers have ended, all that it issued has.
 * The number after `issued` is that of the next one, which is not on its way yet. A fence notes both, and the context's next
 * operation of another kind waits for that (ucx_ops.c). `gpu`: the last request about GPU memory (ucx_gpu.c). */
struct ucx_mark {
    uint64_t flush, word, fenced_flush, fenced_word, gpu, fenced_gpu;
    bool gpu_fence; /* none has been sent since the fence */
    bool gpu_lost;  /* some have failed, or are not executed after one that has, and nobody has been told */
};
enum { UCX_SEVERAL = SHMEMI_CONTEXTS };

struct ucx_peer {
    void *ep;                      /* NULL = not connected */
    ucx_status status;             /* of the endpoint: not 0 = the peer is lost, for good */
    bool told;                     /* UCX gave the cause */
    bool reached;                  /* something came back from it */
    bool dirty;                    /* bulk since the last flush was started */
    bool unanswered;               /* messages since the last word */
    unsigned bulk_of, messages_of; /* the context of those two, or UCX_SEVERAL */
    size_t turn_bytes;             /* of bulk since other contexts' have waited for a flush or a word */
    bool owes;                     /* operations were lost with it, and no quiet has said so */
    struct ucx_count flushes, words;
    struct ucx_mark own; /* of the default context */
    enum ucx_kind last;  /* what was issued last, for messages */
    size_t last_bytes;
    struct ucx_count gpu;       /* requests about GPU memory */
    uint64_t gpu_out, gpu_back; /* their bytes, and those that have been answered */
    struct ucx_want *wants;     /* gets and fetches among them */
    struct {
        bool stands; /* nobody has been told */
        int code;
        char text[200];
    } gpu_error;
    uint32_t gpu_epoch; /* counts errors that have been told */
    /* at the target */
    uint64_t asked;         /* the last request that is in order */
    struct ucx_work *early; /* those that came before their turn */
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

struct ucx_word;
struct ucx_gpu;

/* All under `lock`, but for what is atomic and what only open and close change. */
extern struct shmemi_ucx_state {
    struct shmemi_ucx u;
    const struct shmemi_job *job;
    void *context, *worker;
    struct ucx_peer *peers; /* [npes] */
    struct ucx_mark *
        marks[SHMEMI_CONTEXTS]; /* [npes], from a context's first use; the default one's are the peers' own */
    bool served;                /* the thread moved something since a waiting caller last looked */
    double linger;              /* seconds that the thread looks on after the last thing that came */
    int pending, owing;         /* flushes and words on the way; peers that owe */
    struct {
        struct ucx_chunk *chunks;
        int n;
    } segment[SHMEMI_SEGMENT_COUNT];
    struct ucx_word *free_words, *word_blocks; /* and the allocations they came in */
    int notes;                                 /* messages that UCX holds */
    struct ucx_gpu *gpu;                       /* NULL = the GPU heap is not served */
    pthread_mutex_t lock;
    atomic_int wanted;           /* threads that wait for the lock */
    atomic_uint attended;        /* counts looks of waiting callers */
    int lost;                    /* the first peer that was lost, -1 = none */
    struct pollfd *processes;    /* of peers that can be seen from here; readable = ended */
    int *process_of, nprocesses; /* their PEs */
    int fd, stop;                /* the worker's events; ends the thread */
    bool running;
    pthread_t thread;
} shmemi_ucx_state;

void shmemi_ucx_lock(void);
/* Gives way where somebody else wants the lock: the mutex itself is not fair. */
void shmemi_ucx_unlock(void);
/* One line on why a peer is lost. */
void shmemi_ucx_describe(int pe, char *text, size_t n);
int shmemi_ucx_dead(const char *call, int pe);
/* With the lock held: something failed with this status. */
void shmemi_ucx_lose(struct ucx_peer *p, ucx_status status);

/* ucx_ops.c, for ucx_words.c; all with the lock held. */
int shmemi_ucx_refused(const char *call, int pe, size_t n, ucx_status status);
int shmemi_ucx_not_exposed(const char *call, int pe, uint64_t offset, size_t n);
struct ucx_chunk *shmemi_ucx_chunk(int segment, uint64_t offset);
void shmemi_ucx_note(int pe, enum ucx_kind kind, size_t n);
/* One look of a waiting caller: moves things on, gives way where nothing moved. */
struct shmemi_wait;
int shmemi_ucx_step(struct shmemi_wait *w, unsigned *rounds);
/* Waits until that many of a kind have ended, or the peer is lost. */
int shmemi_ucx_drain(const char *call, int pe, const struct ucx_count *c, uint64_t until);
/* A context's mark; NULL, and logged, where there is no memory for it. */
struct ucx_mark *shmemi_ucx_mark(const char *call, int pe, unsigned context);
/* Bulk that was flushed by the context's fence has arrived, its words and messages before it have run. */
int shmemi_ucx_after_fence(const char *call, int pe, const struct ucx_mark *m);

/* ucx_words.c; the lock is not held. An atomic, which is also a put or a get of one aligned word; without an answer where
 * nothing is fetched. */
int shmemi_ucx_word(const char *call, enum ucx_kind kind, int pe, int segment, uint64_t offset,
                    const struct shmemi_amo *a, unsigned how);
/* put_signal in one message; 0 = too long for that, 1 = sent. */
int shmemi_ucx_message(int pe, int segment, uint64_t offset, const void *source, size_t n, int sig_segment,
                       uint64_t sig_offset, const struct shmemi_amo *signal, unsigned how);
/* With the lock held: a word that changes nothing and comes back after all messages before it. */
int shmemi_ucx_ping(int pe);
ucx_status shmemi_ucx_words_open(void);
void shmemi_ucx_words_close(void);

/* ucx_gpu.c: GPU memory on either side. `word`: an atomic behind the bytes, or NULL. The lock is not held. */
bool shmemi_ucx_is_gpu(int segment, const void *local);
int shmemi_ucx_gpu_put(const char *call, enum ucx_kind kind, int pe, int segment, uint64_t offset,
                       const void *source, size_t n, int word_segment, uint64_t word_offset,
                       const struct shmemi_amo *word, unsigned how);
int shmemi_ucx_gpu_get(const char *call, int pe, int segment, uint64_t offset, void *dest, size_t n,
                       unsigned how);
int shmemi_ucx_gpu_amo(int pe, uint64_t offset, const struct shmemi_amo *a, unsigned how);
/* With the lock held. What the context's fence saw has been executed. */
int shmemi_ucx_gpu_fenced(const char *call, int pe, const struct ucx_mark *m);
/* All of the context up to that number has; what failed is told. */
int shmemi_ucx_gpu_quiet(const char *call, int pe, struct ucx_mark *m, uint64_t number);
/* A request that changes nothing, so that a peer that is gone is noticed. */
void shmemi_ucx_gpu_ping(int pe);
/* Starts, unless it has; extends what peers may ask for; ends. */
int shmemi_ucx_gpu_open(const char *call);
void shmemi_ucx_gpu_expose(uint64_t bytes);
void shmemi_ucx_gpu_close(void);
void shmemi_ucx_gpu_free(void);

/* ucx_ops.c: slots of the transport. */
int shmemi_ucx_put(int pe, int segment, uint64_t offset, const void *source, size_t n, unsigned how);
int shmemi_ucx_get(int pe, int segment, uint64_t offset, void *dest, size_t n, unsigned how);
int shmemi_ucx_amo(int pe, int segment, uint64_t offset, const struct shmemi_amo *a, unsigned how);
int shmemi_ucx_put_signal(int pe, int segment, uint64_t offset, const void *source, size_t n, int sig_segment,
                          uint64_t sig_offset, uint64_t signal, int sig_op, unsigned how);
int shmemi_ucx_fence(int pe, unsigned context);
int shmemi_ucx_quiet(int pe, unsigned context);

#endif
