/* What the tests of MoE on GPUs without one share (fake_moe.c, fake_moe_calls.c): they run on fake_cuda.c, and
 * this file stands for the kernels. */
#ifndef TESTS_FAKE_MOE_H
#define TESTS_FAKE_MOE_H

#include "fake_launch.h"
#include "gpu/moe_normal_args.h"
#include "shmemx_moe_gpu.h"
#include "shmemx_moe_ll.h"

static _Alignas(16) char memory[64]; /* stands for all buffers: nothing reads it */

/* What a dispatch finds: rows, or SHMEMI_MOEN_NO_..; silent: it never says. */
static struct {
    uint32_t rows;
    int experts, report; /* numbers of experts to say, and what it leaves in the mailbox */
    bool silent;
} play;

static void report(unsigned kind)
{
    *mailbox = (struct shmemx_device_error){
        .call = SHMEMX_DEVICE_CALL_MOE_DISPATCH, .pe = -1, .value = 3, .expected = 8};
    mailbox->kind = kind;
}

static void kernel(const char *name, unsigned blocks, unsigned threads, unsigned shared, void **arguments)
{
    (void)threads, (void)shared;
    count_launch(name, blocks);
    bool dispatch = strncmp(name, "shmem_k_moe_dispatch", strlen("shmem_k_moe_dispatch")) == 0;
    if (!dispatch || play.silent)
        return;
    const struct shmemi_moen *o = arguments[0];
    const struct shmemi_moen_dispatch *a = arguments[1];
    uint64_t *host = (void *)(uintptr_t)a->result.host, ticket = (uint64_t)a->ticket << 32;
    if (play.report)
        report((unsigned)play.report);
    host[0] = ticket | play.rows;
    for (int e = 0; e < play.experts && o->most; ++e)
        host[1 + e] = ticket | (unsigned)(10 + e);
}

static void start(void)
{
    start_with(kernel);
}

#define LAUNCHES(call, name) LAUNCHES_KERNEL(call, "shmem_k_moe_" name)

static shmemx_moe_gpu_config_t gpu_config(void)
{
    return (shmemx_moe_gpu_config_t){.team = SHMEM_TEAM_WORLD,
                                     .results = 2,
                                     .group = 128,
                                     .hidden = 256,
                                     .num_experts = 7,
                                     .topk = 2,
                                     .max_tokens = 32,
                                     .capacity = 64,
                                     .pes_per_node = npes};
}
static inline shmemx_moe_ll_config_t ll_config(void)
{
    return (shmemx_moe_ll_config_t){.team = SHMEM_TEAM_WORLD,
                                    .format = SHMEMX_MOE_GPU_FP8,
                                    .group = 128,
                                    .hidden = 256,
                                    .num_experts = 7,
                                    .topk = 2,
                                    .max_tokens = 32};
}

enum { SEND = SHMEMX_MOE_LL_SEND, RECV = SHMEMX_MOE_LL_RECV, BOTH = SEND | RECV };
#define HANDLE .handle = {memory, memory, memory}

#endif
