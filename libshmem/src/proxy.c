#include "proxy.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/gpu.h"
#include "base/wait.h"

static const char CALL[] = "proxy for kernels";

/* Commands of a ring that are executed before the next ring has its turn, and answers that wait for one quiet. */
enum { TURN = 32, MOST_PENDING = 64 };

struct ring {
    _Atomic uint64_t *slots; /* [depth][SHMEMX_PROXY_WORDS] */
    char *payload;
    _Atomic uint64_t *head; /* what kernels see of `next` */
    uint64_t next;          /* command to be executed */
};

/* A command whose answer waits until what it asked for is complete. */
struct pending {
    uint64_t answer, value;
    int pe, rc;
};

/* struct shmemx_proxy_answer, as the thread writes it. */
struct answer {
    _Atomic uint64_t low, high;
    uint64_t room[2];
};
_Static_assert(sizeof(struct answer) == sizeof(struct shmemx_proxy_answer), "kernels read them");

static struct {
    bool open;
    const struct shmemi_kernel_memory *memory;
    int npes, segment;
    unsigned nrings, depth, cells;
    struct ring *rings;
    char *pinned; /* slots, payloads, heads, answers and theirs, in one block */
    struct answer *answers;
    char *payload;
    struct pending pending[MOST_PENDING];
    int npending;
    bool crowded;
    pthread_t thread;
    _Atomic bool stop;
    _Atomic uint64_t rests; /* times that the thread found nothing to do */
    /* errors: written by the thread, taken by whoever asks */
    pthread_mutex_t lock;
    _Atomic uint32_t *failed;
    int error;
    char text[512];
    bool *given_up; /* [npes] PEs that are dead or late: no more waits for them until somebody has asked */
} proxy = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- errors ---------------------------------------------------------------------------------------------------------- */

/* What a thread of the library logs goes nowhere else: keeps it for the host's next call. */
static int note(int rc, int pe)
{
    pthread_mutex_lock(&proxy.lock);
    if (!proxy.error) {
        proxy.error = rc;
        snprintf(proxy.text, sizeof proxy.text, "%s", shmemx_last_error());
    }
    if (pe >= 0 && pe < proxy.npes && (rc == SHMEMX_ERR_TIMEOUT || rc == SHMEMX_ERR_PEER_DEAD))
        proxy.given_up[pe] = true;
    /* release: kernels that see it may end, and their host thread then finds the error */
    atomic_store_explicit(proxy.failed, 1, memory_order_release);
    pthread_mutex_unlock(&proxy.lock);
    return rc;
}

int shmemi_proxy_error(char *text, size_t n)
{
    if (!proxy.open)
        return 0;
    pthread_mutex_lock(&proxy.lock);
    int rc = proxy.error;
    if (rc) {
        snprintf(text, n, "%s", proxy.text);
        proxy.error = 0;
        memset(proxy.given_up, 0, sizeof *proxy.given_up * (size_t)proxy.npes);
        atomic_store_explicit(proxy.failed, 0, memory_order_relaxed);
    }
    pthread_mutex_unlock(&proxy.lock);
    return rc;
}

/* The error that stands, 0 = none. */
static int standing(void)
{
    pthread_mutex_lock(&proxy.lock);
    int rc = proxy.error;
    pthread_mutex_unlock(&proxy.lock);
    return rc;
}

static bool given_up(int pe)
{
    pthread_mutex_lock(&proxy.lock);
    bool so = proxy.given_up[pe];
    pthread_mutex_unlock(&proxy.lock);
    return so;
}

/* ---- one command ------------------------------------------------------------------------------------------------------ */

struct command {
    unsigned op, detail;
    int pe;
    bool answered;
    uint64_t w[SHMEMX_PROXY_WORDS];
    char *payload;
};

/* Transports trust their callers; these are kernels. */
static int bad_range(const struct command *c, const char *what, uint64_t offset, uint64_t n, uint64_t align)
{
    const struct shmemi_segment *s = &shmemi_world.segments[proxy.segment];
    /* the library's own: in the GPU heap kernels' collectives use it */
    uint64_t own = proxy.segment == SHMEMI_SEGMENT_HOST ? shmemi_world.internal_bytes : 0;
    if (offset >= own && offset <= s->bytes && n <= s->bytes - offset && offset % align == 0)
        return 0;
    return shmemi_fail(SHMEMX_ERR_ADDRESS, CALL,
                       "%s to PE %d: %llu bytes at offset 0x%llx of the %s heap, of 0x%zx, %s", what, c->pe,
                       (unsigned long long)n, (unsigned long long)offset,
                       proxy.segment == SHMEMI_SEGMENT_HOST ? "host" : "GPU", s->bytes,
                       offset % align ? "are not aligned" : "are not allocated");
}

static int bad_local(const struct command *c, const char *what, uint64_t address, uint64_t n)
{
    return bad_range(c, what, address - (uintptr_t)shmemi_world.segments[proxy.segment].base, n, 1);
}

static const struct shmemi_transport *route(int pe, const void *local)
{
    return shmemi_route(pe, proxy.segment, local);
}

static int put(const struct command *c)
{
    uint64_t offset = c->w[SHMEMX_PROXY_AT_OFFSET], n = c->w[SHMEMX_PROXY_AT_BYTES];
    uint64_t value = c->w[SHMEMX_PROXY_AT_LOCAL];
    int rc = bad_range(c, "put", offset, n, 1);
    if (rc == 0 && c->op == SHMEMX_PROXY_PUT)
        rc = bad_local(c, "put", value, n);
    if (rc || n == 0)
        return rc;
    switch (c->op) {
    case SHMEMX_PROXY_PUT:
        return route(c->pe, NULL)
            ->put(c->pe, proxy.segment, offset, (const void *)(uintptr_t)value, n, SHMEMI_NBI);
    case SHMEMX_PROXY_WORD: /* the lowest bytes come first: all machines here are little-endian */
        return n > sizeof value
                   ? bad_range(c, "value", offset, UINT64_MAX, 1)
                   : route(c->pe, &value)->put(c->pe, proxy.segment, offset, &value, n, SHMEMI_BLOCKING);
    default:
        return n > SHMEMX_PROXY_PAYLOAD
                   ? bad_range(c, "payload", offset, UINT64_MAX, 1)
                   : route(c->pe, c->payload)
                         ->put(c->pe, proxy.segment, offset, c->payload, n, SHMEMI_BLOCKING);
    }
}

/* Into the heap, or where the answer is: its value, or its payload. */
static int get(const struct command *c, struct pending *p)
{
    uint64_t offset = c->w[SHMEMX_PROXY_AT_OFFSET], n = c->w[SHMEMX_PROXY_AT_BYTES];
    uint64_t local = c->w[SHMEMX_PROXY_AT_LOCAL];
    int rc = bad_range(c, "get", offset, n, 1);
    if (rc == 0 && !p)
        rc = bad_local(c, "get", local, n);
    if (rc || n == 0)
        return rc;
    if (!p)
        return route(c->pe, NULL)->get(c->pe, proxy.segment, offset, (void *)(uintptr_t)local, n, SHMEMI_NBI);
    if (n > SHMEMX_PROXY_PAYLOAD)
        return bad_range(c, "payload", offset, UINT64_MAX, 1);
    void *to = n <= sizeof p->value ? (void *)&p->value
                                    : proxy.payload + (uint32_t)p->answer * (size_t)SHMEMX_PROXY_PAYLOAD;
    return route(c->pe, to)->get(c->pe, proxy.segment, offset, to, n, SHMEMI_NBI);
}

static int put_signal(const struct command *c)
{
    uint64_t offset = c->w[SHMEMX_PROXY_AT_OFFSET], n = c->w[SHMEMX_PROXY_AT_BYTES];
    uint64_t local = c->w[SHMEMX_PROXY_AT_LOCAL], at = c->w[SHMEMX_PROXY_AT_SIGNAL];
    const struct shmemi_transport *t = route(c->pe, NULL);
    int rc = bad_range(c, "signal", at, sizeof(uint64_t), sizeof(uint64_t));
    if (rc == 0 && n)
        rc = bad_range(c, "put_signal", offset, n, 1);
    if (rc == 0 && n)
        rc = bad_local(c, "put_signal", local, n);
    if (rc == 0 && n == 0)
        rc = t->fence(c->pe, SHMEMI_CONTEXT_DEFAULT);
    return rc ? rc
              : t->put_signal(c->pe, proxy.segment, n ? offset : at, (const void *)(uintptr_t)local, n,
                              proxy.segment, at, c->w[SHMEMX_PROXY_AT_VALUE], (int)c->detail, SHMEMI_NBI);
}

static int amo(const struct command *c, struct pending *p)
{
    struct shmemi_amo a = {
        .op = (int)(c->detail & 0x7f),
        .size = c->detail & 0x80 ? 8 : 4,
        .value = c->w[SHMEMX_PROXY_AT_LOCAL],
        .cond = c->w[SHMEMX_PROXY_AT_VALUE],
        .fetched = p ? &p->value : NULL,
    };
    uint64_t offset = c->w[SHMEMX_PROXY_AT_OFFSET];
    int rc = bad_range(c, "atomic", offset, a.size, a.size);
    return rc ? rc
              : shmemi_amo_route(c->pe, proxy.segment)->amo(c->pe, proxy.segment, offset, &a, SHMEMI_NBI);
}

static int order(const struct shmemi_transport *t, bool complete, int pe)
{
    return complete ? t->quiet(pe, SHMEMI_CONTEXT_DEFAULT) : t->fence(pe, SHMEMI_CONTEXT_DEFAULT);
}

/* pe -1: every transport in use. */
static int ordered(bool complete, int pe)
{
    if (pe >= 0) {
        const struct shmemi_transport *t = route(pe, NULL), *a = shmemi_amo_route(pe, proxy.segment);
        int rc = order(t, complete, pe);
        return rc || a == t ? rc : order(a, complete, pe);
    }
    int rc = 0;
    for (int i = 0; i < shmemi_world.nopen && rc == 0; ++i)
        rc = order(shmemi_world.open[i], complete, -1);
    return rc;
}

/* ---- answers ---------------------------------------------------------------------------------------------------------- */

static void answer(const struct pending *p)
{
    uint64_t turn = (p->answer >> 32 & 0xffffff) | (uint64_t)(uint32_t)-p->rc << 24;
    size_t cell = (uint32_t)p->answer & (proxy.cells - 1);
    /* release; observer: the thread of a kernel that polls both, and reads the payload */
    atomic_store_explicit(&proxy.answers[cell].low, (p->value & 0xffffffff) | turn << 32,
                          memory_order_release);
    atomic_store_explicit(&proxy.answers[cell].high, p->value >> 32 | turn << 32, memory_order_release);
}

/* Completes what the pending commands are about, at one go, and answers. While an error stands all answers are that error,
 * but what peers that are well still owe is waited for: it has places here. */
static void answer_pending(void)
{
    int pe = proxy.pending[0].pe, stands = standing(), rc = stands;
    for (int i = 1; i < proxy.npending; ++i)
        pe = proxy.pending[i].pe == pe ? pe : -1;
    for (int i = 0; stands && i < proxy.npending; ++i) {
        int whose = proxy.pending[i].pe;
        if (whose >= 0 && whose < proxy.npes && !given_up(whose))
            (void)ordered(true, whose);
    }
    if (!stands && (rc = ordered(true, pe)) != 0)
        (void)note(rc, pe);
    for (int i = 0; i < proxy.npending; ++i) {
        struct pending *p = &proxy.pending[i];
        p->rc = p->rc ? p->rc : rc;
        answer(p);
    }
    proxy.npending = 0;
}

static void execute(const struct command *c)
{
    struct pending *p = NULL;
    int rc = 0;
    if (c->answered) {
        p = &proxy.pending[proxy.npending++];
        *p = (struct pending){.answer = c->w[SHMEMX_PROXY_AT_ANSWER], .pe = c->pe < proxy.npes ? c->pe : -1};
    }
    bool all = c->op == SHMEMX_PROXY_FENCE || c->op == SHMEMX_PROXY_QUIET;
    if (c->pe >= proxy.npes || (c->pe < 0 && !(all && c->pe == -1)))
        rc = shmemi_fail(SHMEMX_ERR_PE, CALL, "PE %d is out of range, 0 to %d", c->pe, proxy.npes - 1);
    else if (c->pe >= 0 && given_up(c->pe))
        rc = SHMEMX_ERR_PEER_DEAD; /* noted already */
    else
        switch (c->op) {
        case SHMEMX_PROXY_PUT:
        case SHMEMX_PROXY_WORD:
        case SHMEMX_PROXY_PAYLOAD_PUT:
            rc = put(c);
            break;
        case SHMEMX_PROXY_GET:
            rc = get(c, p);
            break;
        case SHMEMX_PROXY_PUT_SIGNAL:
            rc = put_signal(c);
            break;
        case SHMEMX_PROXY_AMO:
            rc = amo(c, p);
            break;
        case SHMEMX_PROXY_FENCE:
            rc = ordered(false, c->pe);
            break;
        case SHMEMX_PROXY_QUIET:
            break;
        default:
            rc = shmemi_fail(SHMEMX_ERR_ARGUMENT, CALL, "command %u is unknown", c->op);
        }
    if (rc && !standing())
        (void)note(rc, c->pe);
    if (p)
        p->rc = rc;
    if (proxy.npending == MOST_PENDING)
        answer_pending();
}

/* ---- the rings -------------------------------------------------------------------------------------------------------- */

/* The ring's next command, if all of it is there; its words are free again then, its slot is not. */
static bool take(struct ring *r, struct command *c)
{
    size_t at = r->next & (proxy.depth - 1);
    _Atomic uint64_t *slot = r->slots + at * SHMEMX_PROXY_WORDS;
    /* acquire: pairs with the kernel's release of a command that names memory */
    uint64_t header = atomic_load_explicit(slot, memory_order_acquire);
    if (!(header & 1))
        return false;
    unsigned has = SHMEMX_PROXY_HAS(header), tops = SHMEMX_PROXY_TOPS(header);
    for (unsigned i = 1; i < SHMEMX_PROXY_WORDS; ++i) {
        uint64_t word = has >> i & 1 ? atomic_load_explicit(slot + i, memory_order_acquire) : 1;
        if (!(word & 1))
            return false;
        c->w[i] = word >> 1 | (uint64_t)(tops >> i & 1) << 63;
    }
    for (unsigned i = 0; i < SHMEMX_PROXY_WORDS; ++i)
        if (i == 0 || has >> i & 1)
            atomic_store_explicit(slot + i, 0, memory_order_relaxed);
    c->op = SHMEMX_PROXY_OP(header);
    c->detail = SHMEMX_PROXY_DETAIL(header);
    c->pe = SHMEMX_PROXY_PE(header);
    c->answered = has >> SHMEMX_PROXY_AT_ANSWER & 1;
    c->payload = r->payload + at * SHMEMX_PROXY_PAYLOAD;
    return true;
}

static bool drain_once(void)
{
    bool some = false;
    for (unsigned i = 0; i < proxy.nrings; ++i) {
        struct ring *r = &proxy.rings[i];
        struct command c;
        for (int k = 0; k < TURN && take(r, &c); ++k) {
            execute(&c);
            /* release; observer: a kernel that waits for room, and then writes the slot */
            atomic_store_explicit(r->head, ++r->next, memory_order_release);
            some = true;
        }
    }
    return some;
}

/* ---- the thread ------------------------------------------------------------------------------------------------------- */

/* Without commands it looks on: as fast as it can while the next one is likely near, then it gives the processor away at
 * each look, then it sleeps between them. Without a processor for this thread beside each PE, or where kernels are CPU
 * threads themselves, it begins with the second. */
static const double HOT_SECONDS = 0.02, YIELD_SECONDS = 0.1, BUSY_YIELD_SECONDS = 0.002, LOOK_SECONDS = 0.01;

static void rest(double *since, double *next_look, unsigned *looks)
{
    if (++*looks % 64 == 0 && shmemi_wait_progress)
        (void)shmemi_wait_progress(); /* what this thread's own operations wait for */
    const bool crowded = proxy.crowded;
    if (*since > 0 && *looks % 64 != 0 && !crowded) {
        shmemi_pause();
        return;
    }
    double now = shmemi_now();
    if (*since == 0)
        *since = now;
    if (now >= *next_look) {
        *next_look = now + LOOK_SECONDS;
        char why[SHMEMI_LOST_BYTES];
        int lost = standing() ? -1 : shmemi_wait_find_lost(why, sizeof why);
        if (lost >= 0)
            note(shmemi_fail(SHMEMX_ERR_PEER_DEAD, CALL, "%s", why), lost);
    }
    double idle = now - *since;
    if (idle > (crowded ? BUSY_YIELD_SECONDS : YIELD_SECONDS)) {
        struct timespec t = {.tv_nsec = 50000};
        nanosleep(&t, NULL);
        *looks |= 63; /* each look is followed by one at the clock */
    } else if (crowded || idle > HOT_SECONDS) {
        sched_yield();
    }
}

static void *serve(void *unused)
{
    double since = 0, next_look = 0;
    unsigned looks = 0;
    (void)unused;
    shmemi_wait_in_background = true;
    if (proxy.segment == SHMEMI_SEGMENT_DEVICE)
        shmemi_gpu_outside_captures(); /* of the program's, which goes on while kernels wait for this thread */
    for (;;) {
        bool stop = atomic_load_explicit(&proxy.stop, memory_order_acquire);
        if (drain_once()) {
            since = 0;
            continue;
        }
        if (proxy.npending) {
            answer_pending();
            since = 0;
            continue;
        }
        if (stop)
            return NULL;
        atomic_fetch_add_explicit(&proxy.rests, 1, memory_order_release);
        rest(&since, &next_look, &looks);
    }
}

void shmemi_proxy_drain(void)
{
    if (!proxy.open)
        return;
    /* a whole round that began after this call and found nothing */
    uint64_t rests = atomic_load_explicit(&proxy.rests, memory_order_acquire);
    while (atomic_load_explicit(&proxy.rests, memory_order_acquire) < rests + 2)
        sched_yield();
}

/* ---- opening ---------------------------------------------------------------------------------------------------------- */

static unsigned power_of_2(long long n, unsigned least, unsigned most)
{
    unsigned p = least;
    while (p < most && p < n)
        p *= 2;
    return p;
}

static void sizes(void)
{
    proxy.nrings = power_of_2(shmemi_env.GPU_NIC_RINGS, 1, 256);
    proxy.depth = power_of_2(shmemi_env.GPU_NIC_DEPTH, 4, 1 << 16);
    proxy.cells = power_of_2((long long)proxy.nrings * proxy.depth / 8, 64, 1 << 14);
}

/* In device memory: the struct, the rings, the turns. */
static const size_t RINGS_AT = 64;
_Static_assert(sizeof(struct shmemx_device_proxy) <= 64, "the rings begin behind it");
static size_t turns_at(void)
{
    return RINGS_AT + sizeof(struct shmemx_proxy_ring) * proxy.nrings;
}

size_t shmemi_proxy_bytes(void)
{
    if (!proxy.open)
        sizes();
    return turns_at() + sizeof(uint32_t) * proxy.cells;
}

/* In pinned memory. */
static size_t slot_bytes(void)
{
    return sizeof(uint64_t) * SHMEMX_PROXY_WORDS * proxy.depth;
}
static size_t payload_bytes(void)
{
    return (size_t)SHMEMX_PROXY_PAYLOAD * proxy.depth;
}
static const size_t HEAD_BYTES = 128; /* rings do not share lines */

static int write_device(const char *call, char *device)
{
    size_t bytes = shmemi_proxy_bytes();
    char *image = calloc(1, bytes);
    if (!image)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %zu bytes", bytes);
    struct shmemx_device_proxy view = {
        .rings = proxy.nrings,
        .depth = proxy.depth,
        .cells = proxy.cells,
        .ring = (uintptr_t)device + RINGS_AT,
        .answers = (uintptr_t)proxy.answers,
        .payload = (uintptr_t)proxy.payload,
        .turns = (uintptr_t)device + turns_at(),
    };
    memcpy(image, &view, sizeof view);
    for (unsigned i = 0; i < proxy.nrings; ++i) {
        const struct ring *r = &proxy.rings[i];
        struct shmemx_proxy_ring ring = {
            .head = (uintptr_t)r->head, .slots = (uintptr_t)r->slots, .payload = (uintptr_t)r->payload};
        memcpy(image + RINGS_AT + sizeof ring * i, &ring, sizeof ring);
    }
    int rc = proxy.memory->write(call, device, image, bytes);
    free(image);
    return rc;
}

static void forget(void)
{
    if (proxy.pinned)
        proxy.memory->unpin(proxy.pinned);
    free(proxy.rings);
    free(proxy.given_up);
    proxy.pinned = NULL;
    proxy.rings = NULL;
    proxy.given_up = NULL;
    proxy.open = false;
}

int shmemi_proxy_open(const char *call, const struct shmemi_kernel_memory *m, char *device, uint32_t *failed,
                      struct shmemx_device_ways *ways)
{
    sizes();
    proxy.memory = m;
    proxy.segment = m->segment;
    proxy.npes = shmemi_world.npes;
    proxy.failed = (_Atomic uint32_t *)failed;
    proxy.error = proxy.npending = 0;
    proxy.crowded = m->segment == SHMEMI_SEGMENT_HOST || 2 * shmemi_node.neighbours > shmemi_node.processors;
    proxy.rings = calloc(proxy.nrings, sizeof *proxy.rings);
    proxy.given_up = calloc((size_t)proxy.npes, sizeof *proxy.given_up);
    size_t each = slot_bytes() + payload_bytes() + HEAD_BYTES;
    size_t bytes = each * proxy.nrings + (sizeof *proxy.answers + SHMEMX_PROXY_PAYLOAD) * (size_t)proxy.cells;
    void *p = NULL;
    int rc = proxy.rings && proxy.given_up
                 ? m->pinned(call, bytes, &p)
                 : shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", proxy.npes);
    if (rc == 0) {
        char *at = proxy.pinned = p;
        for (unsigned i = 0; i < proxy.nrings; ++i, at += each)
            proxy.rings[i] = (struct ring){
                .slots = (_Atomic uint64_t *)at,
                .payload = at + slot_bytes(),
                .head = (_Atomic uint64_t *)(at + slot_bytes() + payload_bytes()),
            };
        proxy.payload = at;
        proxy.answers = (void *)(at + (size_t)SHMEMX_PROXY_PAYLOAD * proxy.cells);
        rc = write_device(call, device);
        ways->ring = (uintptr_t)device + RINGS_AT;
        ways->rings = proxy.nrings;
        ways->depth = proxy.depth;
        ways->slots = (uintptr_t)proxy.rings[0].slots;
        ways->slots_stride = each;
    }
    if (rc == 0) {
        atomic_store_explicit(&proxy.stop, false, memory_order_relaxed);
        sigset_t all, old;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old); /* the program's signals go to the program's threads */
        int err = pthread_create(&proxy.thread, NULL, serve, NULL);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        rc = err ? shmemi_fail(SHMEMX_ERR_SYSTEM, call, "pthread_create: %s", strerror(err)) : 0;
    }
    proxy.open = rc == 0;
    if (rc)
        forget();
    return rc;
}

void shmemi_proxy_close(void)
{
    if (!proxy.open)
        return;
    atomic_store_explicit(&proxy.stop, true, memory_order_release);
    pthread_join(proxy.thread, NULL);
    forget();
}
