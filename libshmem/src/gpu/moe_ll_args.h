/* What the host passes to the low-latency MoE kernels (moe_ll.cuh): plain C, fixed widths, no padding inside. */
#ifndef SHMEMI_GPU_MOE_LL_ARGS_H
#define SHMEMI_GPU_MOE_LL_ARGS_H

typedef unsigned long long shmemi_moe_u64;

/* An object. Its memory on each PE is two halves, used in turn by the rounds; a half has, for each rank that sends,
 *     maps      one message: for each local expert a bit a token, has it chosen that expert; then a bit a token, has it
 *               chosen any of them
 *     rows      max_tokens messages: a token's record (moe_ll.cuh)
 *     back      max_tokens messages: the sum of a token's rows on that rank
 *     weights   max_tokens messages: a token's weights, where combine brings them
 * Offsets below are from the half's begin, sizes are of one message on the wire. */
struct shmemi_moe_ll {
    unsigned team; /* number in the device's table */
    unsigned hidden, experts, topk, max_tokens;
    unsigned group;         /* columns of a scale */
    unsigned ue8m0;         /* FP8: scales are powers of two */
    unsigned how, back_how; /* enum format of moe_quant.cuh, out and back */
    /* Bytes of a record's parts, out and back; heads are whole groups of the wire. */
    unsigned head, row, back_head, back_row;
    unsigned maps, any_at,
        bit_words;       /* of that message: bytes, where the last bits begin, words of 4 bytes of each */
    unsigned most_local; /* experts that a rank has at most */
    unsigned dispatch_shared, combine_shared; /* shared memory of a block */
    shmemi_moe_u64 block;                     /* this PE's copy of the object's memory */
    shmemi_moe_u64 half;                      /* bytes */
    shmemi_moe_u64 maps_at, maps_bytes, rows_at, row_bytes, back_at, back_bytes, weights_at, weights_bytes;
    shmemi_moe_u64
        acks_at; /* from the block's begin: uint64 [2][ranks], rounds that a rank has received: dispatch, combine */
    shmemi_moe_u64 local;      /* struct shmemi_moe_ll_local */
    shmemi_moe_u64 timeout_ns; /* deadline of a wait for a rank; 0 = none */
    /* Ranks, a bit each, whose memory is not mapped here: a NIC's path brings them their messages. Where there are some,
     * further memory of the object's, two halves too, has for each message that comes so
     *     words     uint64, the round whose message is here: [ranks] maps, then [ranks][max_tokens] rows, back, weights
     * and for each message that goes so its bytes, which the NIC reads:
     *     mirrors   maps [ranks], rows [max_tokens], back [ranks][max_tokens], weights [max_tokens]
     * From the block's begin, of half 0. */
    shmemi_moe_u64 far;
    shmemi_moe_u64 far_half; /* bytes */
    shmemi_moe_u64 words_at, maps_mirror, rows_mirror, back_mirror, weights_mirror;
};

static inline unsigned shmemi_moe_ll_up(unsigned n, unsigned multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}
static inline shmemi_moe_u64 shmemi_moe_ll_area(shmemi_moe_u64 *at, shmemi_moe_u64 *each, unsigned bytes,
                                                unsigned count, unsigned data, unsigned wire,
                                                shmemi_moe_u64 end)
{
    *at = end;
    *each = (shmemi_moe_u64)((bytes + data - 1) / data) * wire;
    return end + *each * count;
}
/* Fills in everything that follows from hidden, experts, topk, max_tokens, group and the formats. A group of packets
 * holds `data` bytes and has `wire` on the way. Returns the bytes of the object's memory. */
static inline shmemi_moe_u64 shmemi_moe_ll_lay_out(struct shmemi_moe_ll *o, unsigned ranks, unsigned data,
                                                   unsigned wire)
{
    const unsigned scales = shmemi_moe_ll_up((o->hidden + o->group - 1) / o->group * 4, 8),
                   all = ranks * o->max_tokens;
    unsigned send, recv;
    shmemi_moe_u64 end = 0;
    o->head = shmemi_moe_ll_up(8 * o->topk + (o->how ? scales : 0), data);
    o->row = o->how ? o->hidden : o->hidden * 2;
    o->back_head = o->back_how ? shmemi_moe_ll_up(scales, data) : 0;
    o->back_row = o->back_how ? o->hidden : o->hidden * 2;
    o->most_local = (o->experts + ranks - 1) / ranks;
    o->bit_words = (o->max_tokens + 31) / 32;
    o->any_at = o->most_local * o->bit_words * 4;
    o->maps = shmemi_moe_ll_up(o->any_at + o->bit_words * 4, 8);
    end = shmemi_moe_ll_area(&o->maps_at, &o->maps_bytes, o->maps, ranks, data, wire, end);
    end = shmemi_moe_ll_area(&o->rows_at, &o->row_bytes, o->head + o->row, all, data, wire, end);
    end = shmemi_moe_ll_area(&o->back_at, &o->back_bytes, o->back_head + o->back_row, all, data, wire, end);
    end = shmemi_moe_ll_area(&o->weights_at, &o->weights_bytes, 4 * o->topk, all, data, wire, end);
    o->half = end;
    o->acks_at = 2 * end;
    /* As the kernels carve it up: ll_sender and ll_receiver; ll_returner and ll_adder. */
    send = 16 + shmemi_moe_ll_up(o->head + (o->how ? o->row : 0), 16) + 2 * o->hidden + o->maps;
    recv = ranks * (o->maps + shmemi_moe_ll_up(4 * o->most_local, 8)) + 2 * (o->head + 8 * o->topk);
    o->dispatch_shared = shmemi_moe_ll_up(send > recv ? send : recv, 128);
    send = o->back_head + (o->back_how ? o->back_row : 0) + 24 * o->topk + 8 + 4 * ranks * o->bit_words;
    recv = 8 + ranks * o->back_head;
    o->combine_shared = shmemi_moe_ll_up(send > recv ? send : recv, 128);
    return o->acks_at + 16 * (shmemi_moe_u64)ranks;
}

/* The same for what a NIC's path wants, behind the first `end` bytes of the object's memory. Returns the bytes of both. */
static inline shmemi_moe_u64 shmemi_moe_ll_lay_out_far(struct shmemi_moe_ll *o, unsigned ranks,
                                                       shmemi_moe_u64 end)
{
    const shmemi_moe_u64 all = (shmemi_moe_u64)ranks * o->max_tokens;
    o->words_at = (end + 127) / 128 * 128;
    o->maps_mirror = (o->words_at + 8 * (ranks + 3 * all) + 127) / 128 * 128;
    o->rows_mirror = o->maps_mirror + ranks * o->maps_bytes;
    o->back_mirror = o->rows_mirror + o->max_tokens * o->row_bytes;
    o->weights_mirror = o->back_mirror + all * o->back_bytes;
    o->far_half = o->weights_mirror + o->max_tokens * o->weights_bytes - o->words_at;
    return o->words_at + 2 * o->far_half;
}

/* In local GPU memory; written by kernels, zero at first. Index 0: dispatch, 1: combine. */
struct shmemi_moe_ll_local {
    shmemi_moe_u64 sent[2], received[2]; /* rounds done */
    shmemi_moe_u64 dead;                 /* a bit a rank: given up, or masked by the user */
    unsigned finished[2];                /* blocks of a launch that are done */
};

enum { SHMEMI_MOE_LL_SEND = 1, SHMEMI_MOE_LL_RECV = 2 };
/* Threads of a block, blocks a multiprocessor; of the kernels that know a NIC's path, which want more registers. */
enum {
    SHMEMI_MOE_LL_THREADS = 256,
    SHMEMI_MOE_LL_DISPATCH_BLOCKS = 4,
    SHMEMI_MOE_LL_COMBINE_BLOCKS = 2,
    SHMEMI_MOE_LL_FAR_BLOCKS = 2
};

/* What a dispatch leaves for its combine, in local memory of the caller's; R ranks, M = max_tokens, K = topk. */
struct shmemi_moe_ll_handle {
    shmemi_moe_u64
        choices; /* uint64 [R][M][K] for what came: weight's bits << 32 | row of the output, all ones = none */
    shmemi_moe_u64 present; /* uint32 [R][(M + 31) / 32]: bits of the tokens that came */
    shmemi_moe_u64 routed;  /* uint64 [M]: the ranks that each of my tokens went to, a bit each */
};

struct shmemi_moe_ll_dispatch {
    shmemi_moe_u64 x; /* BF16 [tokens][hidden], rows x_stride bytes apart, 16-byte aligned */
    shmemi_moe_u64 x_stride;
    shmemi_moe_u64 idx;     /* int32 or int64 [tokens][K], -1 = none */
    shmemi_moe_u64 weights; /* float [tokens][K], or 0 = 1 each */
    shmemi_moe_u64 recv_x;  /* [local experts][R * M][hidden] BF16 or 1 byte */
    shmemi_moe_u64
        recv_scales; /* the scale of (expert, row, group) at e * scale_expert + row * scale_row + group * scale_group
                                  bytes: a float; or with scale_packed a byte, the exponent, group g at
                                  g / 4 * scale_group + g % 4 */
    shmemi_moe_u64 scale_expert, scale_row, scale_group;
    shmemi_moe_u64 recv_count;  /* int32 [local experts] */
    shmemi_moe_u64 recv_source; /* int32 [local experts][R * M]: rank * M + token of each row; or 0 */
    struct shmemi_moe_ll_handle handle;
    unsigned tokens, wide_idx, scale_packed, phases;
};

struct shmemi_moe_ll_combine {
    shmemi_moe_u64 y; /* BF16 [local experts][R * M][hidden], 16-byte aligned */
    shmemi_moe_u64
        weights; /* float [tokens][K] of my tokens, brought to the experts now; 0 = those of the dispatch */
    shmemi_moe_u64 out; /* BF16 [tokens][hidden], rows out_stride bytes apart */
    shmemi_moe_u64 out_stride;
    struct shmemi_moe_ll_handle handle;
    unsigned tokens, phases;
};

#endif
