/* What the objects of shmemx_moe_gpu.h (moe_gpu.c) and their calls (moe_gpu_calls.c) share. Layer: moe. */
#ifndef SHMEMI_MOE_GPU_H
#define SHMEMI_MOE_GPU_H

#include "gpu/moe_normal_levels.h"
#include "moe_agree.h"
#include "shmemx_moe_gpu.h"

/* BLOCKS: 24 SMs' copy engines give three times what NVLink takes, and their warps keep up with quantizing. */
enum { SHMEMI_MOE_GPU_RESULTS = 64, SHMEMI_MOE_GPU_BLOCKS = 24 };

struct shmemx_moe_gpu {
    struct shmemi_moe_object base;
    shmemx_moe_gpu_config_t c;
    int ranks, me;                    /* ranks 0: this PE is no member and only holds its share of the heap */
    struct shmemi_moen object;        /* of all ranks; between nodes only a layout's tables are asked of it */
    struct shmemi_moen_levels levels; /* nodes 0: there is one level, `object` */
    shmem_team_t within, between;     /* their teams */
    struct shmemi_moen_result result[SHMEMI_MOE_GPU_RESULTS];
    uint64_t *host; /* pinned: [results][1 + most], then [results] what came between nodes */
    unsigned tickets[SHMEMI_MOE_GPU_RESULTS]; /* of the last dispatch into each; 0 = none */
    unsigned ticket;
    shmemx_moe_gpu_info_t info;
};

/* The object, if it lives and this PE is a member; else NULL, *rc set and logged. */
struct shmemx_moe_gpu *shmemi_moe_gpu_find(const char *call, struct shmemx_moe_gpu *moe, int *rc);
/* `name` is `value`, must be `want`. */
int shmemi_moe_gpu_bad(const char *call, const char *name, int64_t value, const char *want);
int shmemi_moe_gpu_check_result(const char *call, const struct shmemx_moe_gpu *m, int i);
int shmemi_moe_gpu_check_tokens(const char *call, const struct shmemx_moe_gpu *m, int64_t tokens);

static inline bool shmemi_moe_gpu_is_group(int64_t group)
{
    return group == 32 || group == 64 || group == 128;
}
static inline void *shmemi_moe_gpu_pointer(uint64_t address)
{
    return (void *)(uintptr_t)address;
}
/* Where the kernels between the nodes say how many rows a dispatch into that result has brought. */
static inline uint64_t *shmemi_moe_gpu_staged(const struct shmemx_moe_gpu *m, int result)
{
    return m->host + (size_t)m->c.results * (1 + m->object.most) + result;
}

#endif
