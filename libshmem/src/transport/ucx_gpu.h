/* Transport ucx and GPU memory, inside: what ucx_gpu.c, which asks, and ucx_gpu_serve.c, which executes, share. */
#ifndef SHMEMI_TRANSPORT_UCX_GPU_H
#define SHMEMI_TRANSPORT_UCX_GPU_H

#include "base/gpu.h"
#include "ucx_state.h"

/* What goes at a time through pinned memory, and how many such blocks a PE has; without a free one private memory does. Puts of
 * 4 MiB were no faster with 256 KiB, and with 16 KiB by a third (0.90, not 0.70 GB/s, fake device, TCP by the loopback), but there
 * a copy begins at once, and a GPU's takes some us to begin. */
enum { UCX_PIECE = 64 << 10, UCX_BLOCKS = 64 };
enum { UCX_ASK_ID = 2, UCX_ANSWER_ID = 3 };

/* A request: bytes, then a word; either may be none. As the header of an active message, whose data are a put's bytes. */
struct ucx_ask {
    uint64_t number;    /* the asking PE's, to this one: 1, 2, ... in the order in which they are executed */
    uint64_t offset, n; /* of the bytes, in `segment` */
    uint64_t word;      /* offset of the word in `word_segment` */
    uint64_t value, cond; /* of the atomic on it */
    int32_t pe;           /* who asks */
    uint32_t
        epoch; /* counts errors that the asking PE has told: after one nothing more of that epoch is executed */
    uint8_t segment, word_segment;
    uint8_t get;    /* the bytes are asked for */
    uint8_t op;     /* of the atomic */
    uint8_t size;   /* of the word, 0 = none */
    uint8_t wanted; /* the answer is to have its old value */
    uint8_t fenced; /* what was asked before is complete first */
};

/* All requests up to a number have been executed: their bytes are in GPU memory. A get's bytes, or an error's text, are the
 * message's data. */
struct ucx_answer {
    uint64_t number, bytes, value; /* bytes: of all requests so far; the fetched value */
    int32_t pe, status;            /* who answers; SHMEMX_ERR_* of that request */
};

/* A get or a fetch without its answer; under the lock. */
struct ucx_want {
    struct ucx_want *next; /* of a later number */
    uint64_t number;
    void *dest; /* NULL = not wanted any more */
    size_t n;
    bool gpu; /* dest is GPU memory */
};

/* What the thread for GPU memory is to do: a peer's request, or bytes that were asked for and go to GPU memory here. */
struct ucx_work {
    struct ucx_work *next;
    struct ucx_ask ask;
    char *data;            /* a block, or NULL */
    struct ucx_want *want; /* not NULL = the second kind */
    uint64_t *cell;        /* pinned: the word to be stored, or the old value */
    int status;
};

/* A block of at least n bytes, n <= UCX_PIECE; NULL, and logged, without memory. The lock is not held. */
char *shmemi_ucx_block(const char *call, size_t n);
/* With the lock held; NULL without a word. */
char *shmemi_ucx_block_locked(size_t n);
void shmemi_ucx_give_block(char *block);
/* With the lock held: sends `head` and a block, which it gives back. */
ucx_status shmemi_ucx_parcel(struct ucx_peer *p, unsigned id, const void *head, size_t head_bytes,
                             char *block, size_t n);
/* With the lock held: the bytes are where they were wanted, or never will be. */
void shmemi_ucx_want_ended(struct ucx_peer *p, struct ucx_want *w);
/* With the lock held: a request of that number to that PE has failed. */
void shmemi_ucx_gpu_failed(struct ucx_peer *p, uint64_t number, int code, const char *text, size_t n);

/* ucx_gpu_serve.c: starts and ends the thread. */
int shmemi_ucx_serve_open(const char *call);
void shmemi_ucx_serve_close(void);
/* With the lock held. Takes `w` over, and its data. */
void shmemi_ucx_serve_landing(struct ucx_work *w);
/* Requests may be about that much of the GPU heap from now on. */
void shmemi_ucx_serve_expose(uint64_t bytes);

#endif
