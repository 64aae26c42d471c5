/* Signals: the data is there when the signal is seen, in every form, over many rounds of ping-pong. */
#include "pes.h"

enum { LARGEST = 1 << 16, ROUNDS = 400 };

static shmem_ctx_t ctx;
static unsigned char *inbox, *outbox;
static uint64_t *ping, *stats;

static void send(int form, size_t n, uint64_t value, int op, int pe)
{
    switch (form) {
    case 0:
        shmem_putmem_signal(inbox, outbox, n, ping, value, op, pe);
        break;
    case 1:
        shmem_putmem_signal_nbi(inbox, outbox, n, ping, value, op, pe);
        break;
    case 2:
        shmem_ctx_putmem_signal(ctx, inbox, outbox, n, ping, value, op, pe);
        break;
    default:
        shmem_ctx_putmem_signal_nbi(ctx, inbox, outbox, n, ping, value, op, pe);
    }
}

static void fill(size_t n, unsigned round)
{
    for (size_t i = 0; i < n; i++)
        outbox[i] = (unsigned char)mix(me, i, round);
}

static void expect(size_t n, int who, unsigned round)
{
    size_t wrong = 0;
    for (size_t i = 0; i < n; i++)
        wrong += inbox[i] != (unsigned char)mix(who, i, round);
    CHECK(wrong == 0, "round %u: %zu of %zu bytes from PE %d are not there with the signal", round, wrong, n,
          who);
}

/* Pairs (0,1), (2,3), ..; an odd last PE plays with itself. */
static void test_ping_pong(void)
{
    static const size_t sizes[] = {0, 1, 8, 63, 64, 1000, 4096, LARGEST};
    int partner = (me ^ 1) < npes ? me ^ 1 : me;
    bool first = me % 2 == 0;
    *ping = 0;
    uint64_t total = 0;
    shmem_barrier_all();
    for (unsigned round = 1; round <= ROUNDS; round++) {
        size_t n = sizes[round % 8];
        int form = (int)(round / 8 % 4), op = round % 3 ? SHMEM_SIGNAL_ADD : SHMEM_SIGNAL_SET;
        total += 7; /* SET stores the running total, ADD adds to it: both make the same value */
        uint64_t value = op == SHMEM_SIGNAL_SET ? total : 7;
        for (int turn = 0; turn < 2; turn++) {
            if ((turn == 0) == first || partner == me) {
                if (partner == me && turn == 1)
                    break;
                fill(n, round);
                send(form, n, value, op, partner);
            }
            if ((turn == 1) == first || partner == me) {
                uint64_t got = shmem_signal_wait_until(ping, SHMEM_CMP_EQ, total);
                CHECK(got == total, "round %u: waited for %lu, got %lu", round, (unsigned long)total,
                      (unsigned long)got);
                CHECK(shmem_signal_fetch(ping) == total, "round %u: fetched another value", round);
                expect(n, partner, round);
            }
        }
        shmem_quiet(); /* outbox may be filled again */
        shmem_ctx_quiet(ctx);
    }
    shmem_barrier_all();
}

/* Everybody adds to PE 0's word; the data of all lies there at the sum. */
static void test_gather(void)
{
    enum { EACH = 100 };
    uint64_t *rows = pes_alloc(sizeof *rows * EACH * (size_t)npes);
    for (unsigned round = 1; round <= 20; round++) {
        uint64_t mine[EACH];
        for (size_t i = 0; i < EACH; i++)
            mine[i] = mix(me, i, round);
        shmem_uint64_put_signal(rows + EACH * me, mine, EACH, stats, 1, SHMEM_SIGNAL_ADD, 0);
        if (me == 0) {
            uint64_t all = (uint64_t)npes * round;
            CHECK(shmem_signal_wait_until(stats, SHMEM_CMP_GE, all) == all, "round %u: not %d signals", round,
                  npes);
            size_t wrong = 0;
            for (size_t i = 0; i < EACH * (size_t)npes; i++)
                wrong += rows[i] != mix((int)(i / EACH), i % EACH, round);
            CHECK(wrong == 0, "round %u: %zu words are missing", round, wrong);
        }
        shmem_barrier_all();
    }
    shmem_free(rows);
}

static void test_bare(void)
{
    uint64_t *word = pes_alloc(sizeof *word);
    for (int pe = 0; pe < npes; pe++)
        shmem_signal_add(word, (uint64_t)1 << (8 * (me % 8)), pe);
    uint64_t all = 0;
    for (int pe = 0; pe < npes; pe++)
        all += (uint64_t)1 << (8 * (pe % 8));
    CHECK(shmem_signal_wait_until(word, SHMEM_CMP_EQ, all) == all, "sum of signal_add");
    shmem_barrier_all();
    uint64_t big = UINT64_MAX - (uint64_t)me;
    shmem_signal_set(word, big, (me + 1) % npes);
    uint64_t want = UINT64_MAX - (uint64_t)((me - 1 + npes) % npes);
    CHECK(shmem_signal_wait_until(word, SHMEM_CMP_GT, UINT64_MAX - (uint64_t)npes) == want, "signal_set");
    CHECK(shmem_signal_fetch(word) == want, "signal_fetch");
    shmem_barrier_all();
    *word = 5;
    static const struct {
        int cmp;
        uint64_t value;
    } rows[] = {{SHMEM_CMP_EQ, 5}, {SHMEM_CMP_NE, 4},          {SHMEM_CMP_GT, 4},
                {SHMEM_CMP_GE, 5}, {SHMEM_CMP_LT, UINT64_MAX}, {SHMEM_CMP_LE, 5}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        CHECK(shmem_signal_wait_until(word, rows[i].cmp, rows[i].value) == 5, "comparison %d", rows[i].cmp);
    shmem_free(word);
}

int main(void)
{
    pes_begin();
    inbox = pes_alloc(LARGEST);
    outbox = pes_private(LARGEST);
    ping = pes_alloc(sizeof *ping);
    stats = pes_alloc(sizeof *stats);
    CHECK(shmem_ctx_create(SHMEM_CTX_PRIVATE, &ctx) == 0, "%s", shmemx_last_error());
    test_ping_pong();
    test_gather();
    test_bare();
    shmem_ctx_destroy(ctx);
    free(outbox);
    return pes_end();
}
