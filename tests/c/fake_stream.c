/* The host's part of scans of GPU memory and of signals without a GPU: which kernel is launched with what, and what is
 * refused. The test stands for the kernels of float32, so that results come back through the host's calls too. */
#define _GNU_SOURCE
#include "fake_launch.h"

enum { ROOM = 4 << 20 };
static float *x, *y; /* ROOM bytes of the GPU heap each */
static int exclusive;
static uint64_t nelems;

/* shmem_k_scan*: team, exclusive, dst, src, number of elements. The PEs are one after the other in this order. */
static void kernel(const char *name, unsigned blocks, unsigned threads, unsigned shared, void **arguments)
{
    (void)shared;
    count_launch(name, blocks);
    if (!strstr(name, "shmem_k_scan"))
        return;
    exclusive = *(const int *)arguments[1];
    nelems = *(const uint64_t *)arguments[4];
    float *dst = *(float **)arguments[2], *src = *(float **)arguments[3], *sum = calloc(nelems, sizeof *sum);
    CHECK(*(const unsigned *)arguments[0] == 0 && threads == 512 && blocks <= 64 && sum,
          "%u blocks of %u threads", blocks, threads);
    shmem_barrier_all();
    for (int pe = 0; pe < me + !exclusive && sum; ++pe) {
        const float *theirs = shmem_ptr(src, pe);
        for (uint64_t i = 0; i < nelems; ++i)
            sum[i] += theirs[i];
    }
    shmem_barrier_all();
    memcpy(dst, sum, nelems * sizeof *sum);
    free(sum);
}

static void test_results(void)
{
    for (int without = 0; without < 2; ++without)
        for (int in_place = 0; in_place < 2; ++in_place)
            for (int host = 0; host < 2; ++host) {
                float *to = in_place ? x : y, numbers[100], want = 0;
                for (int i = 0; i < 100; ++i)
                    numbers[i] = (float)(i * (me + 1));
                CHECK(shmemx_put(SHMEM_CTX_DEFAULT, x, numbers, sizeof numbers, me) == 0, "%s",
                      shmemx_last_error());
                const char *name = npes > 1 ? "shmem_k_scan_packets" : "shmem_k_scan";
                if (!host)
                    LAUNCHES_KERNEL(
                        shmemx_scan_on_stream(SHMEM_TEAM_WORLD, without, SHMEMX_FLOAT32, to, x, 100, NULL),
                        name);
                else
                    LAUNCHES_KERNEL(without ? shmem_float_sum_exscan(SHMEM_TEAM_WORLD, to, x, 100)
                                            : shmem_float_sum_inscan(SHMEM_TEAM_WORLD, to, x, 100),
                                    name);
                CHECK(exclusive == without && nelems == 100, "exclusive %d, %llu", exclusive,
                      (unsigned long long)nelems);
                CHECK(shmemx_get(SHMEM_CTX_DEFAULT, numbers, to, sizeof numbers, me) == 0, "%s",
                      shmemx_last_error());
                for (int pe = 0; pe < me + !without; ++pe)
                    want += (float)(99 * (pe + 1));
                CHECK(numbers[99] == want, "%g, not %g", (double)numbers[99], (double)want);
            }
}

/* Which kernel: by bytes; complex numbers are pairs. */
static void test_choice(void)
{
    LAUNCHES_KERNEL(shmemx_scan_on_stream(SHMEM_TEAM_WORLD, 0, SHMEMX_COMPLEX64, y, x, 50, NULL),
                    npes > 1 ? "shmem_k_scan_packets" : "shmem_k_scan");
    CHECK(nelems == 100, "%llu parts", (unsigned long long)nelems);
    LAUNCHES_KERNEL(shmemx_scan_on_stream(SHMEM_TEAM_WORLD, 0, SHMEMX_FLOAT32, y, x, ROOM / 4, NULL),
                    "shmem_k_scan");
    CHECK(blocks_of_launch == 64 || npes > 4, "%u blocks", blocks_of_launch);
    LAUNCHES_KERNEL(
        shmemx_reduce_on_stream(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_SUM, SHMEMX_COMPLEX128, y, x, 3, NULL),
        npes > 1 ? "shmem_k_reduce_packets" : "shmem_k_reduce");
}

/* The stream stores a signal that is set, where it can (argument "words" says that it cannot); added is by a kernel. */
static void test_signals(bool stores)
{
    uint64_t *sig = shmemx_calloc(1, 16, SHMEMX_MEM_DEVICE), seen[2] = {0};
    const unsigned before = launches;
    shmem_barrier_all();
    CHECK(shmemx_put_signal_on_stream(x, y, 8, sig + 1, 7, SHMEM_SIGNAL_SET, last - me, NULL) == 0, "%s",
          shmemx_last_error());
    CHECK(launches == before + !stores, "%u launches", launches - before);
    if (stores) {
        shmem_barrier_all();
        CHECK(shmemx_get(SHMEM_CTX_DEFAULT, seen, sig, sizeof seen, me) == 0 && seen[0] == 0 && seen[1] == 7,
              "%llu %llu", (unsigned long long)seen[0], (unsigned long long)seen[1]);
    }
    LAUNCHES_KERNEL(shmemx_put_signal_on_stream(x, y, 8, sig, 7, SHMEM_SIGNAL_ADD, last - me, NULL),
                    "shmem_k_signal");
    REFUSED(shmemx_put_signal_on_stream(x, y, 8, (uint64_t *)(void *)((char *)sig + 4), 7, SHMEM_SIGNAL_SET,
                                        0, NULL),
            ADDRESS, "not aligned to 8");
    REFUSED(shmemx_put_signal_on_stream(x, y, 8, sig, 7, -3, 0, NULL), ARGUMENT, "sig_op is -3");
    shmem_barrier_all();
    shmem_free(sig);
}

static void test_refused(void)
{
    static float host[4];
    float *heap = shmem_malloc(16);
    char *odd = (char *)x + 2;
    REFUSED(shmemx_scan_on_stream(SHMEM_TEAM_INVALID, 0, SHMEMX_FLOAT32, y, x, 1, NULL), TEAM, "team");
    REFUSED(shmemx_scan_on_stream(SHMEM_TEAM_WORLD, 0, SHMEMX_TYPE_COUNT, y, x, 1, NULL), ARGUMENT,
            "type 15");
    REFUSED(shmemx_scan_on_stream(SHMEM_TEAM_WORLD, 0, SHMEMX_LONGDOUBLE, y, x, 1, NULL), UNSUPPORTED,
            "type");
    REFUSED(shmemx_reduce_on_stream(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_PROD, SHMEMX_COMPLEX64, y, x, 1, NULL),
            UNSUPPORTED, "type");
    REFUSED(shmemx_scan_on_stream(SHMEM_TEAM_WORLD, 0, SHMEMX_FLOAT32, y, x, SIZE_MAX / 2, NULL), ADDRESS,
            "dest");
    REFUSED(shmemx_scan_on_stream(SHMEM_TEAM_WORLD, 0, SHMEMX_FLOAT32, host, x, 1, NULL), ADDRESS, "dest");
    REFUSED(shmemx_scan_on_stream(SHMEM_TEAM_WORLD, 0, SHMEMX_FLOAT32, y, heap, 1, NULL), ADDRESS,
            "host heap");
    REFUSED(shmemx_scan_on_stream(SHMEM_TEAM_WORLD, 0, SHMEMX_FLOAT32, y, (float *)(void *)odd, 1, NULL),
            ADDRESS, "aligned");
    REFUSED(shmemx_scan_on_stream(SHMEM_TEAM_WORLD, 0, SHMEMX_FLOAT32, x, x + 1, 4, NULL), ARGUMENT,
            "overlap");
    REFUSED(shmem_float_sum_inscan(SHMEM_TEAM_WORLD, x, x + 1, 4), ARGUMENT, "overlap");
    CHECK(shmemx_scan_on_stream(SHMEM_TEAM_WORLD, 1, SHMEMX_FLOAT32, NULL, NULL, 0, NULL) == 0, "nothing: %s",
          shmemx_last_error());
    shmem_free(heap);
}

int main(int argc, char **argv)
{
    if (!on_the_fake_driver())
        return check_done();
    start_with(kernel);
    shmemx_log_errors(0);
    x = shmemx_malloc(ROOM, SHMEMX_MEM_DEVICE), y = shmemx_malloc(ROOM, SHMEMX_MEM_DEVICE);
    CHECK(x && y, "%s", shmemx_last_error());
    test_results();
    test_choice();
    test_signals(argc < 2 || strcmp(argv[1], "words") != 0);
    test_refused();
    shmem_finalize();
    return check_done();
}
