/* GPU memory under the calls that need kernels: atomics, signals, waits and locks from the host, stream-ordered puts and
 * collectives of all sizes and types over the world and a team, errors, and what they take. Needs a GPU. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "shmemx.h"

static int me, npes, right;
static uint64_t *done; /* GPU: the stream's last word */
static uint64_t turns;

#define OK(call) CHECK((call) == 0, "%s: %s", #call, shmemx_last_error())

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Waits for what the default stream holds: a signal to ourselves behind it. */
static void drain(void)
{
    OK(shmemx_put_signal_on_stream(done, done, 0, done, ++turns, SHMEM_SIGNAL_SET, me, NULL));
    uint64_t seen;
    OK(shmemx_signal_wait_until(done, SHMEM_CMP_GE, turns, &seen));
    OK(shmemx_stream_check());
}

static void *gpu(size_t bytes)
{
    void *p = shmemx_calloc(1, bytes, SHMEMX_MEM_DEVICE);
    CHECK(p, "%zu bytes: %s", bytes, shmemx_last_error());
    return p;
}

static void test_atomics(void)
{
    uint64_t *word = gpu(64), old = 0, value;
    uint32_t *half = (uint32_t *)(word + 4), old32;
    shmem_barrier_all();
    for (int i = 0; i < 50; ++i)
        OK(shmemx_atomic(SHMEM_CTX_DEFAULT, SHMEMX_AMO_ADD, 8, word, 3, 0, 0, i % 2 ? &old : NULL));
    OK(shmemx_atomic(SHMEM_CTX_DEFAULT, SHMEMX_AMO_ADD, 4, half, 1, 0, 0, &old32));
    shmem_barrier_all();
    OK(shmemx_get(SHMEM_CTX_DEFAULT, &value, word, 8, 0));
    CHECK(value == (uint64_t)150 * (uint64_t)npes, "sum %llu", (unsigned long long)value);
    CHECK(shmem_uint32_atomic_fetch(half, 0) == (uint32_t)npes, "%u", shmem_uint32_atomic_fetch(half, 0));
    uint64_t *own = word + 1;
    shmem_uint64_atomic_set(own, 0xf0, me);
    CHECK(shmem_uint64_atomic_fetch_or(own, 0x0f, me) == 0xf0, "or");
    CHECK(shmem_uint64_atomic_fetch_and(own, 0x3c, me) == 0xff, "and");
    CHECK(shmem_uint64_atomic_fetch_xor(own, 0xff, me) == 0x3c, "xor");
    CHECK(shmem_uint64_atomic_swap(own, 7, me) == 0xc3, "swap");
    CHECK(shmem_uint64_atomic_compare_swap(own, 7, 8, me) == 7, "compare_swap");
    CHECK(shmem_uint64_atomic_compare_swap(own, 7, 9, me) == 8, "compare_swap fails");
    CHECK(shmem_uint64_atomic_fetch(own, me) == 8, "fetch");
    shmem_barrier_all();
    shmem_free(word);
}

static void test_signals_and_locks(void)
{
    uint64_t *data = gpu(8 << 10), *sig = gpu(64), seen;
    long *lock = gpu(64), *counter = gpu(64);
    uint64_t block[1024];
    shmem_barrier_all();
    for (uint64_t round = 1; round <= 20; ++round) {
        for (int i = 0; i < 1024; ++i)
            block[i] = round * 1000 + (uint64_t)me;
        OK(shmemx_put_signal(SHMEM_CTX_DEFAULT, data, block, sizeof block, sig, 1, SHMEM_SIGNAL_ADD, right));
        OK(shmemx_signal_wait_until(sig, SHMEM_CMP_GE, round, &seen));
        OK(shmemx_get(SHMEM_CTX_DEFAULT, block, data, sizeof block, me));
        CHECK(block[1023] == round * 1000 + (uint64_t)((me + npes - 1) % npes), "round %llu",
              (unsigned long long)round);
        shmem_barrier_all();
    }
    CHECK(shmem_uint64_test(sig, SHMEM_CMP_EQ, 20) == 1 && shmem_uint64_test(sig, SHMEM_CMP_LT, 20) == 0,
          "test");
    for (int i = 0; i < 10; ++i) {
        shmem_set_lock(lock);
        long v = shmem_long_g(counter, 0);
        shmem_long_p(counter, v + 1, 0);
        shmem_clear_lock(lock);
    }
    shmem_barrier_all();
    CHECK(shmem_long_g(counter, 0) == 10 * npes, "counter %ld", shmem_long_g(counter, 0));
    shmem_barrier_all();
    shmem_free(counter);
    shmem_free(lock);
    shmem_free(sig);
    shmem_free(data);
}

static int32_t pattern(int pe, size_t i, int salt)
{
    return (int32_t)((i * 7 + (size_t)pe * 13 + (size_t)salt) % 1000);
}

/* n int32 a member; checks every call on a team. */
static void test_collectives(shmem_team_t team, size_t n, bool on_stream)
{
    int k = shmem_team_n_pes(team), rank = shmem_team_my_pe(team);
    static int salt;
    salt++;
    size_t one = n * 4, all = one * (size_t)k;
    int32_t *src = gpu(all ? all : 4), *dst = gpu(all ? all : 4), *h = malloc(all ? all : 4);
    shmem_barrier_all();
    if (team == SHMEM_TEAM_INVALID) {
        shmem_barrier_all();
        goto end;
    }
    for (size_t i = 0; i < n * (size_t)k; ++i)
        h[i] = pattern(rank, i, salt);
    OK(shmemx_put(SHMEM_CTX_DEFAULT, src, h, all, me));
#define DO(host, stream)                                                                                     \
    do {                                                                                                     \
        if (on_stream) {                                                                                     \
            OK(stream);                                                                                      \
            drain();                                                                                         \
        } else {                                                                                             \
            OK(host);                                                                                        \
        }                                                                                                    \
        OK(shmemx_get(SHMEM_CTX_DEFAULT, h, dst, all, me));                                                  \
    } while (0)
#define COUNT(bytes, want)                                                                                   \
    do {                                                                                                     \
        size_t bad = 0;                                                                                      \
        for (size_t i = 0; i < (bytes) / 4; ++i)                                                             \
            bad += h[i] != (want);                                                                           \
        CHECK(bad == 0, "%s, %zu int32, %d members: %zu wrong", what, n, k, bad);                            \
    } while (0)
    const char *what = "broadcast";
    int root = k - 1;
    DO(shmemx_broadcast(team, dst, src, one, root),
       shmemx_broadcast_on_stream(team, dst, src, one, root, NULL));
    COUNT(one, pattern(root, i, salt));
    what = "fcollect";
    DO(shmemx_fcollect(team, dst, src, one), shmemx_fcollect_on_stream(team, dst, src, one, NULL));
    COUNT(all, pattern((int)(i / n), i % n, salt));
    what = "alltoall";
    DO(shmemx_alltoall(team, dst, src, one), shmemx_alltoall_on_stream(team, dst, src, one, NULL));
    COUNT(all, pattern((int)(i / n), (size_t)rank * n + i % n, salt));
    what = "collect of different sizes";
    size_t brought = n / 2 + (size_t)rank % (n + 1 - n / 2), begin = 0;
    DO(shmemx_collect(team, dst, all, src, brought * 4),
       shmemx_collect_on_stream(team, dst, all, src, brought * 4, NULL));
    for (int j = 0; j < k; ++j) {
        size_t theirs = n / 2 + (size_t)j % (n + 1 - n / 2), bad = 0;
        for (size_t i = 0; i < theirs; ++i)
            bad += h[begin + i] != pattern(j, i, salt);
        CHECK(bad == 0, "%s, %zu int32 of member %d of %d: %zu wrong", what, theirs, j, k, bad);
        begin += theirs;
    }
    what = "alltoalls";
    size_t half = n / 2, count = half * (size_t)k;
    DO(shmemx_alltoalls(team, dst, src, 2, 1, 4, half),
       shmemx_alltoalls_on_stream(team, dst, src, 2, 1, 4, half, NULL));
    size_t astray = 0;
    for (size_t i = 0; i < count; ++i)
        astray += h[2 * i] != pattern((int)(i / half), (size_t)rank * half + i % half, salt);
    CHECK(astray == 0, "%s, %zu int32, %d members: %zu wrong", what, half, k, astray);
    what = "sum";
    DO(shmemx_reduce(team, SHMEMX_REDUCE_SUM, SHMEMX_INT32, dst, src, n),
       shmemx_reduce_on_stream(team, SHMEMX_REDUCE_SUM, SHMEMX_INT32, dst, src, n, NULL));
    for (size_t i = 0; i < n; ++i) {
        int32_t sum = 0;
        for (int j = 0; j < k; ++j)
            sum += pattern(j, i, salt);
        h[i] -= sum;
    }
    COUNT(one, 0);
    for (int exclusive = 0; exclusive < 2; ++exclusive) {
        what = exclusive ? "exclusive scan" : "inclusive scan";
        DO(shmemx_scan(team, exclusive, SHMEMX_INT32, dst, src, n),
           shmemx_scan_on_stream(team, exclusive, SHMEMX_INT32, dst, src, n, NULL));
        for (size_t i = 0; i < n; ++i)
            for (int j = 0; j < rank + !exclusive; ++j)
                h[i] -= pattern(j, i, salt);
        COUNT(one, 0);
    }
    what = "max in place";
    DO(shmemx_reduce(team, SHMEMX_REDUCE_MAX, SHMEMX_INT32, src, src, n),
       shmemx_reduce_on_stream(team, SHMEMX_REDUCE_MAX, SHMEMX_INT32, src, src, n, NULL));
    OK(shmemx_get(SHMEM_CTX_DEFAULT, h, src, one, me));
    for (size_t i = 0; i < n; ++i) {
        int32_t most = 0;
        for (int j = 0; j < k; ++j)
            most = pattern(j, i, salt) > most ? pattern(j, i, salt) : most;
        h[i] -= most;
    }
    COUNT(one, 0);
    shmem_barrier_all();
end:
    free(h);
    shmem_free(dst);
    shmem_free(src);
}

/* Strided, in all directions; then what collect says of too little room. */
static void test_strided(void)
{
    enum { N = 1000, DST = 3, SST = 2 };
    static const size_t sizes[] = {1, 2, 4, 8, 12, 16};
    char *there = gpu(N * DST * 16), *here = gpu(N * SST * 16), *host = malloc(N * DST * 16),
         *symmetric = shmem_malloc(N * DST * 16);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; ++s) {
        size_t size = sizes[s];
        for (size_t i = 0; i < N * SST * size; ++i)
            host[i] = (char)pattern(me, i, (int)size);
        OK(shmemx_put(SHMEM_CTX_DEFAULT, here, host, N * SST * size, me));
        for (int from_gpu = 0; from_gpu < 2; ++from_gpu) {
            shmem_barrier_all();
            OK(shmemx_iput(SHMEM_CTX_DEFAULT, there, from_gpu ? here : host, DST, SST, size, N, right));
            shmem_barrier_all();
            memset(symmetric, 0, N * DST * 16);
            OK(shmemx_iget(SHMEM_CTX_DEFAULT, symmetric, there, 1, DST, size, N, me));
            size_t bad = 0;
            for (size_t i = 0; i < N * size; ++i)
                bad += symmetric[i] !=
                       (char)pattern((me + npes - 1) % npes, i / size * SST * size + i % size, (int)size);
            CHECK(bad == 0, "iput of %zu bytes from %s: %zu wrong", size, from_gpu ? "GPU" : "host", bad);
        }
        OK(shmemx_iget(SHMEM_CTX_DEFAULT, here, there, SST, DST, size, N, right)); /* between GPUs */
        OK(shmemx_iget(SHMEM_CTX_DEFAULT, symmetric, here, 1, SST, size, N, me));
        size_t bad = 0;
        for (size_t i = 0; i < N * size; ++i)
            bad += symmetric[i] != (char)pattern(me, i / size * SST * size + i % size, (int)size);
        CHECK(bad == 0, "iget of %zu bytes: %zu wrong", size, bad);
    }
    shmem_barrier_all();
    if (npes > 1) {
        shmemx_log_errors(0);
        int rc = shmemx_collect(SHMEM_TEAM_WORLD, there, me == 0 ? 8 : SIZE_MAX, here, 16);
        CHECK(me == 0 ? rc == SHMEMX_ERR_ARGUMENT && strstr(shmemx_last_error(), "room for 8") : rc == 0,
              "%d: %s", rc, shmemx_last_error());
        shmemx_log_errors(1);
    }
    shmem_barrier_all();
    shmem_free(symmetric);
    free(host);
    shmem_free(here);
    shmem_free(there);
}

static void test_floats(void)
{
    enum { N = 1001 };
    float *f = gpu(N * 4), h[N];
    uint16_t *b = gpu(N * 2), hb[N];
    for (int i = 0; i < N; ++i)
        h[i] = (float)(i + me) / 8, hb[i] = 0x3f80; /* bfloat16 1.0 */
    OK(shmemx_put(SHMEM_CTX_DEFAULT, f, h, sizeof h, me));
    OK(shmemx_put(SHMEM_CTX_DEFAULT, b, hb, sizeof hb, me));
    OK(shmemx_reduce(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_SUM, SHMEMX_FLOAT32, f, f, N));
    OK(shmemx_reduce(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_SUM, SHMEMX_BFLOAT16, b, b, N));
    OK(shmemx_get(SHMEM_CTX_DEFAULT, h, f, sizeof h, me));
    OK(shmemx_get(SHMEM_CTX_DEFAULT, hb, b, sizeof hb, me));
    for (int i = 0; i < N; ++i) {
        float want = (float)(i * npes + npes * (npes - 1) / 2) / 8;
        CHECK(h[i] == want, "float %d: %g, not %g", i, (double)h[i], (double)want);
        uint32_t bits = (uint32_t)hb[i] << 16;
        float got;
        memcpy(&got, &bits, 4);
        CHECK(got == (float)npes, "bfloat16 %d: %g", i, (double)got);
    }
    float c[2] = {(float)me, (float)-me}; /* one complex64 */
    OK(shmemx_put(SHMEM_CTX_DEFAULT, f, c, sizeof c, me));
    OK(shmemx_scan(SHMEM_TEAM_WORLD, 1, SHMEMX_COMPLEX64, f + 2, f, 1));
    OK(shmemx_reduce(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_SUM, SHMEMX_COMPLEX64, f + 4, f, 1));
    OK(shmemx_get(SHMEM_CTX_DEFAULT, h, f, 24, me));
    float until = (float)(me * (me - 1) / 2), all = (float)(npes * (npes - 1) / 2);
    CHECK(h[2] == until && h[3] == -until && h[4] == all && h[5] == -all, "complex: %g %g %g %g",
          (double)h[2], (double)h[3], (double)h[4], (double)h[5]);
    CHECK(shmemx_team_device(SHMEM_TEAM_WORLD) == 0 && shmemx_team_device(SHMEM_TEAM_SHARED) == 1, "numbers");
    shmemx_log_errors(0);
    CHECK(shmemx_team_device(SHMEM_TEAM_INVALID) == SHMEMX_ERR_TEAM, "%s", shmemx_last_error());
    CHECK(shmemx_reduce_on_stream(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_AND, SHMEMX_FLOAT32, f, f, N, NULL) ==
              SHMEMX_ERR_ARGUMENT,
          "and of floats");
    CHECK(shmemx_scan_on_stream(SHMEM_TEAM_WORLD, 0, SHMEMX_LONGDOUBLE, f, f, 1, NULL) ==
              SHMEMX_ERR_UNSUPPORTED,
          "scan of long double");
    CHECK(shmemx_put_on_stream(h, f, 8, right, NULL) == SHMEMX_ERR_ADDRESS, "private dest");
    CHECK(shmemx_put_on_stream(f, f, 8, npes, NULL) == SHMEMX_ERR_PE, "PE");
    CHECK(shmemx_collect(SHMEM_TEAM_WORLD, f, SIZE_MAX, f, 0) == 0, "collect of nothing: %s",
          shmemx_last_error());
    shmemx_log_errors(1);
    shmem_barrier_all();
    shmem_free(b);
    shmem_free(f);
}

/* Time of one call in a row of them on a stream: the launches are cheaper than the work only for the larger. */
static void show_times(void)
{
    enum { ROUNDS = 100, BYTES = 128 << 20 };
    char *src = gpu(BYTES), *dst = gpu((size_t)BYTES * (size_t)npes);
#define TIME(name, bytes, call)                                                                              \
    do {                                                                                                     \
        double best = 1e30;                                                                                  \
        for (int r = 0; r < 5; ++r) {                                                                        \
            shmem_barrier_all();                                                                             \
            double t = now();                                                                                \
            int rounds = (bytes) > (1 << 20) ? 10 : ROUNDS;                                                  \
            for (int i = 0; i < rounds; ++i)                                                                 \
                OK(call);                                                                                    \
            drain();                                                                                         \
            t = (now() - t) / rounds;                                                                        \
            best = t < best ? t : best;                                                                      \
        }                                                                                                    \
        if (me == 0)                                                                                         \
            printf("{\"npes\": %d, \"op\": \"%s\", \"bytes\": %zu, \"us\": %.2f}\n", npes, name,             \
                   (size_t)(bytes), best);                                                                   \
    } while (0)
    TIME("barrier_on_stream", 0, shmemx_barrier_on_stream(SHMEM_TEAM_WORLD, NULL));
    TIME("put_on_stream", BYTES, shmemx_put_on_stream(dst, src, BYTES, right, NULL));
    static const size_t sizes[] = {4096, 65536, 1 << 20, 4 << 20, 16 << 20, BYTES};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; ++s) {
        size_t n = sizes[s], each = n / (size_t)npes;
        TIME("fcollect_on_stream (total)", n,
             shmemx_fcollect_on_stream(SHMEM_TEAM_WORLD, dst, src, each, NULL));
        TIME("alltoall_on_stream (total)", n,
             shmemx_alltoall_on_stream(SHMEM_TEAM_WORLD, dst, src, each, NULL));
        TIME("sum_reduce_on_stream float32", n,
             shmemx_reduce_on_stream(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_SUM, SHMEMX_FLOAT32, dst, src, n / 4,
                                     NULL));
    }
    shmem_free(dst);
    shmem_free(src);
}

/* "times": these alone; "brief": for the slow tools, a few sizes and no times. */
int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    bool brief = strcmp(what, "brief") == 0;
    shmem_init();
    me = shmem_my_pe();
    npes = shmem_n_pes();
    right = (me + 1) % npes;
    done = gpu(64);
    turns = 0;
    if (strcmp(what, "times") == 0) {
        show_times();
        shmem_free(done);
        shmem_finalize();
        return check_done();
    }
    test_atomics();
    test_signals_and_locks();
    static const size_t counts[] = {0, 1, 3, 1000, 7001, 65537, 100003, 1000003},
                        few[] = {1000, 65537, 600001};
    const size_t *count = brief ? few : counts, n = (brief ? sizeof few : sizeof counts) / sizeof *count;
    for (size_t c = 0; c < n; ++c)
        for (int s = 0; s < 2; ++s)
            test_collectives(SHMEM_TEAM_WORLD, count[c], s);
    /* many teams, so that all slots are used again, on the packet path and beyond it */
    for (int round = 0; round < (brief ? 1 : 12); ++round) {
        shmem_team_t keep[6], team;
        for (int i = 0; i < 6; ++i) {
            shmem_team_split_strided(SHMEM_TEAM_WORLD, i % npes, 1, npes - i % npes, NULL, 0, &keep[i]);
            CHECK((keep[i] != SHMEM_TEAM_INVALID) == (me >= i % npes), "%s", shmemx_last_error());
        }
        team = keep[round % 6];
        if (keep[0] != SHMEM_TEAM_INVALID)
            CHECK(shmemx_team_device(keep[0]) >= 2, "%d: %s", shmemx_team_device(keep[0]),
                  shmemx_last_error());
        if (round % 6 % npes == 0) /* everybody is a member: allocation is collective over the world */
            test_collectives(team, 777, true);
        for (int i = 0; i < 6; ++i)
            if (keep[i] != SHMEM_TEAM_INVALID)
                shmem_team_destroy(keep[i]);
        shmem_barrier_all();
    }
    test_strided();
    test_floats();
    if (!brief)
        show_times();
    shmem_free(done);
    shmem_finalize();
    return check_done();
}
