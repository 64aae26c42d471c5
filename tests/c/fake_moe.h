/* What the tests of MoE on GPUs without one share (fake_moe.c, fake_moe_calls.c): they run on fake_cuda.c, and
 * this file stands for the kernels. */
#ifndef TESTS_FAKE_MOE_H
#define TESTS_FAKE_MOE_H

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "device/state.h"
#include "gpu/moe_normal_args.h"
#include "shmemx.h"
#include "shmemx_moe_gpu.h"
#include "shmemx_moe_ll.h"
#include "shmemx_stream.h"

static int me, npes, last;
static unsigned launches, blocks_of_launch;
static char launched[40];
static void (*on_launch)(void (*kernel)(const char *, unsigned, unsigned, unsigned, void **));
static struct shmemx_device_error *mailbox;
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
    launches++;
    blocks_of_launch = blocks;
    snprintf(launched, sizeof launched, "%s", name);
    if (strcmp(name, "shmem_k_moe_dispatch") != 0 || play.silent)
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
    struct shmemx_device_state state;
    shmem_init();
    me = shmem_my_pe();
    npes = shmem_n_pes();
    last = npes - 1;
    check_pe = me;
    CHECK(shmemx_device_state(&state, sizeof state) == 0, "%s", shmemx_last_error());
    mailbox = (void *)(uintptr_t)state.mailbox;
    on_launch(kernel);
}

/* That error, a message with that text, and no launch. */
static void refused_at(int line, int64_t rc, int code, const char *text)
{
    static unsigned before;
    CHECK(rc == code && strstr(shmemx_last_error(), text), "line %d: gave %lld, not %d with \"%s\": %s", line,
          (long long)rc, code, text, shmemx_last_error());
    CHECK(launches == before || line < 0, "line %d: launched %s", line, launched);
    before = launches;
}
#define REFUSED(call, code, text)                                                                            \
    (refused_at(-1, 0, 0, ""), refused_at(__LINE__, call, SHMEMX_ERR_##code, text))
static inline void launches_at(int line, int rc, const char *name)
{
    static unsigned before;
    if (line >= 0)
        CHECK(rc == 0 && launches == before + 1 && strcmp(launched, name) == 0,
              "line %d: gave %d, launched %s: %s", line, rc, launched, shmemx_last_error());
    before = launches;
}
#define LAUNCHES(call, name) (launches_at(-1, 0, ""), launches_at(__LINE__, call, "shmem_k_moe_" name))

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

/* Finds the fake driver; false: this is none. */
static bool on_the_fake_driver(void)
{
    void *lib = dlopen("libcuda.so.1", RTLD_NOW);
    *(void **)&on_launch = lib ? dlsym(lib, "fake_cuda_on_launch") : NULL;
    return CHECK(on_launch, "this is no fake libcuda.so.1");
}

#endif
