/* The proxy over transport cuda, on the fake driver: the test posts commands as a kernel does (device/proxy.h). What the
 * driver does not get done is an error at the deadline, for the kernel and for the host; and then all goes on. */
#define _GNU_SOURCE
#include <stdatomic.h>

#include "device/proxy_state.h"
#include "fake_launch.h"
#include "shmem.h"

static struct shmemx_device_state state;
static uint64_t turns; /* of answer 0 */

/* Word `at` of a command, as it travels. */
static void send(_Atomic uint64_t *slot, unsigned at, uint64_t x)
{
    atomic_store_explicit(slot + at, x << 1 | 1, memory_order_relaxed);
}

/* A command of three words and an answer; its status. */
static int ask(unsigned op, int pe, unsigned detail, uint64_t offset, uint64_t value)
{
    struct shmemx_proxy_ring *ring = (void *)(uintptr_t)state.ways.ring;
    struct shmemx_device_proxy *proxy;
    memcpy(&proxy, (char *)(uintptr_t)state.nic + 16, sizeof proxy); /* device/nic_state.h */
    struct shmemx_proxy_answer *cell = (void *)(uintptr_t)proxy->answers;
    _Atomic uint64_t *slot = (_Atomic uint64_t *)(uintptr_t)state.ways.slots +
                             (ring->tail++ & (state.ways.depth - 1)) * SHMEMX_PROXY_WORDS;
    const unsigned has = 1u << SHMEMX_PROXY_AT_OFFSET | 1u << SHMEMX_PROXY_AT_LOCAL |
                         1u << SHMEMX_PROXY_AT_VALUE | 1u << SHMEMX_PROXY_AT_ANSWER;
    send(slot, SHMEMX_PROXY_AT_OFFSET, offset);
    send(slot, SHMEMX_PROXY_AT_LOCAL, value);
    send(slot, SHMEMX_PROXY_AT_VALUE, 0);
    send(slot, SHMEMX_PROXY_AT_ANSWER, ++turns << 32);
    /* release; observer: the proxy's thread */
    atomic_store_explicit(slot,
                          (uint64_t)(uint32_t)pe << 32 | (uint64_t)detail << 24 | has << 8 | op << 1 | 1,
                          memory_order_release);
    uint64_t low, high;
    do {
        low = atomic_load_explicit((_Atomic uint64_t *)&cell->low, memory_order_acquire);
        high = atomic_load_explicit((_Atomic uint64_t *)&cell->high, memory_order_acquire);
    } while ((low >> 32 & 0xffffff) != turns || (high >> 32 & 0xffffff) != turns);
    return (int)(low >> 56);
}

/* Ends at the deadline, and the host hears of it once. */
static void late(const char *what, int status)
{
    CHECK(status == -SHMEMX_ERR_TIMEOUT, "%s: the kernel is told %d", what, status);
    int rc = shmemx_stream_check();
    CHECK(rc == SHMEMX_ERR_TIMEOUT && strstr(shmemx_last_error(), "may stand in its way"), "%s: %d: %s", what,
          rc, shmemx_last_error());
    CHECK(shmemx_stream_check() == 0, "%s: twice: %s", what, shmemx_last_error());
}

int main(void)
{
    if (!on_the_fake_driver())
        return check_done();
    start_with(NULL);
    shmemx_log_errors(0);
    atomic_bool *stuck;
    *(void **)&stuck = dlsym(dlopen("libcuda.so.1", RTLD_NOW), "fake_cuda_stuck");
    uint64_t *word = shmemx_malloc(sizeof *word, SHMEMX_MEM_DEVICE);
    CHECK(word && stuck && shmemx_device_state(&state, sizeof state) == 0 && state.nic, "%s",
          shmemx_last_error());
    const uint64_t offset = (uintptr_t)word - state.copy;
    const int next = (me + 1) % npes, add = 0x80 | SHMEMX_AMO_ADD;
    *word = 0;
    shmem_barrier_all();
    CHECK(ask(SHMEMX_PROXY_AMO, next, add, offset, 3) == 0, "%s", shmemx_last_error());
    CHECK(ask(SHMEMX_PROXY_QUIET, -1, 0, 0, 0) == 0, "%s", shmemx_last_error());
    atomic_store(stuck, true);
    late("quiet", ask(SHMEMX_PROXY_QUIET, -1, 0, 0, 0));
    late("atomic", ask(SHMEMX_PROXY_AMO, next, add, offset, 4));
    atomic_store(stuck, false);
    CHECK(ask(SHMEMX_PROXY_AMO, next, add, offset, 5) == 0, "%s", shmemx_last_error());
    CHECK(ask(SHMEMX_PROXY_QUIET, -1, 0, 0, 0) == 0 && shmemx_stream_check() == 0, "%s", shmemx_last_error());
    shmem_barrier_all();
    CHECK(*word == 12, "%llu of 3 + 4 + 5", (unsigned long long)*word);
    shmem_barrier_all();
    shmemx_free(word);
    shmem_finalize();
    return check_done();
}
