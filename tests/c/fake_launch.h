/* What the tests of calls that launch kernels share, without a GPU: on fake_cuda.c, where the test stands for kernels. */
#ifndef TESTS_FAKE_LAUNCH_H
#define TESTS_FAKE_LAUNCH_H

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "device/state.h"
#include "shmemx.h"
#include "shmemx_stream.h"

typedef void kernel_fn(const char *name, unsigned blocks, unsigned threads, unsigned shared,
                       void **arguments);

static int me, npes, last;
static unsigned launches, blocks_of_launch;
static char launched[40];
static void (*on_launch)(kernel_fn *kernel);
static struct shmemx_device_error *mailbox;

/* Every kernel calls it first. */
static inline void count_launch(const char *name, unsigned blocks)
{
    launches++;
    blocks_of_launch = blocks;
    snprintf(launched, sizeof launched, "%s", name);
}

/* Finds the fake driver; false: this is none. */
static bool on_the_fake_driver(void)
{
    void *lib = dlopen("libcuda.so.1", RTLD_NOW);
    *(void **)&on_launch = lib ? dlsym(lib, "fake_cuda_on_launch") : NULL;
    return CHECK(on_launch, "this is no fake libcuda.so.1");
}

static void start_with(kernel_fn *kernel)
{
    struct shmemx_device_state state;
    shmem_init();
    me = shmem_my_pe();
    npes = shmem_n_pes();
    last = npes - 1;
    check_pe = me;
    on_launch(kernel); /* paths to other nodes launch one as they open */
    CHECK(shmemx_device_state(&state, sizeof state) == 0, "%s", shmemx_last_error());
    mailbox = (void *)(uintptr_t)state.mailbox;
}

/* That error, a message with that text, and no launch. */
static inline void refused_at(int line, int64_t rc, int code, const char *text)
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
#define LAUNCHES_KERNEL(call, name) (launches_at(-1, 0, ""), launches_at(__LINE__, call, name))

#endif
