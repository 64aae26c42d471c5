/* Registered host memory beside a GPU heap: registered before the heap opens and after, source and target of
 * stream-ordered puts and gets, errors, finalize. Run as gpu_heap.c is. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "shmemx.h"

static int me, npes, right;
static int (*wait_for_stream)(void *); /* cuStreamSynchronize */
enum { N = 100000, PAGE = 4096 };

static int *pages(size_t bytes)
{
    return aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE);
}

static size_t wrong(const int *p, int salt)
{
    size_t bad = 0;
    for (int i = 0; i < N; ++i)
        bad += p[i] != i * 7 + salt;
    return bad;
}

/* Mine to the right by a stream, and back. */
static void carry(int *source, int *target, int *gpu, const char *when)
{
    for (int i = 0; i < N; ++i) {
        source[i] = i * 7 + me;
        target[i] = 0;
    }
    CHECK(shmemx_put_on_stream(gpu, source, N * sizeof *source, right, NULL) == 0, "%s: %s", when,
          shmemx_last_error());
    CHECK(shmemx_get_on_stream(target, gpu, N * sizeof *target, right, NULL) == 0, "%s: %s", when,
          shmemx_last_error());
    CHECK(wait_for_stream(NULL) == 0, "%s", when);
    CHECK(wrong(target, me) == 0, "%s: %zu wrong", when, wrong(target, me));
    shmem_barrier_all();
}

static void job(int round)
{
    shmem_init();
    me = shmem_my_pe();
    npes = shmem_n_pes();
    right = (me + 1) % npes;
    int *early = pages(N * sizeof *early), *late = pages(N * sizeof *late), *gpu;
    CHECK(shmemx_buffer_register(early, N * sizeof *early) == 0, "%s", shmemx_last_error());
    gpu = shmemx_malloc(N * sizeof *gpu, SHMEMX_MEM_DEVICE);
    CHECK(gpu, "%s", shmemx_last_error());
    CHECK(shmemx_buffer_register(late, N * sizeof *late) == 0, "%s", shmemx_last_error());
    carry(early, late, gpu, "early to late");
    /* blocking gets of the same bytes, through the registered buffer as any other */
    CHECK(shmemx_get(SHMEM_CTX_DEFAULT, early, gpu, N * sizeof *early, right) == 0 && wrong(early, me) == 0,
          "%zu wrong: %s", wrong(early, me), shmemx_last_error());
    shmem_barrier_all();
    CHECK(shmemx_get(SHMEM_CTX_DEFAULT, late, gpu, N * sizeof *late, me) == 0 &&
              wrong(late, (me + npes - 1) % npes) == 0,
          "%zu wrong: %s", wrong(late, (me + npes - 1) % npes), shmemx_last_error());
    shmemx_log_errors(0);
    CHECK(shmemx_buffer_register(gpu, 8) == SHMEMX_ERR_ARGUMENT && strstr(shmemx_last_error(), "GPU heap"),
          "%s", shmemx_last_error());
    CHECK(shmemx_buffer_register(early + 10, 8) == SHMEMX_ERR_ARGUMENT, "%s", shmemx_last_error());
    CHECK(shmemx_buffer_unregister(late + 1) == SHMEMX_ERR_ADDRESS, "%s", shmemx_last_error());
    shmemx_log_errors(1);
    CHECK(shmemx_buffer_unregister(early) == 0, "%s", shmemx_last_error());
    CHECK(shmemx_buffer_register(early, N * sizeof *early) == 0, "again: %s", shmemx_last_error());
    if (round == 0) /* the second time finalize does it */
        CHECK(shmemx_buffer_unregister(early) == 0 && shmemx_buffer_unregister(late) == 0, "%s",
              shmemx_last_error());
    shmem_barrier_all();
    shmem_free(gpu);
    shmem_finalize();
    free(early);
    free(late);
}

int main(void)
{
    void *lib = dlopen("libcuda.so.1", RTLD_NOW);
    *(void **)&wait_for_stream = lib ? dlsym(lib, "cuStreamSynchronize") : NULL;
    if (!CHECK(wait_for_stream, "no libcuda.so.1"))
        return check_done();
    for (int round = 0; round < 3; ++round)
        job(round);
    return check_done();
}
