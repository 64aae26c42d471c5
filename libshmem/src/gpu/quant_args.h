/* What the host passes to the kernels of quant.cu: plain C, fixed widths. */
#ifndef SHMEMI_GPU_QUANT_ARGS_H
#define SHMEMI_GPU_QUANT_ARGS_H

typedef unsigned long long shmemi_quant_u64;

enum {
    SHMEMI_QUANT_GPU_WARPS = 12,     /* of a block */
    SHMEMI_QUANT_GPU_MEMBERS = 64,   /* of a team, at most */
    SHMEMI_QUANT_GPU_PIECE = 1024,   /* bytes of codes in a message */
    SHMEMI_QUANT_GPU_MESSAGE = 1152, /* and with 32 scales behind them: of a message at most */
    /* of a slot: 10 lines of 120 bytes of data, or as many pairs of 8 bytes */
    SHMEMI_QUANT_GPU_SLOT_LINES = 1280,
    SHMEMI_QUANT_GPU_SLOT_PAIRS = 2304,
    /* The stage of a PE begins with words of 8 bytes: 0 counts blocks that have ended; from 1 on, by world number, calls
     * made together with that PE, and how that PE has begun a call. Then, from this boundary on, an area of slots for each
     * sender, by world number: whatever the teams and sizes of calls, a slot has one sender, and so no round twice. */
    SHMEMI_QUANT_GPU_ALIGN = 128,
    /* Messages of one call in a slot: their number and the calls made so far are the round of a packet. */
    SHMEMI_QUANT_GPU_STEP_BITS = 10,
    SHMEMI_QUANT_GPU_ROWS_WARPS = 8 /* of a block of the codec alone */
};
#define SHMEMI_QUANT_GPU_COUNTS 8ull
#define SHMEMI_QUANT_GPU_ARRIVALS(npes) (8ull + 8ull * (npes))
#define SHMEMI_QUANT_GPU_SLOTS(npes)                                                                         \
    ((8ull + 16ull * (npes) + SHMEMI_QUANT_GPU_ALIGN - 1) / SHMEMI_QUANT_GPU_ALIGN * SHMEMI_QUANT_GPU_ALIGN)

/* Shared memory of a block: what its members are, then two messages for each warp. */
#define SHMEMI_QUANT_GPU_SHARED(warps)                                                                       \
    (SHMEMI_QUANT_GPU_MEMBERS * 12u + (warps) * 2u * SHMEMI_QUANT_GPU_MESSAGE)

enum shmemi_quant_gpu_kind {
    SHMEMI_QUANT_GPU_ONE_SHOT, /* allreduce: everybody shows everything */
    SHMEMI_QUANT_GPU_TWO_SHOT, /* allreduce: reduce-scatter, then all-gather */
    SHMEMI_QUANT_GPU_REDUCE_SCATTER,
    SHMEMI_QUANT_GPU_ALLGATHER,
    SHMEMI_QUANT_GPU_ALLTOALL,
    SHMEMI_QUANT_GPU_BROADCAST
};
/* enum shmemx_quant_format, and one more: elements as they are */
enum { SHMEMI_QUANT_GPU_INT8, SHMEMI_QUANT_GPU_E4M3, SHMEMI_QUANT_GPU_RAW };

struct shmemi_quant_coll {
    shmemi_quant_u64 dest, source, residual; /* addresses; residual 0 = none */
    shmemi_quant_u64 nelems;                 /* of a block */
    shmemi_quant_u64 stage;                  /* offset in each copy of the heap */
    shmemi_quant_u64 area;                   /* bytes of the slots for one sender */
    unsigned team;                           /* number in the device's table */
    unsigned kind, format;
    unsigned group;     /* elements a scale; 0 = the record has one */
    unsigned record;    /* elements of a record: one or more pieces, the last may be shorter */
    unsigned pieces;    /* messages of a record */
    unsigned workers;   /* warps at work, on every member */
    unsigned regions;   /* a worker has so many times `pieces` slots for what each PE sends it */
    unsigned slot;      /* bytes of one */
    unsigned root;      /* of a broadcast */
    unsigned signature; /* what must be the same on all members */
    unsigned strict;    /* what is not finite is an error */
    float factor;       /* of a sum */
};

struct shmemi_quant_rows {
    shmemi_quant_u64 rows, row_stride; /* records; bytes */
    shmemi_quant_u64 x, x_stride;      /* elements; bytes */
    shmemi_quant_u64 nrows, cols;
    unsigned format, group;
    unsigned nonfinite; /* enum shmemx_nonfinite_t */
};

#endif
