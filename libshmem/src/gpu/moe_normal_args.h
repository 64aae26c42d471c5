/* What the host passes to the MoE kernels for large batches (moe_normal.cuh): plain C, fixed widths, no padding inside.
 * R ranks, E experts, K choices a token, M = max_tokens. Addresses are of this PE's own copy. */
#ifndef SHMEMI_GPU_MOE_NORMAL_ARGS_H
#define SHMEMI_GPU_MOE_NORMAL_ARGS_H

typedef unsigned long long shmemi_moen_u64;

/* CHUNK: rows that a combine's flag stands for, as a power of two. A warp sends them and then waits for their arrival and for a
 * fence, some 5 us, of the 35 us that 8 rows of 14 KiB take where 96 warps share a link; and until the first chunks have come
 * nobody adds. On 2 H100, 24 blocks, chunks of 4, 8, 16 rows: 242, 212, 221 us. */
enum {
    SHMEMI_MOEN_CHUNK = 3,
    SHMEMI_MOEN_CHUNK_QUANTIZED = 2,
    SHMEMI_MOEN_STAGES = 3, /* of a ring: two are on their way while one is added, or more, at most */
    SHMEMI_MOEN_MOST_STAGES = 8,
    SHMEMI_MOEN_SLOTS =
        2, /* of a warp that quantizes, at most: what shared memory does not take is a cache */
    SHMEMI_MOEN_LISTS = 8, /* tokens that are looked up at once */
    SHMEMI_MOEN_TILE = 4,  /* tokens of each warp after which rows are put that go by a NIC */
    SHMEMI_MOEN_MAX_RANKS = 64,
    SHMEMI_MOEN_WINDOW = 8192 /* experts counted at a time */
};

/* enum shmemx_moe_gpu_format */
enum { SHMEMI_MOEN_BF16, SHMEMI_MOEN_INT8, SHMEMI_MOEN_FP8, SHMEMI_MOEN_BYTES };

/* Where rows wait for a NIC (moe_normal_far.cuh): symmetric memory of this PE, but `staged`. Those for rank j begin at row
 * j * M of each array. Dispatches and combines use it in turn; scales and the next are as in a result, weights are a combine's
 * as well. `staged`, 0 between kernels, counts the warps that have written their tokens of a tile. */
struct shmemi_moen_mirror {
    shmemi_moen_u64 far; /* bit j: rank j's memory is not mapped; 0 = all are, and there is nothing below */
    shmemi_moen_u64 x;   /* rows as they travel; a place has back_row bytes */
    shmemi_moen_u64 scales, topk_idx, topk_weights, source_token;
    shmemi_moen_u64 chosen; /* u64 [E]: `chosen` of all ranks, as this one tells it */
    shmemi_moen_u64 staged; /* unsigned [M / TILE + 1] */
};

/* An object, or one level of it. Between nodes there are two: the PEs of equal number on all nodes exchange a row for each
 * (token, node), then the PEs of a node a row for each (token, PE). R is the number of ranks that meet in the level: nodes, or
 * PEs of a node. In the second level a rank's tokens come from S sources, the nodes, one behind the other; S is 1 elsewhere.
 *
 * All words hold a round (from 1 on, in the upper half where there is a value below) and are never cleared;
 * row s of a matrix is written by rank s. */
struct shmemi_moen {
    unsigned team; /* number in the device's table */
    unsigned hidden, experts, topk, max_tokens, capacity;
    unsigned most;    /* experts of rank 0, which has the most; 0 = choices are not counted: between nodes */
    unsigned each;    /* a rank has the experts of so many shares: the PEs of a node, or 1 */
    unsigned sources; /* S */
    unsigned max_nodes;         /* ranks that a token may go to; more are reported; 0 = any number */
    shmemi_moen_u64 begun;      /* u64 [R]: round << 32 | what: that rank is in a dispatch, of this kind */
    shmemi_moen_u64 counts;     /* u64 [R][S][R]: round << 32 | rows from s to d */
    shmemi_moen_u64 chosen;     /* u64 [R][most]: round << 32 | choices of my experts by rank s */
    shmemi_moen_u64 arrived;    /* u64 [R]: round: all rows from rank s are here */
    shmemi_moen_u64 back_begun; /* u64 [R]: round: that rank is in a combine, and done with those before */
    shmemi_moen_u64
        chunks; /* u64 [R][M / 2^CHUNK_QUANTIZED, rounded up]: round: the rows of that chunk are back */
    shmemi_moen_u64 back; /* [2][R][M] rows, back_row bytes each: round n uses half n % 2 */
    shmemi_moen_u64 back_row;
    shmemi_moen_u64 back_weights; /* float [2][R][M][K] */
    shmemi_moen_u64 local;        /* struct shmemi_moen_local */
    struct shmemi_moen_mirror mirror;
};

/* In local GPU memory; zero at first, only kernels write it. */
struct shmemi_moen_local {
    shmemi_moen_u64 dispatches, combines; /* rounds done */
    shmemi_moen_u64 failed[2]; /* round of a dispatch, of a combine, in which a block has waited in vain */
    unsigned finished[2];      /* blocks of a launch that are done */
    unsigned taken, reserved;  /* chunks of a combine that warps have taken */
};

/* The head of a routing; then int32 arrays, each from a multiple of 16 bytes on (shmemi_moen_place_all):
 *     count [R][S][R], rows from s to d    sources [S], tokens from each
 *     chosen [most], of my experts by all ranks    mine [E], choices of my tokens
 *     pos [T][R], the token's number among those of mine that go to r, or -1 */
struct shmemi_moen_routing {
    int valid; /* 1: dispatched */
    int tokens, reserved[2];
};
#ifdef __CUDACC__
#define SHMEMI_MOEN_FN __host__ __device__ static inline
#else
#define SHMEMI_MOEN_FN static inline
#endif
struct shmemi_moen_places {
    shmemi_moen_u64 count, sources, chosen, mine, pos; /* bytes from the routing's begin */
};
SHMEMI_MOEN_FN struct shmemi_moen_places shmemi_moen_place_all(const struct shmemi_moen *o, unsigned ranks)
{
    struct shmemi_moen_places p;
    p.count = sizeof(struct shmemi_moen_routing);
    p.sources = p.count + ((shmemi_moen_u64)ranks * o->sources * ranks + 3) / 4 * 16;
    p.chosen = p.sources + ((shmemi_moen_u64)o->sources + 3) / 4 * 16;
    p.mine = p.chosen + ((shmemi_moen_u64)o->most + 3) / 4 * 16;
    p.pos = p.mine + ((shmemi_moen_u64)o->experts + 3) / 4 * 16;
    return p;
}

/* One of a receive buffer's arrays each, and where the host looks. */
struct shmemi_moen_result {
    shmemi_moen_u64 x, scales, topk_idx, topk_weights, source_token; /* symmetric */
    shmemi_moen_u64 rows, per_expert, per_source;                    /* int32, local */
    shmemi_moen_u64
        host; /* u64 [1 + most], pinned: ticket << 32 | rows or SHMEMI_MOEN_NO_..; choices of each expert */
};
enum {
    SHMEMI_MOEN_MOST_ROWS = 0x7ffffff0, /* more are: */
    SHMEMI_MOEN_NO_ROOM = 0x7ffffff1,
    SHMEMI_MOEN_NO_PEER,
    SHMEMI_MOEN_NO_MATCH
};

struct shmemi_moen_layout {
    shmemi_moen_u64 idx;     /* int32 or int64 [tokens][K] */
    shmemi_moen_u64 routing; /* or 0, as the others */
    shmemi_moen_u64 per_rank, per_expert, in_rank;
    shmemi_moen_u64 sources; /* int32 [S], tokens from each; 0 = S is 1 and there are `tokens` */
    unsigned tokens, wide;   /* wide: ids have 64 bits */
};
enum { SHMEMI_MOEN_ROUTED = 0x7fffffff }; /* as `tokens` below: as many as the routing says */

/* The dynamic shared memory of a block: `head` bytes, then for each warp that sends `slots` slots of `slot` bytes, and `side`
 * bytes; no slots: rows are copied as vectors. A slot: the row, or a part of it, as it comes, then at `values` as it travels; at
 * `scales` scales that come with it. Those of rows that are quantized are gathered at the side, two rows in turn. */
struct shmemi_moen_pipe {
    unsigned head, slot, slots, warps;
    unsigned values, scales, side, reserved;
};

/* The shared memory of a combine's block that only adds, behind the tables: at `words`, completion words (two for each stage,
 * four for the lists) and a list of addends for each stage, and the lists of the warp that looks up; at `at`, the stages, each up
 * to `rows` parts of rows, a part one in `parts` of a row, `stage` bytes apart. Blocks from `senders` on are such; senders = 0:
 * there are none, each block sends and adds. */
struct shmemi_moen_ring {
    unsigned senders, at, words, parts, rows, stage, stages, reserved;
};

struct shmemi_moen_dispatch {
    struct shmemi_moen_result result;
    struct shmemi_moen_pipe pipe;
    shmemi_moen_u64 routing;
    shmemi_moen_u64 x, x_stride;
    shmemi_moen_u64 x_scales, x_scales_row, x_scales_column; /* bytes; 0 = none */
    shmemi_moen_u64 idx, weights;                            /* 0 = do not travel */
    shmemi_moen_u64 numbers; /* int32 [tokens] that become source_token; 0 = a token's own */
    unsigned tokens, wide;
    unsigned format, row_bytes;                 /* as the row travels */
    unsigned group, groups, scale_bytes, ue8m0; /* scale_bytes: of a row, a multiple of 16; 0 = no scales */
    unsigned bulk_scales;                       /* the caller's scale rows may be loaded by the copy engine */
    unsigned cached, worst_case, alignment;
    unsigned what, ticket; /* what: of `begun` */
    unsigned ones;         /* where ids travel and weights are 0, weights of 1 do */
    unsigned parts;        /* a row that is quantized is taken in so many parts, a slot each; else 1 */
    unsigned abroad,
        reserved; /* so many blocks send to the other ranks only, the others to the own; 0: all to all */
};

struct shmemi_moen_combine {
    struct shmemi_moen_pipe pipe;
    struct shmemi_moen_ring ring;
    shmemi_moen_u64 routing;
    shmemi_moen_u64 y, y_stride;
    shmemi_moen_u64 weights, out_weights; /* float [rows][K], [tokens][K], or 0 */
    shmemi_moen_u64 idx, topk_weights;    /* or 0 */
    shmemi_moen_u64 bias[2];
    shmemi_moen_u64 out, out_stride;
    unsigned tokens, wide;
    unsigned format, row_bytes; /* as the row travels, scales included */
    unsigned group, shift;      /* columns of a scale are 1 << shift; 31 = the row */
    unsigned parts, chunk; /* a row is sent in so many parts, a slot each; chunks are of 1 << chunk rows */
};

/* Rows of x, or of zeros, one behind the other. Addresses; rows of x have no gaps. */
struct shmemi_moen_gather {
    shmemi_moen_u64 x, scales, scales_row; /* scales_row: bytes from row to row */
    shmemi_moen_u64 source;                /* int64 [rows]: of x, -1 = zeros; 0 = row r is of row r */
    shmemi_moen_u64 out, rows;             /* BF16, but BYTES stay as they are */
    shmemi_moen_u64 rows_at;               /* int32: how many of those rows there are; 0 = all */
    unsigned hidden, format, group, reserved;
};
/* For each row the sum of the rows of y that `position` names, times weights, in the order of the choices. */
struct shmemi_moen_sum {
    shmemi_moen_u64 y, y_stride;
    shmemi_moen_u64 position, weights; /* int64 [rows][K], -1 = none; float [rows][K], 0 = all are 1 */
    shmemi_moen_u64 out, rows, rows_at;
    unsigned hidden, topk;
};

#endif
