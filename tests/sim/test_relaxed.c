/* M15: the order in which a packet's lines land in memory that a key opens with relaxed ordering, and without. The first
 * page of the target cannot be written at first: when the NIC comes to it, the handler of that fault looks at the second. */
#define _GNU_SOURCE
#include <infiniband/verbs.h>
#include <signal.h>
#include <sys/mman.h>

#include "check.h"
#include "engine.h"

enum { PAGE = 4096, BYTES = 512 };

static unsigned char *pages;
static volatile sig_atomic_t faults, seen_behind;

static void fault(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    if ((unsigned char *)info->si_addr < pages || (unsigned char *)info->si_addr >= pages + PAGE)
        _exit(3);
    faults++;
    seen_behind = pages[PAGE + BYTES / 2 - 1];
    mprotect(pages, PAGE, PROT_READ | PROT_WRITE);
}

/* Whether the last byte was there when the NIC came to the first page. */
static int last_before_first(uint32_t access)
{
    unsigned char data[BYTES];
    memset(data, 0x5a, sizeof data);
    memset(pages, 0, 2 * PAGE);
    faults = seen_behind = 0;
    mprotect(pages, PAGE, PROT_READ);
    uint64_t at = (uint64_t)(uintptr_t)pages + PAGE - BYTES / 2;
    struct sim_key key = {
        .key = 1, .access = access, .address = (uint64_t)(uintptr_t)pages, .bytes = 2 * PAGE};
    CHECK(sim_store(&key, at, data, BYTES), "a store");
    CHECK(faults == 1, "%d faults", (int)faults);
    CHECK(memcmp((void *)(uintptr_t)at, data, BYTES) == 0 && pages[PAGE - BYTES / 2 - 1] == 0 &&
              pages[PAGE + BYTES / 2] == 0,
          "all bytes, and no others, are there in the end");
    return seen_behind == 0x5a;
}

int main(void)
{
    pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaction(SIGSEGV, &(struct sigaction){.sa_sigaction = fault, .sa_flags = SA_SIGINFO}, NULL);
    CHECK(!last_before_first(IBV_ACCESS_REMOTE_WRITE), "in ascending order without relaxed ordering");
    CHECK(last_before_first(IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_RELAXED_ORDERING),
          "the last lines first with it");
    return check_done();
}
