/* Quantized collectives: the codec that they are written over, the stages that their bytes pass through, and what a call
 * carries along. Layer: coll, over int8 and team.
 *
 *   quant_coll.c      the public calls: checks and agreement
 *   quant_exchange.c  who packs, fetches and adds up what, chunk by chunk
 *   quant_codec.c     elements to records and back
 *   quant_stage.c     who has which stage
 *   quant_stream.c    the same on GPU memory: checks, then kernels of gpu/quant_coll.cuh and gpu/quant_rows.cuh
 */
#ifndef SHMEMI_QUANT_H
#define SHMEMI_QUANT_H

#include "coll.h"
#include "int8.h"
#include "shmemx_quant.h"

/* ---- the codec ---------------------------------------------------------------------------------------------------- */

/* Elements travel as they are: one more format beside those of enum shmemx_quant_format. */
enum { SHMEMI_QUANT_RAW = SHMEMX_QUANT_FORMATS };

/* How elements are packed: n elements become records of `record` elements, the last one shorter. */
struct shmemi_codec {
    int format;
    int dtype; /* of the user's elements, and of raw records */
    int on_nonfinite;
    size_t group, record;
    const struct shmemi_int8_kernels *k;
};

/* Bytes of n elements, a multiple of 16; those of one record must have been asked for before. */
size_t shmemi_codec_bytes(const struct shmemi_codec *c, size_t n);
/* Packs n <= record elements of x, which are of `dtype`, into one record. Returns n, or with SHMEMX_NONFINITE_ERROR the
 * place of the first NaN or infinity. */
size_t shmemi_codec_encode(const struct shmemi_codec *c, void *record, const void *x, int dtype, size_t n);
/* Unpacks a record of n elements into elements of `dtype`. */
void shmemi_codec_decode(const struct shmemi_codec *c, void *out, int dtype, const void *record, size_t n);
/* Where the first NaN or infinity of n elements is; n = nowhere. */
size_t shmemi_first_nonfinite(const void *x, int dtype, size_t n);
/* acc[i] += element i, in float32. */
void shmemi_codec_add(const struct shmemi_codec *c, float *acc, const void *record, size_t n);

/* ---- stages ------------------------------------------------------------------------------------------------------- */

/* Memory at the end of the library's part of each heap, where peers find what a call shows them. A call takes one for
 * itself; which one it got it tells the others in its first note, so PEs need not take the same one. */
enum { SHMEMI_STAGES = 8 };
#define SHMEMI_STAGE_BYTES ((size_t)2 << 20)

/* LIMIT where all are taken: to wait for one could be to wait for a PE that waits for this one, in another team.
 * *offset: in the host segment. */
int shmemi_stage_take(const char *call, uint64_t *offset);
void shmemi_stage_give(uint64_t offset);

/* ---- a call ------------------------------------------------------------------------------------------------------- */

/* The element range [from, from + n) of source or dest that one member adds up, or gives, in a chunk. */
struct shmemi_span {
    size_t from, n;
};

struct shmemi_quant {
    const char *call;
    struct shmemi_team *t;
    uint64_t tag;
    int kind; /* enum shmemi_collective */
    int dtype, root;
    size_t size, nelems; /* bytes of an element; elements of a block */
    struct shmemi_codec codec;
    shmemx_quant_t how;
    float factor; /* of the sum */
    unsigned char *dest;
    const unsigned char *source;
    float *residual;
    /* Chosen by sizes and PEs, alike on all members: */
    bool in_notes; /* what is shown fits into a note */
    bool one_shot; /* allreduce: everybody shows its whole vector */
    size_t block;  /* elements of a span at most */
    /* The stage, and what is where in it, as offsets: room for two records of float32; where every member's stage is;
     * elements as they are, for the members of this node; records for others; the record of the result, or of a block
     * for all; what has been fetched from other nodes. */
    uint64_t stage;
    unsigned char *base;
    size_t work, stages, raw, out, result, fetched;
    size_t stride;     /* bytes of a span's records */
    size_t raw_stride; /* and of its elements in `raw` */
    size_t raw_size;   /* of an element there; 0 = nothing is put there */
    int raw_dtype;
    /* the first meeting: what its note shows beside, and whether it is over */
    const unsigned char *payload;
    size_t payload_bytes;
    bool all_direct; /* every member's buffers are symmetric, and what is not quantized can go straight */
    bool gpu;        /* dest, source and residual are GPU memory */
    bool agreed, refused; /* refused: an error of this PE's has been told to the others */
};

/* quant_coll.c: a call's arguments, `how` NULL = the defaults; 0, or the team is none. */
int shmemi_quant_called(struct shmemi_quant *q, const char *call, int kind, shmem_team_t team, void *dest,
                        const void *source, size_t nelems, int dtype, int root, const shmemx_quant_t *how,
                        float *residual);
/* The first meeting of a call, in which every member shows how it was called, where its stage is, and the
 * payload. On return all agree and know all stages, or all return MISMATCH. */
int shmemi_quant_agree(struct shmemi_quant *q);
enum { SHMEMI_QUANT_HELLO = 80 }; /* bytes of a note before the payload */
/* The arguments of a call: 0, or what is wrong. Fills in `size`. */
int shmemi_quant_check(struct shmemi_quant *q);
/* quant_stream.c: the call on GPU memory, in the order of the stream; `team` is t's handle. */
int shmemi_quant_on_stream(struct shmemi_quant *q, shmem_team_t team, void *stream);
/* quant_exchange.c: the call, once its arguments have been checked and it has a stage. */
int shmemi_quant_exchange(struct shmemi_quant *q, shmem_team_t team);
/* Not quantized, on one node, and this PE's buffers are such that the calls of shmemx.h take them. */
bool shmemi_quant_direct(const struct shmemi_quant *q);

#endif
