/* GPU memory of other nodes over UCX, every PE a node of its own, on fake_cuda.c. What every transport does is in test_rma.c,
 * test_amo.c, test_order.c, test_signal.c and test_ctx.c, which run over it with PES_MEMORY=gpu; here is what quiet means,
 * order under a network that changes it, and what goes wrong.
 *
 *     fake_ucx          all of that
 *     fake_ucx dead     the last PE is killed in the middle
 *     fake_ucx speed    figures, by hand: GPU memory beside host memory */
#include <pthread.h>
#include <signal.h>

#include "pes.h"
#include "transport/ucx_gpu.h"
#include "world.h"

enum {
    PIECE = UCX_PIECE,
    LARGE = (5 << 20) + 3
}; /* more than is on the way at a time, and than there are blocks */

static unsigned char *there, *here,
    *source; /* symmetric, of LARGE bytes: the first two in GPU memory, the last in host memory */
static uint64_t *words, *host_word; /* in GPU memory, in host memory */
static int right, left;

static const struct shmemi_transport *route(int pe)
{
    return shmemi_world.gpu_route[pe];
}

/* That PE's copy, which the fake device lets this process see: what is in it now, whatever the transport says. NULL: it is on
 * another host indeed (tests/net). */
static void *copy_of(void *mine, int pe)
{
    const struct shmemi_segment *s = &shmemi_world.segments[SHMEMI_SEGMENT_DEVICE];
    return shmemi_node.on_host[pe] ? shmemi_copy_at(s, pe) + ((char *)mine - s->base) : NULL;
}

static uint64_t offset_of(const void *mine)
{
    return (uint64_t)((const char *)mine - shmemi_world.segments[SHMEMI_SEGMENT_DEVICE].base);
}

/* Lines of a length that divides no piece's, all alike. */
enum { LINE = 509 };
static void line_of(unsigned char line[LINE], int who, unsigned salt)
{
    for (size_t i = 0; i < LINE; i++)
        line[i] = (unsigned char)mix(who, i, salt);
}

static void fill(unsigned char *p, size_t n, unsigned salt)
{
    unsigned char line[LINE];
    line_of(line, me, salt);
    for (size_t at = 0; at < n; at += LINE)
        memcpy(p + at, line, n - at < LINE ? n - at : LINE);
}

/* Lines that are not as `who` has filled them. */
static size_t wrong(const unsigned char *p, size_t n, int who, unsigned salt)
{
    unsigned char line[LINE];
    size_t bad = 0;
    line_of(line, who, salt);
    for (size_t at = 0; at < n; at += LINE)
        bad += memcmp(p + at, line, n - at < LINE ? n - at : LINE) != 0;
    return bad;
}

/* Where nothing is mapped, kernels are offered this way of their own. */
static void test_choice(void)
{
    char text[8192];
    shmemx_info(text, sizeof text);
    /* the line goes on with why it is not ibgda */
    CHECK(shmemi_node.on_host[right] || strstr(text, ": proxy over ucx"), "%s", text);
}

/* ---- what quiet means ---------------------------------------------------------------------------------------------------- */

static void test_quiet(void)
{
    static const size_t sizes[] = {1, 4, 8, 12, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5, LARGE};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t n = sizes[i];
        for (unsigned salt = 0; salt < 2; salt++) {
            unsigned char *from = salt ? here : source;
            fill(from, n, salt + (unsigned)n);
            CHECK(shmemx_put_nbi(SHMEM_CTX_DEFAULT, there, from, n, right) == 0, "%s", shmemx_last_error());
            CHECK(shmemx_quiet(SHMEM_CTX_DEFAULT) == 0, "%s", shmemx_last_error());
            unsigned char *seen = copy_of(there, right);
            size_t bad = seen ? wrong(seen, n, me, salt + (unsigned)n) : 0;
            CHECK(bad == 0, "%zu bytes from %s memory: %zu lines are not there after quiet", n,
                  salt ? "GPU" : "host", bad);
            memset(from, 0, n);
            CHECK(shmemx_get_nbi(SHMEM_CTX_DEFAULT, from, there, n, right) == 0, "%s", shmemx_last_error());
            CHECK(shmemx_quiet(SHMEM_CTX_DEFAULT) == 0, "%s", shmemx_last_error());
            bad = wrong(from, n, me, salt + (unsigned)n);
            CHECK(bad == 0, "get of %zu bytes to %s memory: %zu lines wrong", n, salt ? "GPU" : "host", bad);
        }
    }
    shmem_barrier_all();
    uint64_t *word = copy_of(words, right);
    shmem_uint64_atomic_set(words, 5, right);
    shmem_uint64_atomic_add(words, 2, right);
    shmem_quiet();
    CHECK(!word || __atomic_load_n(word, __ATOMIC_ACQUIRE) == 7, "atomics before quiet: %llu",
          (unsigned long long)*word);
    shmem_barrier_all();
}

/* ---- order ------------------------------------------------------------------------------------------------------------------ */

/* In place of UCX's active messages: one in three is held back until the next one has gone, or nothing goes for a while. */
static ucx_request (*send_now)(void *, unsigned, const void *, size_t, const void *, size_t,
                               const struct ucx_op *);
static struct {
    bool full;
    void *ep;
    char head[128];
    size_t head_bytes, n;
    char *data;
    double since;
} held;
static unsigned sends, changed;
static unsigned (*progress_now)(void *);

static void release_held(void)
{
    const struct ucx_op how = {.mask = UCX_OP_FLAGS | UCX_OP_MEMORY, .flags = UCX_AM_EAGER};
    if (!held.full)
        return;
    held.full = false;
    ucx_request r = send_now(held.ep, UCX_ASK_ID, held.head, held.head_bytes, held.data, held.n, &how);
    while (r && !ucx_is_error(r) && shmemi_ucx_state.u.request_status(r) == UCX_INPROGRESS)
        (void)progress_now(shmemi_ucx_state.worker);
    if (r && !ucx_is_error(r))
        shmemi_ucx_state.u.request_free(r);
    free(held.data);
}

static unsigned slow_progress(void *worker)
{
    if (held.full && seconds() > held.since + 1e-3)
        release_held();
    return progress_now(worker);
}

static ucx_request shuffled(void *ep, unsigned id, const void *head, size_t head_bytes, const void *data,
                            size_t n, const struct ucx_op *how)
{
    if (id == UCX_ASK_ID && ++sends % 3 == 0 && !held.full) {
        held.full = true;
        held.since = seconds();
        held.ep = ep;
        held.head_bytes = head_bytes;
        held.n = n;
        memcpy(held.head, head, head_bytes);
        held.data = pes_private(n);
        if (n)
            memcpy(held.data, data, n);
        return NULL; /* the caller's buffers are free */
    }
    ucx_request r = send_now(ep, id, head, head_bytes, data, n, how);
    if (id == UCX_ASK_ID && held.full) {
        changed++;
        release_held();
    }
    return r;
}

static void shuffle(bool on)
{
    shmemi_ucx_lock();
    if (on) {
        send_now = shmemi_ucx_state.u.am_send;
        progress_now = shmemi_ucx_state.u.progress;
        shmemi_ucx_state.u.am_send = shuffled;
        shmemi_ucx_state.u.progress = slow_progress;
    } else {
        release_held();
        shmemi_ucx_state.u.am_send = send_now;
        shmemi_ucx_state.u.progress = progress_now;
    }
    shmemi_ucx_unlock();
    shmem_barrier_all();
}

/* Who sees the flag sees the data, though messages pass each other. */
static void test_shuffled(void)
{
    enum { ROUNDS = 40, BYTES = 3 * PIECE + 100 };
    memset(words, 0, 64);
    shuffle(true);
    for (unsigned round = 1; round <= ROUNDS; round++) {
        fill(here, BYTES, round);
        switch (round % 4) {
        case 0:
            shmem_putmem_nbi(there, here, BYTES, right);
            shmem_fence();
            shmem_uint64_p(words, round, right);
            break;
        case 1:
            shmem_putmem_signal_nbi(there, here, BYTES, words, round, SHMEM_SIGNAL_SET, right);
            break;
        case 2:
            shmem_putmem_signal(there, here, BYTES, words, 1, SHMEM_SIGNAL_ADD, right);
            break;
        default:
            shmem_putmem_nbi(there, here, BYTES, right);
            shmem_fence();
            shmem_uint64_atomic_inc(words, right);
        }
        shmem_uint64_p(words + 2, round, right);
        shmem_uint64_wait_until(words, SHMEM_CMP_GE, round);
        size_t bad = wrong(there, BYTES, left, round);
        CHECK(bad == 0, "round %u: %zu lines come after their flag", round, bad);
        shmem_uint64_p(words + 1, round, left);
        shmem_uint64_p(words + 2, round, left);
        shmem_uint64_wait_until(words + 1, SHMEM_CMP_GE, round);
    }
    shuffle(false);
    CHECK(changed > ROUNDS, "only %u messages have passed others", changed);
}

/* What is behind a fence and goes another way, to host memory, waits for what is before it; and the other way round. */
static void test_both_memories(void)
{
    enum { ROUNDS = 30, BYTES = 2 * PIECE };
    *host_word = words[0] = 0;
    shmem_barrier_all();
    for (unsigned round = 1; round <= ROUNDS; round++) {
        fill(here, BYTES, round);
        if (round % 3 == 0) {
            shmem_putmem_nbi(there, here, BYTES, right);
            shmem_fence();
            shmem_uint64_p(host_word, round, right);
        } else if (round % 3 == 1) {
            shmem_putmem_signal_nbi(there, here, BYTES, host_word, round, SHMEM_SIGNAL_SET, right);
        } else { /* from GPU memory to host memory, flag in GPU memory */
            shmem_putmem_nbi(source, here, BYTES, right);
            shmem_fence();
            shmem_uint64_atomic_set(words, round, right);
        }
        shmem_uint64_wait_until(round % 3 == 2 ? words : host_word, SHMEM_CMP_GE, round);
        size_t bad = wrong(round % 3 == 2 ? source : there, BYTES, left, round);
        CHECK(bad == 0, "round %u: %zu lines come after their flag", round, bad);
        shmem_barrier_all();
    }
}

/* ---- threads ------------------------------------------------------------------------------------------------------------------ */

/* *number becomes the rounds that went wrong. */
static void *one_thread(void *number)
{
    enum { ROUNDS = 25, BYTES = 3000 };
    shmem_ctx_t ctx;
    int t = *(int *)number, bad = 0;
    *(int *)number = ROUNDS;
    if (shmem_ctx_create(0, &ctx) != 0)
        return NULL;
    unsigned char *mine = here + t * BYTES, *to = there + t * BYTES;
    for (unsigned round = 0; round < ROUNDS; round++) {
        fill(mine, BYTES, round + (unsigned)t);
        shmem_ctx_putmem_nbi(ctx, to, mine, BYTES, right);
        shmem_ctx_quiet(ctx);
        memset(mine, 0, BYTES);
        shmem_ctx_getmem(ctx, mine, to, BYTES, right);
        bad += wrong(mine, BYTES, me, round + (unsigned)t) != 0;
        shmem_ctx_uint64_atomic_inc(ctx, words + 4, 0);
        (void)shmem_ctx_uint64_atomic_fetch_add(ctx, words + 5, 2, 0);
    }
    shmem_ctx_quiet(ctx);
    shmem_ctx_destroy(ctx);
    *(int *)number = bad;
    return NULL;
}

static void test_threads(void)
{
    pthread_t threads[2];
    int numbers[2] = {0, 1};
    words[4] = words[5] = 0;
    shmem_barrier_all();
    for (int t = 0; t < 2; t++)
        pthread_create(&threads[t], NULL, one_thread, &numbers[t]);
    for (int t = 0; t < 2; t++) {
        pthread_join(threads[t], NULL);
        CHECK(numbers[t] == 0, "thread %d: %d rounds are wrong", t, numbers[t]);
    }
    shmem_barrier_all();
    if (me == 0)
        CHECK(words[4] == 50u * (unsigned)npes && words[5] == 100u * (unsigned)npes, "%llu and %llu",
              (unsigned long long)words[4], (unsigned long long)words[5]);
    shmem_barrier_all();
}

/* ---- errors --------------------------------------------------------------------------------------------------------------- */

static void gives(int line, const char *what, int rc, int code, const char *text)
{
    CHECK(rc == code && strstr(shmemx_last_error(), text), "line %d: %s gives %d, not %d with \"%s\": %s",
          line, what, rc, code, text, shmemx_last_error());
}
#define GIVES(what, rc, code, text) gives(__LINE__, what, rc, SHMEMX_ERR_##code, text)

/* After an error has been told all is as before. */
static void works(int line)
{
    uint64_t back = 0, value = 1000u + (unsigned)line;
    CHECK(shmemx_put(SHMEM_CTX_DEFAULT, words + 8, &value, sizeof value, right) == 0 &&
              shmemx_quiet(SHMEM_CTX_DEFAULT) == 0 &&
              shmemx_get(SHMEM_CTX_DEFAULT, &back, words + 8, sizeof back, right) == 0 && back == value,
          "line %d: it does not work again: %llu, %s", line, (unsigned long long)back, shmemx_last_error());
}
#define WORKS() works(__LINE__)

static uint64_t value_of(const uint64_t *word)
{
    uint64_t value = 0;
    CHECK(shmemx_get(SHMEM_CTX_DEFAULT, &value, word, sizeof value, right) == 0, "%s", shmemx_last_error());
    return value;
}

static void test_errors(void)
{
    const struct shmemi_transport *t = route(right);
    const uint64_t end = shmemi_world.segments[SHMEMI_SEGMENT_DEVICE].bytes;
    const unsigned how = shmemi_how(true, SHMEMI_CONTEXT_DEFAULT);
    uint64_t value = 1, *signal = words + 16;
    shmem_ctx_t other;
    CHECK(shmem_ctx_create(0, &other) == 0, "%s", shmemx_last_error());
    *signal = 0;
    shmem_barrier_all();
    shmemx_log_errors(0);
    /* put where nothing is, and what is behind it until that is told */
    shmem_ctx_uint64_p(other, words + 9, 4, right);
    CHECK(t->put(right, SHMEMI_SEGMENT_DEVICE, end + 64, &value, 8, how) == 0, "%s", shmemx_last_error());
    CHECK(t->put_signal(right, SHMEMI_SEGMENT_DEVICE, offset_of(there), &value, 8, SHMEMI_SEGMENT_DEVICE,
                        offset_of(signal), 77, SHMEM_SIGNAL_SET, how) == 0,
          "%s", shmemx_last_error());
    GIVES("a put beyond the heap", shmemx_quiet(SHMEM_CTX_DEFAULT), ADDRESS, "which are not there");
    CHECK(value_of(signal) == 0, "a signal behind an error");
    CHECK(shmemx_quiet(other) == 0, "another context's error: %s", shmemx_last_error());
    WORKS();
    /* a message that runs out of the heap, and its signal */
    CHECK(t->put_signal(right, SHMEMI_SEGMENT_DEVICE, end - 2 * PIECE, source, LARGE, SHMEMI_SEGMENT_DEVICE,
                        offset_of(signal), 78, SHMEM_SIGNAL_SET, how) == 0,
          "%s", shmemx_last_error());
    GIVES("a message that is too long", shmemx_quiet(SHMEM_CTX_DEFAULT), ADDRESS, "which are not there");
    CHECK(value_of(signal) == 0, "a signal without its data");
    WORKS();
    /* those that return what they fetch return the error */
    uint64_t old = 9;
    struct shmemi_amo add = {.op = SHMEMX_AMO_ADD, .size = 8, .value = 1, .fetched = &old};
    GIVES("a get beyond the heap", t->get(right, SHMEMI_SEGMENT_DEVICE, end, here, 100, shmemi_how(false, 0)),
          ADDRESS, "asks for 100 bytes");
    WORKS();
    GIVES("an atomic that is not aligned",
          t->amo(right, SHMEMI_SEGMENT_DEVICE, offset_of(words) + 4, &add, shmemi_how(false, 0)), ADDRESS,
          "not aligned");
    CHECK(old == 9, "a fetch that failed brings %llu", (unsigned long long)old);
    WORKS();
    GIVES("the callers' own check",
          shmemx_put(SHMEM_CTX_DEFAULT, shmemi_world.segments[1].base + end, here, 8, right), ADDRESS,
          "not in the symmetric heap");
    shmem_ctx_destroy(other);
    shmem_barrier_all();
    shmemx_log_errors(1);
}

/* The driver fails at the target, then here. */
static void test_driver(void)
{
    uint64_t old;
    shmemx_log_errors(0);
    for (int side = 0; side < 2; side++) {
        bool failing = me == (side ? 0 : 1), asking = me == 0;
        const char *why = "cuMemcpyAsync: CUDA error 1, an error of the fake driver";
        shmem_barrier_all();
        if (failing)
            setenv("FAKE_CUDA_FAIL", "cuMemcpyAsync", 1);
        shmem_barrier_all();
        if (asking && side == 0) {
            shmem_putmem_nbi(there, source, LARGE, 1);
            GIVES("a put", shmemx_quiet(SHMEM_CTX_DEFAULT), SYSTEM, why);
            GIVES("a get", shmemx_get(SHMEM_CTX_DEFAULT, source, there, LARGE, 1), SYSTEM, why);
            GIVES("a fetch", shmemx_atomic(SHMEM_CTX_DEFAULT, SHMEMX_AMO_FETCH, 8, words, 0, 0, 1, &old),
                  SYSTEM, why);
        } else if (asking) {
            GIVES("a put from here", shmemx_put(SHMEM_CTX_DEFAULT, there, here, LARGE, 1), SYSTEM, why);
            GIVES("a get to here", shmemx_get(SHMEM_CTX_DEFAULT, here, there, 100, 1), SYSTEM, "copied");
        }
        shmem_barrier_all();
        if (failing)
            setenv("FAKE_CUDA_FAIL", "cuLaunchKernel", 1);
        shmem_barrier_all();
        if (asking && side == 0) {
            shmem_uint64_atomic_inc(words, 1);
            GIVES("an atomic", shmemx_quiet(SHMEM_CTX_DEFAULT), SYSTEM, "cuLaunchKernel");
        }
        shmem_barrier_all();
        if (failing)
            unsetenv("FAKE_CUDA_FAIL");
        shmem_barrier_all();
        WORKS();
    }
    shmem_barrier_all();
    shmemx_log_errors(1);
}

/* The heap grows, all of it is reached, and shrinks again: what was is no more. */
static void test_growth(void)
{
    const struct shmemi_segment *s = &shmemi_world.segments[SHMEMI_SEGMENT_DEVICE];
    const char *sharing = getenv("SHMEM_DEVICE_SHARING");
    if (sharing && strcmp(sharing, "ipc") == 0)
        return; /* one allocation */
    for (int round = 0; round < 2; round++) {
        size_t before = s->bytes, n = (size_t)160 << 20;
        char *more = shmemx_malloc(n, SHMEMX_MEM_DEVICE);
        CHECK(more && s->bytes >= before + n, "%zu bytes: %s", n, shmemx_last_error());
        uint64_t value = 3, back = 0;
        shmem_uint64_p((uint64_t *)(more + n) - 1, value, right);
        shmem_quiet();
        CHECK(shmemx_get(SHMEM_CTX_DEFAULT, &back, more + n - 8, 8, right) == 0 && back == 3, "%s",
              shmemx_last_error());
        uint64_t last = offset_of(more + n - 8);
        shmem_free(more);
        shmem_barrier_all();
        CHECK(s->bytes <= last, "%zu bytes are kept", s->bytes);
        shmemx_log_errors(0);
        CHECK(route(right)->put(right, SHMEMI_SEGMENT_DEVICE, last, &value, 8, shmemi_how(true, 0)) == 0,
              "%s", shmemx_last_error());
        GIVES("memory that was freed", shmemx_quiet(SHMEM_CTX_DEFAULT), ADDRESS, "which are not there");
        WORKS();
        shmem_barrier_all();
        shmemx_log_errors(1);
    }
}

/* One PE's driver gives no pinned memory: no heap on any, and the next attempt works. */
static void test_opening(void)
{
    shmemx_log_errors(0);
    if (me == npes - 1)
        setenv("FAKE_CUDA_FAIL", "cuMemHostAlloc", 1);
    void *none = shmemx_malloc(100, SHMEMX_MEM_DEVICE);
    CHECK(!none && strstr(shmemx_last_error(), me == npes - 1 ? "cuMemHostAlloc" : "PE "), "%p: %s", none,
          shmemx_last_error());
    unsetenv("FAKE_CUDA_FAIL");
    shmemx_log_errors(1);
}

/* The last PE dies with requests under way: the others know why, within the time that it takes to see it, and can finalize. */
static int test_dead(void)
{
    int victim = npes - 1;
    if (me == victim) {
        doze(100000);
        raise(SIGKILL);
    }
    shmemx_log_errors(0);
    double start = seconds();
    int rc = 0;
    while (rc == 0 && seconds() < start + 20) {
        rc = shmemx_put_nbi(SHMEM_CTX_DEFAULT, there, here, LARGE, victim);
        rc = rc ? rc : shmemx_quiet(SHMEM_CTX_DEFAULT);
    }
    bool well = CHECK(rc == SHMEMX_ERR_PEER_DEAD, "put and quiet give %d: %s", rc, shmemx_last_error());
    char why[300];
    snprintf(why, sizeof why, "%s", shmemx_last_error());
    rc = shmemx_get(SHMEM_CTX_DEFAULT, here, there, LARGE, victim);
    well = CHECK(rc == SHMEMX_ERR_PEER_DEAD, "get gives %d: %s", rc, shmemx_last_error()) && well;
    uint64_t old = 0;
    rc = shmemx_atomic(SHMEM_CTX_DEFAULT, SHMEMX_AMO_FETCH, 8, words, 0, 0, victim, &old);
    well = CHECK(rc == SHMEMX_ERR_PEER_DEAD, "fetch gives %d: %s", rc, shmemx_last_error()) && well;
    printf("dead: PE %d: %s after %.1f s: %s\n", me, well ? "knows" : "FAILED", seconds() - start, why);
    fflush(stdout);
    doze(500000); /* this PE leaves without a word: the others are to see the victim's death before that */
    return well ? 0 : 1;
}

/* ---- figures ------------------------------------------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void test_speed(void)
{
    enum { TURNS = 15, MANY = 16 };
    static const size_t sizes[] = {8, 4096, PIECE, 1 << 20, 4 << 20};
    unsigned char *host = pes_private(LARGE), *host_there = shmem_calloc(1, LARGE);
    for (size_t i = 0; me == 0 && i < sizeof sizes / sizeof *sizes; i++) {
        double t[4][TURNS];
        size_t n = sizes[i], many = n < PIECE ? 200 : n < 1 << 20 ? MANY : 4;
        for (int turn = 0; turn < TURNS; turn++)
            for (int way = 0; way < 4; way++) { /* host and GPU memory in turns: put and quiet, get */
                unsigned char *to = way % 2 ? there : host_there, *from = way % 2 ? here : host;
                double start = seconds();
                for (size_t k = 0; k < many; k++) {
                    if (way >= 2)
                        shmem_getmem(from, to, n, npes - 1);
                    else
                        shmem_putmem(to, from, n, npes - 1);
                    if (way < 2 && n < PIECE)
                        shmem_quiet();
                }
                shmem_quiet();
                t[way][turn] = (seconds() - start) / (double)many;
            }
        printf("%8zu bytes:", n);
        for (int way = 0; way < 4; way++) {
            qsort(t[way], TURNS, sizeof(double), by_value);
            double median = t[way][TURNS / 2];
            printf("  %s %s %9.1f us %7.3f GB/s", way % 2 ? "GPU" : "host", way < 2 ? "put" : "get",
                   1e6 * median, 1e-9 * (double)n / median);
        }
        printf("\n");
        fflush(stdout);
    }
    shmem_barrier_all();
    free(host);
}

int main(int argc, char **argv)
{
    int provided;
    shmem_init_thread(SHMEM_THREAD_MULTIPLE, &provided);
    pes_joined();
    right = (me + 1) % npes;
    left = (me + npes - 1) % npes;
    if (argc == 1)
        test_opening();
    there = shmemx_calloc(1, LARGE, SHMEMX_MEM_DEVICE);
    here = shmemx_calloc(1, LARGE, SHMEMX_MEM_DEVICE);
    words = shmemx_calloc(64, sizeof *words, SHMEMX_MEM_DEVICE);
    source = pes_alloc(LARGE);
    host_word = pes_alloc(sizeof *host_word);
    CHECK(there && here && words, "%s", shmemx_last_error());
    CHECK(strcmp(route(right)->name, "ucx") == 0, "GPU memory of PE %d goes by %s", right,
          route(right)->name);
    if (argc > 1 && strcmp(argv[1], "dead") == 0)
        _Exit(test_dead());
    if (argc > 1 && strcmp(argv[1], "speed") == 0) {
        test_speed();
    } else {
        test_choice();
        test_quiet();
        test_shuffled();
        test_both_memories();
        test_threads();
        test_errors();
        test_driver();
        test_growth();
    }
    return pes_end();
}
