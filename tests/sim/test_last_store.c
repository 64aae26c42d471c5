/* Which store is the last. M8: bytes 60 to 63 of a completion entry come after its body. M13: what it stands for, an answer,
 * an old value, bytes at the peer, comes before it. The NIC is driven step by step, and bytes 60 to 63 lie in a page of
 * their own that cannot be written at first: when the NIC comes to them, the handler of that fault looks at all else. */
#define _GNU_SOURCE
#include "scene.h"

#include <signal.h>
#include <sys/mman.h>

enum { PAGE = 4096, BODY = 60, BYTES = 3000 };

static unsigned char *pages, *entry; /* the entry's body ends where the second page begins */
static volatile sig_atomic_t faults;
static unsigned char body[BODY], landed[BYTES];
static const unsigned char *result; /* what has to be there by then */

static void fault(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    if ((unsigned char *)info->si_addr < pages + PAGE || (unsigned char *)info->si_addr >= pages + 2 * PAGE)
        _exit(3);
    faults++;
    for (int i = 0; i < BODY; ++i)
        body[i] = entry[i];
    for (int i = 0; i < BYTES; ++i)
        landed[i] = result[i];
    mprotect(pages + PAGE, PAGE, PROT_READ | PROT_WRITE);
}

/* One request; the completion queue of the one who is told, `told`, has its first entry over the two pages. */
static void look_at(const char *what, struct wqe w, struct end *told, const unsigned char *where,
                    const void *want, unsigned bytes)
{
    bool received = told == &b;
    memset(pages, 0xff, PAGE);
    (received ? b.rcq : a.cq)->buffer = entry;
    memset(entry + BODY, 0xff, 4);
    mprotect(pages + PAGE, PAGE, PROT_READ);
    faults = 0;
    result = where;
    post(&a, w);
    run();
    CHECK(faults == 1, "%s: the last word is written by %d stores", what, (int)faults);
    CHECK(entry[63] != 0xff, "%s: no entry", what);
    CHECK(memcmp(body, entry, BODY) == 0, /* it was 0xff before */
          "%s: the last word was written before the entry's body", what);
    CHECK(memcmp(landed, want, bytes) == 0, "%s: the entry was written before what it stands for", what);
}

static void completions(bool collapsed)
{
    static const struct {
        const char *what;
        unsigned opcode, opmod, bytes, words;
    } atomics[] = {{"fetch and add", SHMEMX_MLX5_ATOMIC_FA, 0, 8, 2},
                   {"compare and swap", SHMEMX_MLX5_ATOMIC_CS, 0, 8, 2},
                   {"masked add of 4 bytes", SHMEMX_MLX5_ATOMIC_MASKED_FA, 8, 4, 4},
                   {"masked swap of 8 bytes", SHMEMX_MLX5_ATOMIC_MASKED_CS, 9, 8, 4}};
    struct options o = {.collapsed = collapsed, .ignore_overrun = collapsed};
    unsigned char want[BYTES];
    for (unsigned i = 0; i < sizeof atomics / sizeof *atomics; ++i) {
        begin(o);
        unsigned n = atomics[i].bytes;
        struct wqe w = wqe(&a, atomics[i].opcode, atomics[i].opmod, SIGNALLED);
        add_remote(&w, b.memory + 64, b.key);
        add_words(&w, n, atomics[i].words, (uint64_t[]){1, 0, 0, 0});
        add_data(&w, a.memory + 8192, n, a.key);
        for (unsigned k = 0; k < n; ++k) /* 4 bytes come back big-endian */
            want[k] = b.memory[64 + (n == 4 ? 3 - k : k)];
        look_at(atomics[i].what, w, &a, a.memory + 8192, want, n);
        finish();
    }
    begin(o);
    memcpy(want, b.memory + 100, BYTES);
    look_at("read", read_wqe(&a, &b, 8192, 100, BYTES, SIGNALLED), &a, a.memory + 8192, want, BYTES);
    finish();
    begin(o);
    look_at("write", write_wqe(&a, &b, 64, 8192, BYTES, SIGNALLED), &a, b.memory + 8192, a.memory + 64,
            BYTES);
    finish();
    begin(o);
    struct wqe w = write_wqe(&a, &b, 0, 0, 8, 0);
    sim_put_be32(w.raw + 24, 0xdead00);
    look_at("error", w, &a, b.memory, b.memory, 0);
    CHECK(body[55] == 0x13 && body[54] == 0x88, "the cause, by the last word: 0x%x, 0x%x", body[55],
          body[54]);
    finish();
}

/* M15: in whichever order the bytes land, they are there before the entry of who wrote them. */
static void relaxed(void)
{
    begin((struct options){0});
    b.key = sim_key_create(b.nic, PD, (uint64_t)(uintptr_t)b.memory, MEMORY,
                           ALL_ACCESS | IBV_ACCESS_RELAXED_ORDERING, false);
    look_at("write in relaxed order", write_wqe(&a, &b, 64, 8192, BYTES, SIGNALLED), &a, b.memory + 8192,
            a.memory + 64, BYTES);
    finish();
}

static void arrivals(void)
{
    begin((struct options){0});
    post_receive(&b, 8192, BYTES);
    struct wqe w = wqe(&a, SHMEMX_MLX5_SEND, 0, 0);
    add_data(&w, a.memory + 64, BYTES, a.key);
    look_at("message received", w, &b, b.memory + 8192, a.memory + 64, BYTES);
    finish();
    begin((struct options){0});
    post_receive(&b, 0, 0);
    w = write_wqe(&a, &b, 64, 8192, BYTES, 0);
    w.raw[3] = SHMEMX_MLX5_RDMA_WRITE_IMM;
    look_at("write with immediate", w, &b, b.memory + 8192, a.memory + 64, BYTES);
    finish();
}

int main(void)
{
    pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    entry = pages + PAGE - BODY;
    sigaction(SIGSEGV, &(struct sigaction){.sa_sigaction = fault, .sa_flags = SA_SIGINFO}, NULL);
    completions(false);
    completions(true);
    relaxed();
    arrivals();
    return check_done();
}
