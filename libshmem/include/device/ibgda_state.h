/* What a kernel knows of the queue pairs that it posts to itself. Filled by the host (src/transport/ibgda.c), read by
 * device/ibgda.h. Plain C without includes, laid out as state.h.
 */
#ifndef SHMEM_DEVICE_IBGDA_STATE_H
#define SHMEM_DEVICE_IBGDA_STATE_H

enum {
    SHMEMX_IBGDA_LEAST_DEPTH = 256,  /* blocks: room for a warp's largest reservation, which ibgda.h has */
    SHMEMX_IBGDA_MOST_DEPTH = 32768, /* numbers of blocks have 16 bits, and their order must be clear */
    SHMEMX_IBGDA_ANSWER = 64,        /* bytes of a block's answer: what a fetch or a small get brings */
    SHMEMX_IBGDA_MOST_INLINE = 220   /* bytes in a WQE of four blocks */
};

/* shmemx_ibgda_qp.failed */
enum {
    SHMEMX_IBGDA_WORKS = 0,
    SHMEMX_IBGDA_ERROR, /* the NIC has said so, in the entry that `entries` counts next */
    SHMEMX_IBGDA_LEFT   /* a thread has left blocks unwritten, since a wait of its own met the deadline */
};

/* A queue pair to one PE, with a completion queue of its own whose consumer index the NIC does not look at. Blocks of
 * the send queue are numbered from 0 and never again: block i lies at i modulo the depth. 256 bytes, 256-byte aligned, in
 * memory of the GPU. */
struct shmemx_ibgda_qp {
    /* What does not change; wq 0: there is no queue pair. The first 64 bytes are all that posting needs, by four loads. */
    unsigned long long wq;     /* address of 64-byte blocks */
    unsigned long long record; /* address of the doorbell record's word for sends */
    unsigned long long uar;    /* address of the UAR's register */
    unsigned long long
        slots;     /* address of u32[2][mask + 1]: blocks of the WQE at the end of a batch; 1 while a thread
                                * has yet to read the block's answer */
    unsigned qpn;  /* number << 8 */
    unsigned mask; /* blocks of the send queue - 1 */
    /* The heap's first chunk, of which mostly there is no other: a copy of what the tables below say. */
    unsigned first_key, first_local;
    unsigned long long first_end, first_address;
    unsigned long long cq; /* address of 64-byte entries, 0xff at first */
    unsigned long long
        answers;     /* address of u8[mask + 2][SHMEMX_IBGDA_ANSWER], fit for the NIC: for what a block's WQE
                                 * brings; the last one is for what nobody wants */
    unsigned log_cq; /* 2^log_cq entries, at least as many as blocks */
    unsigned answers_key; /* local key, as it stands in a WQE */
    int pe;               /* at the other end */
    unsigned number;      /* among the queue pairs to it */
    unsigned room[8];
    /* What kernels count. Pairs are read by one load. */
    unsigned long long ready;    /* blocks below are written, by the order of their numbers */
    unsigned long long done;     /* the NIC is done with blocks below */
    unsigned long long reserved; /* blocks below belong to somebody */
    unsigned long long rung;     /* the NIC was told of blocks below */
    unsigned long long
        entries; /* of the completion queue, taken so far; stays at the first one that is an error */
    unsigned long long failed; /* SHMEMX_IBGDA_*: it takes no more */
    unsigned look;             /* 1 while a thread looks at the completion queue */
    unsigned late;             /* 1: a wait for `done` has met the deadline */
    unsigned room2[18];
};

/* A part of the heap that was registered as one. All PEs have the same ones. */
struct shmemx_ibgda_chunk {
    unsigned long long end; /* offset behind its last byte; it begins where the one before ends */
    unsigned key;           /* of this PE's copy, as it stands in a WQE */
    unsigned reserved;
};
/* The same of one PE's copy. */
struct shmemx_ibgda_key {
    unsigned long long address; /* of offset 0 of its heap there */
    unsigned key;               /* remote key, as it stands in a WQE */
    unsigned reserved;
};

/* Beside what struct shmemx_device_nic has. */
struct shmemx_device_ibgda {
    unsigned count, room; /* chunks, and how many the tables hold */
    unsigned most;        /* bytes of one WQE at most */
    unsigned reserved;
    unsigned long long chunks; /* address of struct shmemx_ibgda_chunk[room] */
    unsigned long long keys;   /* address of struct shmemx_ibgda_key[npes][room] */
};

/* struct shmemx_device_error of kind SHMEMX_DEVICE_NIC: `value` is made of the syndrome (bits 0-7), the vendor's
 * syndrome (8-15), the WQE's opcode (16-23), the entry's opcode (24-31) and the number of the WQE's first block (32-47);
 * `expected` is the queue pair's number, `address` the remote address in the WQE, 0 where it has none. */
#define SHMEMX_IBGDA_ERROR_VALUE(syndrome, vendor, opcode, entry, block)                                     \
    ((unsigned long long)(syndrome) | (unsigned long long)(vendor) << 8 |                                    \
     (unsigned long long)(opcode) << 16 | (unsigned long long)(entry) << 24 |                                \
     (unsigned long long)(block) << 32)

#endif
