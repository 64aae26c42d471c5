/* The command rings between kernels and the host's proxy thread. Plain C without includes, laid out as state.h: shared by
 * device/proxy.h, which posts, and src/proxy.c, which executes.
 *
 * A command is one slot of a ring: up to eight words of 8 bytes, each of which says by its lowest bit that it has arrived,
 * so that they may arrive in any order and a kernel needs no fence between them. The host zeroes the words that it has
 * read before it gives the slot back.
 */
#ifndef SHMEM_DEVICE_PROXY_STATE_H
#define SHMEM_DEVICE_PROXY_STATE_H

enum {
    SHMEMX_PROXY_WORDS = 8,    /* of a slot */
    SHMEMX_PROXY_PAYLOAD = 512 /* bytes beside each slot and each answer, for data that is not in the heap */
};

/* Operations. Words of each, beside the header; `offset` is in the peer's copy. */
enum shmemx_proxy_op {
    SHMEMX_PROXY_PUT = 1,     /* offset, bytes, local address */
    SHMEMX_PROXY_WORD,        /* offset, bytes (1 to 8), value */
    SHMEMX_PROXY_PAYLOAD_PUT, /* offset, bytes; the data is the slot's payload */
    SHMEMX_PROXY_GET,         /* offset, bytes, local address [, answer]: 0 = the answer's payload */
    SHMEMX_PROXY_PUT_SIGNAL, /* offset, bytes, local address, signal, signal's offset; detail: signal_kind. bytes may be
                               * 0, then everything from here to that PE before it comes before the signal */
    SHMEMX_PROXY_AMO, /* offset, value, condition [, answer]; detail: enum shmemx_amo, and bit 7: 8 bytes, not 4 */
    SHMEMX_PROXY_FENCE,
    SHMEMX_PROXY_QUIET /* answer; pe -1: all */
};

/* The header: bit 0 set; then, from bit 1, 7 bits the operation; from 8, a bit for each other word that the command has;
 * from 16, the top bit of each word, which has no room in the word itself; from 24, 8 bits of detail; from 32, the PE. A
 * word x is sent as x << 1 | 1. */
#define SHMEMX_PROXY_OP(header) ((unsigned)((header) >> 1 & 0x7f))
#define SHMEMX_PROXY_HAS(header) ((unsigned)((header) >> 8 & 0xff))
#define SHMEMX_PROXY_TOPS(header) ((unsigned)((header) >> 16 & 0xff))
#define SHMEMX_PROXY_DETAIL(header) ((unsigned)((header) >> 24 & 0xff))
#define SHMEMX_PROXY_PE(header) ((int)((header) >> 32))

/* Words' places in a slot. */
enum {
    SHMEMX_PROXY_AT_HEADER,
    SHMEMX_PROXY_AT_OFFSET,
    SHMEMX_PROXY_AT_BYTES,
    SHMEMX_PROXY_AT_LOCAL, /* or the value */
    SHMEMX_PROXY_AT_VALUE, /* signal or condition */
    SHMEMX_PROXY_AT_SIGNAL,
    SHMEMX_PROXY_AT_ANSWER /* number of the answer's cell, from bit 32 on its turn */
};

/* A ring; the struct lies in memory of the GPU, which alone writes it. Blocks share the rings by their numbers, so all
 * commands of a block go through one, in the order in which they are claimed. */
struct shmemx_proxy_ring {
    unsigned long long tail;      /* commands claimed so far */
    unsigned long long head_seen; /* what a kernel last saw at `head` */
    unsigned long long head; /* address of a u64 in pinned host memory: commands that the host is done with */
    unsigned long long
        slots; /* address of u64[depth][SHMEMX_PROXY_WORDS], pinned host memory, 64-byte aligned */
    unsigned long long payload; /* address of u8[depth][SHMEMX_PROXY_PAYLOAD], pinned host memory */
    unsigned look;              /* 1 while a thread looks at `head` */
    unsigned room[21];          /* rings do not share lines */
};

/* Where the host answers, pinned host memory. Each half of a word is valid by itself: value's low half, turn | status;
 * high half, turn | status. The turn has 24 bits, the status above it is 0 or a SHMEMX_ERR_* with its sign changed. */
struct shmemx_proxy_answer {
    unsigned long long low, high;
    /* 32 bytes are what a GPU reads at once of the host's memory; two threads that wait for one piece wait for each other
     * (device/nic.h, turn). */
    unsigned long long room[2];
};

struct shmemx_device_proxy {
    unsigned rings, depth; /* powers of two; depth: slots of a ring */
    unsigned cells;        /* answers, a power of two */
    unsigned reserved;
    unsigned long long ring;    /* address of struct shmemx_proxy_ring[rings] */
    unsigned long long answers; /* address of struct shmemx_proxy_answer[cells] */
    unsigned long long payload; /* address of u8[cells][SHMEMX_PROXY_PAYLOAD], pinned host memory */
    /* Address of u32[cells], memory of the GPU: odd while a thread waits for the answer; half of it is the turn. */
    unsigned long long turns;
};

#endif
