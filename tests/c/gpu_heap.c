/* The GPU heap from the host: allocation, growth and return, puts and gets in all four directions, signals and misuse,
 * with SHMEM_DEVICE_SHARING=vmm and =ipc. Needs a GPU, any number of PEs on any number of GPUs; built everywhere, run by
 * `ctest -L gpu` where there is one, by `ctest -L fake` on fake_cuda.c. Argument: MiB of the smallest block of the growth
 * test, 20 by default. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "shmemx.h"

static int me, npes, right;
static size_t unit = (size_t)20 << 20;
static bool fixed; /* one allocation, which does not grow */

static void fill(unsigned char *p, size_t n, int salt)
{
    for (size_t i = 0; i < n; ++i)
        p[i] = (unsigned char)(i * 31 + i / 251 + (size_t)salt);
}

static size_t wrong(const unsigned char *p, size_t n, int salt)
{
    size_t bad = 0;
    for (size_t i = 0; i < n; ++i)
        bad += p[i] != (unsigned char)(i * 31 + i / 251 + (size_t)salt);
    return bad;
}

/* host -> GPU, GPU -> GPU, GPU -> host heap, back to plain host memory; each byte checked. */
static void test_directions(size_t n)
{
    unsigned char *plain = malloc(n);
    unsigned char *host = shmem_malloc(n), *gpu = shmemx_malloc(n, SHMEMX_MEM_DEVICE),
                  *gpu2 = shmemx_malloc(n, SHMEMX_MEM_DEVICE);
    CHECK(host && gpu && gpu2 && plain, "%zu bytes: %s", n, shmemx_last_error());
    int left = (me + npes - 1) % npes;
    fill(plain, n, me);
    CHECK(shmemx_put(SHMEM_CTX_DEFAULT, gpu, plain, n, right) == 0, "%s", shmemx_last_error());
    shmem_barrier_all();
    memset(plain, 0, n);
    CHECK(shmemx_get(SHMEM_CTX_DEFAULT, plain, gpu, n, me) == 0, "%s", shmemx_last_error());
    CHECK(wrong(plain, n, left) == 0, "host to GPU, %zu bytes: %zu wrong", n, wrong(plain, n, left));
    /* my GPU memory (from the left) to the right's second block */
    CHECK(shmemx_put_nbi(SHMEM_CTX_DEFAULT, gpu2, gpu, n, right) == 0, "%s", shmemx_last_error());
    shmem_quiet();
    shmem_barrier_all();
    /* from GPU memory into the right's host heap */
    CHECK(shmemx_put(SHMEM_CTX_DEFAULT, host, gpu2, n, right) == 0, "%s", shmemx_last_error());
    shmem_barrier_all();
    int origin = (me + 3 * npes - 3) % npes;
    CHECK(wrong(host, n, origin) == 0, "GPU to GPU to host, %zu bytes: %zu wrong", n, wrong(host, n, origin));
    /* get from the right's GPU memory into my GPU memory */
    CHECK(shmemx_get(SHMEM_CTX_DEFAULT, gpu2, gpu, n, right) == 0, "%s", shmemx_last_error());
    memset(plain, 0, n);
    CHECK(shmemx_get(SHMEM_CTX_DEFAULT, plain, gpu2, n, me) == 0, "%s", shmemx_last_error());
    CHECK(wrong(plain, n, me) == 0, "get GPU to GPU, %zu bytes: %zu wrong", n, wrong(plain, n, me));
    /* and from host memory of the right into my GPU memory */
    CHECK(shmemx_get(SHMEM_CTX_DEFAULT, gpu2, host, n, right) == 0, "%s", shmemx_last_error());
    memset(plain, 0, n);
    CHECK(shmemx_get(SHMEM_CTX_DEFAULT, plain, gpu2, n, me) == 0, "%s", shmemx_last_error());
    CHECK(wrong(plain, n, (origin + 1) % npes) == 0, "get host to GPU, %zu bytes", n);
    shmem_barrier_all();
    shmem_free(gpu2);
    shmem_free(gpu);
    shmem_free(host);
    free(plain);
}

/* A heap of fixed size: all of it can be had, no byte more, and the message says why. */
static void test_exhaustion(void)
{
    size_t total, used, largest, still;
    shmemx_heap_info(SHMEMX_MEM_DEVICE, &total, &used, &largest);
    CHECK(used == 0 && total > 0 && largest == total, "%zu used of %zu, largest %zu", used, total, largest);
    char *all = shmemx_malloc(largest, SHMEMX_MEM_DEVICE);
    CHECK(all, "%zu bytes: %s", largest, shmemx_last_error());
    unsigned char byte = (unsigned char)(me + 1);
    CHECK(shmemx_put(SHMEM_CTX_DEFAULT, all + largest - 1, &byte, 1, right) == 0, "%s", shmemx_last_error());
    shmem_barrier_all();
    CHECK(shmemx_get(SHMEM_CTX_DEFAULT, &byte, all + largest - 1, 1, right) == 0 && byte == me + 1, "%d: %s",
          byte, shmemx_last_error());
    shmemx_log_errors(0);
    void *more;
    CHECK(shmemx_allocate(&more, 1, 0, 0, SHMEMX_MEM_DEVICE) == SHMEMX_ERR_NO_MEMORY &&
              strstr(shmemx_last_error(), "SHMEM_DEVICE_SYMMETRIC_SIZE") &&
              strstr(shmemx_last_error(), "cannot grow"),
          "%s", shmemx_last_error());
    shmemx_log_errors(1);
    shmem_barrier_all();
    shmem_free(all);
    shmemx_heap_info(SHMEMX_MEM_DEVICE, &still, &used, NULL);
    CHECK(used == 0 && still == total, "%zu used, %zu of %zu", used, still, total);
}

static void test_alignment(void)
{
    for (size_t align = 512; align <= (size_t)2 << 20; align *= 4) {
        void *small = shmemx_malloc(1, SHMEMX_MEM_DEVICE), *p = NULL;
        CHECK(shmemx_allocate(&p, 1000, align, 0, SHMEMX_MEM_DEVICE) == 0, "%s", shmemx_last_error());
        CHECK((uintptr_t)p % align == 0, "%p is no multiple of %zu", p, align);
        shmem_free(p);
        shmem_free(small);
    }
}

static void test_growth(void)
{
    size_t total, used, largest;
    enum { BLOCKS = 12 };
    void *p[BLOCKS];
    for (int round = 0; round < 3; ++round) {
        for (int i = 0; i < BLOCKS; ++i) {
            p[i] = shmemx_calloc(1, (size_t)(i + 1) * unit, SHMEMX_MEM_DEVICE);
            CHECK(p[i], "block %d: %s", i, shmemx_last_error());
            unsigned char byte = 1;
            CHECK(shmemx_get(SHMEM_CTX_DEFAULT, &byte, (char *)p[i] + (size_t)(i + 1) * unit - 1, 1, right) ==
                          0 &&
                      byte == 0,
                  "calloc left %d: %s", byte, shmemx_last_error());
        }
        shmemx_heap_info(SHMEMX_MEM_DEVICE, &total, &used, &largest);
        CHECK(used >= 78 * unit, "%zu in use", used);
        shmem_barrier_all();
        for (int i = 0; i < BLOCKS; ++i)
            shmem_free(p[(i * 5 + round) % BLOCKS]);
        shmemx_heap_info(SHMEMX_MEM_DEVICE, &total, &used, &largest);
        CHECK(used == 0 && total <= (size_t)128 << 20, "%zu used, %zu kept", used, total);
    }
}

static void test_misuse(void)
{
    char *p = shmemx_malloc(1000, SHMEMX_MEM_DEVICE), host[8] = "1234567";
    size_t total;
    shmemx_log_errors(0);
    CHECK(shmemx_mem_kind(p) == SHMEMX_MEM_DEVICE, "kind %d", shmemx_mem_kind(p));
    CHECK(shmemx_device() >= 0, "device %d", shmemx_device());
    shmemx_heap_info(SHMEMX_MEM_DEVICE, &total, NULL, NULL);
    CHECK(shmemx_put(SHMEM_CTX_DEFAULT, p + total, host, 8, right) == SHMEMX_ERR_ADDRESS, "past the end: %s",
          shmemx_last_error());
    CHECK(shmemx_put(SHMEM_CTX_DEFAULT, p, host, 8, npes) == SHMEMX_ERR_PE, "%s", shmemx_last_error());
    CHECK(shmemx_free(p + 16) != 0, "free inside a block: %s", shmemx_last_error());
    void *q;
    CHECK(shmemx_allocate(&q, (size_t)1 << 45, 0, 0, SHMEMX_MEM_DEVICE) == SHMEMX_ERR_NO_MEMORY, "%s",
          shmemx_last_error());
    CHECK(shmemx_allocate(&q, 64, 0, 0, 7) == SHMEMX_ERR_ARGUMENT, "%s", shmemx_last_error());
    /* nonblocking collectives: those of streams are; one that was refused disturbs no other */
    shmemx_request_t r;
    CHECK(shmemx_broadcastmem_nb(SHMEM_TEAM_WORLD, p, p, 100, 0, &r) == 0 &&
              shmemx_request_wait(&r) == SHMEMX_ERR_UNSUPPORTED &&
              strstr(shmemx_last_error(), "shmemx_stream.h"),
          "%s", shmemx_last_error());
    CHECK(shmemx_sync_nb(SHMEM_TEAM_WORLD, &r) == 0 && shmemx_request_wait(&r) == 0, "%s",
          shmemx_last_error());
    shmemx_log_errors(1);
    shmem_free(p);
}

int main(int argc, char **argv)
{
    const char *sharing = getenv("SHMEM_DEVICE_SHARING");
    fixed = sharing && strcmp(sharing, "ipc") == 0;
    if (argc > 1)
        unit = (size_t)atoi(argv[1]) << 20;
    for (int round = 0; round < 2; ++round) {
        shmem_init();
        me = shmem_my_pe();
        npes = shmem_n_pes();
        right = (me + 1) % npes;
        static const size_t sizes[] = {1, 8, 4099, 1 << 20, (64 << 20) + 12345};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i)
            test_directions(sizes[i]);
        test_alignment();
        if (fixed)
            test_exhaustion();
        else
            test_growth();
        test_misuse();
        if (me == 0 && round == 0) {
            char text[8192];
            shmemx_malloc(1, SHMEMX_MEM_HOST);
            shmemx_info(text, sizeof text);
            puts(text);
            CHECK(strstr(text, fixed ? "shared by ipc" : "shared by vmm"), "info says neither");
        } else if (round == 0) {
            shmemx_malloc(1, SHMEMX_MEM_HOST);
        }
        shmem_finalize();
    }
    return check_done();
}
