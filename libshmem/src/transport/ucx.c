/* Transport ucx: every network that UCX knows, TCP above all.
 *
 * One worker a PE, for what it issues and what it serves, under one mutex: whoever waits for an answer serves its peers
 * in the same breath, and two PEs share one connection. Where nobody of this PE waits, a thread sleeps on the worker's
 * events and serves; for TCP needs the target's processor for everything.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/node.h"
#include "base/wait.h"
#include "shmemx.h"
#include "ucx_state.h"

struct shmemi_ucx_state shmemi_ucx_state = {
    .lock = PTHREAD_MUTEX_INITIALIZER, .lost = -1, .fd = -1, .stop = -1};
#define ucx shmemi_ucx_state

static const char call[] = "shmem_init";

/* A card: this, and UCX's address behind it. Two libraries that differ do not understand each other. Of a process that can
 * be seen from here the kernel tells when it ends, which UCX's shared memory does not. */
struct ucx_card {
    char version[16], machine[40];
    uint64_t namespace; /* of process numbers */
    int32_t pid;
};

/* The thread stays out of the way while callers wait and so serve, as long as they look this often in this time: a wait
 * spins and yields first, hundreds of looks a millisecond, then it naps, 13 looks, and the thread is the faster one: a
 * fetch-add took 89 us from a PE that napped, 20 us from its thread (medians, 2 PEs, TCP by the loopback). */
enum { ATTENDED_MS = 1, ATTENDED_LOOKS = 32 };
/* Its looks after the last thing that came, where the machine has a processor to spare for each PE: a fetch-add from a
 * PE that computes took 9.4 us instead of 18.5, put and quiet 16 instead of 34 (medians, 2 PEs, TCP by the loopback). */
static const double LINGER = 50e-6;
/* Its looks while operations are on the way: some of UCX's own work makes no event. */
enum { PENDING_MS = 10 };
static const double PING_SECONDS = 5;
/* close: peers that are alive answer at once, others never. */
static const double CLOSE_SECONDS = 1;

/* ---- the lock ------------------------------------------------------------------------------------------------------------ */

void shmemi_ucx_lock(void)
{
    if (pthread_mutex_trylock(&ucx.lock) == 0)
        return;
    atomic_fetch_add_explicit(&ucx.wanted, 1, memory_order_relaxed);
    pthread_mutex_lock(&ucx.lock);
    atomic_fetch_sub_explicit(&ucx.wanted, 1, memory_order_relaxed);
}

void shmemi_ucx_unlock(void)
{
    pthread_mutex_unlock(&ucx.lock);
    if (SHMEMI_UNLIKELY(atomic_load_explicit(&ucx.wanted, memory_order_relaxed)))
        sched_yield();
}

/* ---- lost peers -------------------------------------------------------------------------------------------------------------- */

void shmemi_ucx_lose(struct ucx_peer *p, ucx_status status)
{
    bool under_way = p->dirty || p->unanswered || p->flushes.issued != p->flushes.done ||
                     p->words.issued != p->words.done || p->gpu.issued != p->gpu.done || p->wants;
    if (!p->status && under_way) {
        p->owes = true;
        ucx.owing++;
    }
    if (!p->told)
        p->status = status;
    if (ucx.lost < 0)
        ucx.lost = (int)(p - ucx.peers);
}

/* The cause; what UCX then says of each operation is less to the point, and is overwritten where it came first. */
static void on_error(void *arg, void *ep, ucx_status status)
{
    (void)ep;
    struct ucx_peer *p = arg;
    if (!p->told)
        shmemi_ucx_lose(p, status);
    p->told = true;
}

void shmemi_ucx_describe(int pe, char *text, size_t n)
{
    static const char *const kinds[] = {"a put", "a get", "an atomic", "a put_signal"};
    const struct ucx_peer *p = &ucx.peers[pe];
    int at = snprintf(text, n, "UCX: %s", ucx.u.text(p->status));
    if (p->last_bytes && at > 0 && (size_t)at < n)
        at += snprintf(text + at, n - (size_t)at, "; last issued %s of %zu bytes", kinds[p->last],
                       p->last_bytes);
    if (!p->reached && at > 0 && (size_t)at < n)
        snprintf(text + at, n - (size_t)at, "; never answered: is its port open (UCX_TCP_PORT_RANGE)?");
}

int shmemi_ucx_dead(const char *name, int pe)
{
    char why[200];
    shmemi_ucx_describe(pe, why, sizeof why);
    return shmemi_fail(SHMEMX_ERR_PEER_DEAD, name, "PE %d is lost: %s", pe, why);
}

/* With the lock held. The kernel finds a peer gone only by what it sends: so something is on the way to all that this PE
 * may be waiting for. */
static void ping_all(void)
{
    static double next;
    double now = shmemi_now();
    if (now < next)
        return;
    next = now + PING_SECONDS;
    for (int pe = 0; pe < ucx.job->npes; pe++) {
        const struct ucx_peer *p = &ucx.peers[pe];
        if (!p->ep || p->status)
            continue;
        if (p->words.issued == p->words.done)
            shmemi_ucx_ping(pe);
        if (ucx.gpu && p->gpu.issued == p->gpu.done && ucx.segment[SHMEMI_SEGMENT_HOST].n == 0)
            shmemi_ucx_gpu_ping(pe);
    }
}

/* With the lock held. */
static void look_for_dead(void)
{
    enum { CONNECTION_RESET = -25 };
    if (poll(ucx.processes, (nfds_t)ucx.nprocesses, 0) <= 0)
        return;
    for (int i = 0; i < ucx.nprocesses; i++) {
        if (!ucx.processes[i].revents)
            continue;
        shmemi_ucx_lose(&ucx.peers[ucx.process_of[i]], CONNECTION_RESET);
        close(ucx.processes[i].fd);
        ucx.processes[i].fd = -1; /* poll passes over it */
    }
}

static int ucx_lost(char *why, size_t n)
{
    if (pthread_mutex_trylock(&ucx.lock) != 0)
        return -1; /* asked again soon */
    look_for_dead();
    int pe = ucx.lost;
    if (pe >= 0)
        shmemi_ucx_describe(pe, why, n);
    else
        ping_all();
    shmemi_ucx_unlock();
    return pe;
}

static void make_card(struct ucx_card *c)
{
    struct stat ns = {0};
    (void)stat("/proc/self/ns/pid", &ns);
    *c = (struct ucx_card){.namespace = ns.st_ino, .pid = getpid()};
    snprintf(c->version, sizeof c->version, "%s", ucx.u.version());
    shmemi_node_machine(c->machine, sizeof c->machine);
}

static void watch_process(int pe, const struct ucx_card *theirs)
{
    struct ucx_card ours;
    make_card(&ours);
    if (pe == ucx.job->me || ours.namespace == 0 || ours.namespace != theirs->namespace ||
        strcmp(ours.machine, theirs->machine) != 0)
        return;
    int fd = (int)syscall(SYS_pidfd_open, theirs->pid, 0);
    if (fd < 0)
        return; /* an old kernel */
    ucx.process_of[ucx.nprocesses] = pe;
    ucx.processes[ucx.nprocesses++] = (struct pollfd){.fd = fd, .events = POLLIN};
}

/* ---- the service thread --------------------------------------------------------------------------------------------------- */

static bool stopped(int ms, bool events)
{
    struct pollfd fds[2] = {{.fd = ucx.stop, .events = POLLIN}, {.fd = ucx.fd, .events = POLLIN}};
    (void)poll(fds, events ? 2 : 1, ms);
    return fds[0].revents != 0;
}

/* Moves things on until nothing has come for a while: the next request mostly follows, and sleeping costs it a wake-up. */
static void serve_some(void)
{
    double until = 0, end = shmemi_now() + 1e-3 * PENDING_MS; /* it may be asked to stop */
    for (;;) {
        shmemi_ucx_lock();
        unsigned moved = ucx.u.progress(ucx.worker);
        ucx.served |= moved > 0;
        shmemi_ucx_unlock();
        double now = shmemi_now();
        if (moved)
            until = now + ucx.linger;
        if (now >= end || (!moved && now >= until))
            return;
    }
}

static void *serve(void *arg)
{
    (void)arg;
    for (;;) {
        serve_some();
        shmemi_ucx_lock();
        ucx_status status = ucx.u.worker_arm(ucx.worker);
        bool pending = ucx.pending > 0;
        unsigned seen = atomic_load_explicit(&ucx.attended, memory_order_relaxed);
        shmemi_ucx_unlock();
        if (stopped(status == UCX_ERR_BUSY ? 0 : pending ? PENDING_MS : -1, true))
            return NULL;
        while (atomic_load_explicit(&ucx.attended, memory_order_relaxed) - seen >= ATTENDED_LOOKS) {
            seen = atomic_load_explicit(&ucx.attended, memory_order_relaxed);
            if (stopped(ATTENDED_MS, false))
                return NULL;
        }
    }
}

static bool ucx_progress(void)
{
    atomic_fetch_add_explicit(&ucx.attended, 1, memory_order_relaxed);
    if (pthread_mutex_trylock(&ucx.lock) != 0)
        return false;
    bool moved = ucx.u.progress(ucx.worker) > 0 || ucx.served;
    ucx.served = false;
    shmemi_ucx_unlock();
    return moved;
}

static int start_thread(void)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* the program's signals go to the program's threads */
    int err = pthread_create(&ucx.thread, NULL, serve, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "pthread_create: %s", strerror(err));
    (void)pthread_setname_np(ucx.thread, "shmem-ucx");
    ucx.running = true;
    return SHMEMX_SUCCESS;
}

/* ---- open and close ------------------------------------------------------------------------------------------------------- */

static int ucx_probe(char *why, size_t n)
{
    const char *path;
    char reason[256];
    struct shmemi_ucx u;
    if (!shmemi_ucx_find(&u, &path, reason, sizeof reason)) {
        snprintf(why, n, "%s", reason);
        return 0;
    }
    snprintf(why, n, "UCX %s, %s", u.version(), path);
    return 1;
}

static int failed(const char *what, ucx_status status)
{
    return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "UCX %s: %s: %s", ucx.u.version(), what, ucx.u.text(status));
}

/* Our wishes, where the user's UCX_* says nothing: a connection is made, and what is sent is acknowledged, within some 15 s,
 * or the peer counts as gone. Older UCX does not take them from here (tried: 1.13, 1.14, 1.17, 1.18, 1.20, 1.21, 1.22)
 * and waits as long as the kernel repeats (tcp_syn_retries, tcp_retries2). Not the user's choice is who executes atomics:
 * the processor, for the PEs beside the target use its instructions too. */
static ucx_status configure(void *config)
{
    static const struct {
        const char *name, *value;
        int since; /* minor version */
    } wishes[] = {{"TCP_SYN_CNT", "3", 17}, {"TCP_USER_TIMEOUT", "15s", 21}};
    int major = 0, minor = 0;
    (void)sscanf(ucx.u.version(), "%d.%d", &major, &minor);
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++) {
        char variable[64];
        snprintf(variable, sizeof variable, "UCX_%s", wishes[i].name);
        if (!getenv(variable) && (major > 1 || minor >= wishes[i].since))
            (void)ucx.u.config_modify(config, wishes[i].name, wishes[i].value);
    }
    return ucx.u.config_modify(config, "ATOMIC_MODE", "cpu");
}

static int open_worker(void)
{
    void *config = NULL;
    ucx_status status = ucx.u.config_read(NULL, NULL, &config);
    if (status)
        return failed("UCX_* in the environment", status);
    struct ucx_params params = {.mask = UCX_PARAM_FEATURES | UCX_PARAM_PEERS | UCX_PARAM_NAME,
                                .features = UCX_FEATURE_RMA | UCX_FEATURE_AMO32 | UCX_FEATURE_AMO64 |
                                            UCX_FEATURE_AM | UCX_FEATURE_WAKEUP,
                                .peers = (size_t)ucx.job->npes,
                                .name = "libshmem"};
    status = configure(config);
    if (status == UCX_OK)
        status = ucx.u.init(UCX_API_MAJOR, UCX_API_MINOR, &params, config, &ucx.context);
    ucx.u.config_release(config);
    if (status)
        return failed("no usable network (UCX_TLS, UCX_NET_DEVICES)", status);
    struct ucx_worker_params worker = {.mask = UCX_WORKER_THREAD_MODE, .thread_mode = UCX_THREAD_SERIALIZED};
    if ((status = ucx.u.worker_create(ucx.context, &worker, &ucx.worker)) != UCX_OK)
        return failed("worker", status);
    if ((status = ucx.u.worker_fd(ucx.worker, &ucx.fd)) != UCX_OK)
        return failed("worker's events", status);
    if ((status = shmemi_ucx_words_open()) != UCX_OK)
        return failed("active messages", status);
    return SHMEMX_SUCCESS;
}

static void close_endpoints(void)
{
    static const struct ucx_op force = {.mask = UCX_OP_FLAGS, .flags = UCX_CLOSE_FORCE};
    double until = shmemi_now() + CLOSE_SECONDS;
    for (int pe = 0; ucx.peers && pe < ucx.job->npes; pe++) {
        ucx_request request = ucx.peers[pe].ep ? ucx.u.ep_close(ucx.peers[pe].ep, &force) : NULL;
        if (!request || ucx_is_error(request))
            continue;
        while (ucx.u.request_status(request) == UCX_INPROGRESS && shmemi_now() < until)
            (void)ucx.u.progress(ucx.worker);
        ucx.u.request_free(request);
    }
}

static void close_memory(void)
{
    for (int s = 0; s < SHMEMI_SEGMENT_COUNT; s++) {
        for (int i = 0; i < ucx.segment[s].n; i++) {
            struct ucx_chunk *c = &ucx.segment[s].chunks[i];
            for (int pe = 0; pe < ucx.job->npes; pe++)
                if (c->at[pe].key)
                    ucx.u.key_destroy(c->at[pe].key);
            (void)ucx.u.mem_unmap(ucx.context, c->memory);
            free(c->at);
        }
        free(ucx.segment[s].chunks);
        ucx.segment[s].chunks = NULL;
        ucx.segment[s].n = 0;
    }
}

static void ucx_close(void)
{
    if (ucx.running) {
        (void)!write(ucx.stop, &(uint64_t){1}, sizeof(uint64_t));
        pthread_join(ucx.thread, NULL);
        ucx.running = false;
    }
    shmemi_ucx_gpu_close();
    if (ucx.stop >= 0)
        close(ucx.stop);
    if (ucx.worker) {
        /* keys before their endpoints, memory before its context */
        close_memory();
        close_endpoints();
        ucx.u.worker_destroy(ucx.worker);
    }
    if (ucx.context)
        ucx.u.cleanup(ucx.context);
    shmemi_ucx_words_close();
    shmemi_ucx_gpu_free();
    for (int i = 0; i < ucx.nprocesses; i++)
        if (ucx.processes[i].fd >= 0)
            close(ucx.processes[i].fd);
    ucx.nprocesses = 0;
    free(ucx.processes);
    free(ucx.process_of);
    free(ucx.peers);
    for (int i = 0; i < SHMEMI_CONTEXTS; i++) {
        free(ucx.marks[i]);
        ucx.marks[i] = NULL;
    }
    ucx.context = ucx.worker = ucx.peers = NULL;
    ucx.processes = NULL;
    ucx.process_of = NULL;
    ucx.pending = ucx.owing = 0;
    ucx.fd = ucx.stop = -1;
    ucx.lost = -1;
    ucx.job = NULL;
}

static int ucx_open(const struct shmemi_job *job)
{
    const char *path;
    char why[256];
    if (!shmemi_ucx_find(&ucx.u, &path, why, sizeof why))
        return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call, "%s", why);
    ucx.job = job;
    ucx.linger = shmemi_node.processors >= 2 * shmemi_node.neighbours ? LINGER : 0;
    ucx.peers = calloc((size_t)job->npes, sizeof *ucx.peers);
    ucx.processes = calloc((size_t)job->npes, sizeof *ucx.processes);
    ucx.process_of = calloc((size_t)job->npes, sizeof *ucx.process_of);
    ucx.stop = eventfd(0, EFD_CLOEXEC);
    int rc = !ucx.peers || !ucx.processes || !ucx.process_of || ucx.stop < 0
                 ? shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%d peers: %s", job->npes, strerror(errno))
                 : open_worker();
    if (rc == 0)
        rc = start_thread();
    if (rc)
        ucx_close();
    else
        shmemi_debug("UCX %s from %s", ucx.u.version(), path);
    return rc;
}

static int ucx_address(void *card, size_t room)
{
    struct ucx_card head;
    void *address;
    size_t n;
    make_card(&head);
    shmemi_ucx_lock();
    ucx_status status = ucx.u.worker_address(ucx.worker, &address, &n);
    bool fits = status == UCX_OK && sizeof head + n <= room;
    if (fits) {
        memcpy(card, &head, sizeof head);
        memcpy((char *)card + sizeof head, address, n);
    }
    if (status == UCX_OK)
        ucx.u.address_release(ucx.worker, address);
    shmemi_ucx_unlock();
    if (status)
        return failed("worker's address", status);
    if (!fits)
        return shmemi_fail(
            SHMEMX_ERR_LIMIT, call,
            "UCX's address has %zu bytes, %zu are the limit: fewer devices (UCX_NET_DEVICES) make it "
            "shorter",
            n, room - sizeof head);
    return (int)(sizeof head + n);
}

/* UCX of another minor version aborts the process where it should answer (1.20 with 1.22, 1.13 with either). */
static bool same_version(const char *theirs)
{
    const char *ours = ucx.u.version();
    size_t n = strcspn(ours, ".") + 1;
    n += strcspn(ours + n, ".");
    return strncmp(ours, theirs, n) == 0 && (theirs[n] == '.' || theirs[n] == 0);
}

static int ucx_connect(int pe, int segment, const void *card, size_t n)
{
    struct ucx_card theirs;
    bool gpu = segment == SHMEMI_SEGMENT_DEVICE;
    if (n <= sizeof theirs || (gpu && (ucx.job->local_of[pe] >= 0 || !ucx.job->segments[segment].base)))
        return 0; /* GPU memory of one node is mapped */
    memcpy(&theirs, card, sizeof theirs);
    if (!same_version(theirs.version) && gpu) {
        shmemi_debug("GPU memory of PE %d: not over UCX, which is %s there and %s here", pe, theirs.version,
                     ucx.u.version());
        return 0;
    }
    if (!same_version(theirs.version))
        return shmemi_fail(SHMEMX_ERR_MISMATCH, call,
                           "PE %d has UCX %s, this PE %s: give all PEs one version (SHMEM_UCX_LIB)", pe,
                           theirs.version, ucx.u.version());
    struct ucx_peer *p = &ucx.peers[pe];
    /* Not UCX's error mode "peer": from 1.20 on it has no software atomics in that. In its default mode on_error is called
     * all the same whenever a transport sees that the peer is gone. */
    struct ucx_ep_params params = {.mask = UCX_EP_ADDRESS | UCX_EP_ON_ERROR,
                                   .address = (const char *)card + sizeof theirs,
                                   .on_error = {on_error, p}};
    shmemi_ucx_lock();
    bool known = p->ep != NULL;
    ucx_status status = known ? UCX_OK : ucx.u.ep_create(ucx.worker, &params, &p->ep);
    if (status)
        p->ep = NULL;
    else if (!known)
        watch_process(pe, &theirs);
    shmemi_ucx_unlock();
    if (status == UCX_OK) {
        int rc = gpu ? shmemi_ucx_gpu_open(call) : SHMEMX_SUCCESS;
        return rc ? rc : 1;
    }
    return shmemi_fail(
        SHMEMX_ERR_SYSTEM, call,
        "UCX %s finds no way to PE %d: %s; are its TCP ports open (UCX_TCP_PORT_RANGE), the devices right "
        "(UCX_NET_DEVICES, UCX_TLS)?",
        ucx.u.version(), pe, ucx.u.text(status));
}

/* ---- memory ------------------------------------------------------------------------------------------------------------------ */

static int pack_key(void *memory, uint64_t base, void *key, size_t room)
{
    void *packed;
    size_t n;
    ucx_status status = ucx.u.key_pack(ucx.context, memory, &packed, &n);
    if (status)
        return failed("key of memory", status);
    bool fits = n + sizeof base <= room;
    if (fits) {
        memcpy(key, &base, sizeof base);
        memcpy((char *)key + sizeof base, packed, n);
    }
    ucx.u.key_buffer_release(packed);
    if (!fits)
        return shmemi_fail(SHMEMX_ERR_LIMIT, call, "UCX's key has %zu bytes, %zu are the limit", n,
                           room - sizeof base);
    return (int)(n + sizeof base);
}

static int ucx_expose(int segment, uint64_t offset, size_t n, void *key, size_t room)
{
    if (segment == SHMEMI_SEGMENT_DEVICE) { /* no key: peers name offsets */
        shmemi_ucx_gpu_expose(offset + n);
        return 0;
    }
    char *base = ucx.job->segments[segment].base + offset;
    struct ucx_map_params params = {.mask = UCX_MAP_ADDRESS | UCX_MAP_BYTES, .address = base, .bytes = n};
    struct ucx_chunk fresh = {.offset = offset, .n = n};
    shmemi_ucx_lock();
    int count = ucx.segment[segment].n, rc = SHMEMX_ERR_SYSTEM;
    struct ucx_chunk *chunks = realloc(ucx.segment[segment].chunks, sizeof fresh * (size_t)(count + 1));
    if (chunks)
        ucx.segment[segment].chunks = chunks;
    fresh.at = calloc((size_t)ucx.job->npes, sizeof *fresh.at);
    ucx_status status;
    if (!chunks || !fresh.at)
        rc = shmemi_fail(rc, call, "out of memory for %d keys", ucx.job->npes);
    else if ((status = ucx.u.mem_map(ucx.context, &params, &fresh.memory)) != UCX_OK)
        rc = shmemi_fail(rc, call, "UCX %s cannot register %zu bytes at %p: %s (ulimit -l?)", ucx.u.version(),
                         n, (void *)base, ucx.u.text(status));
    else if ((rc = pack_key(fresh.memory, (uint64_t)(uintptr_t)base, key, room)) < 0)
        (void)ucx.u.mem_unmap(ucx.context, fresh.memory);
    if (rc > 0) {
        chunks[count] = fresh;
        ucx.segment[segment].n++;
    } else {
        free(fresh.at);
    }
    shmemi_ucx_unlock();
    return rc;
}

static int ucx_learn(int pe, int segment, uint64_t offset, size_t n, const void *key, size_t key_bytes)
{
    shmemi_ucx_lock();
    struct ucx_chunk *c = &ucx.segment[segment].chunks[ucx.segment[segment].n - 1];
    while (c->offset != offset)
        c--;
    memcpy(&c->at[pe].base, key, sizeof c->at[pe].base);
    ucx_status status =
        ucx.u.key_unpack(ucx.peers[pe].ep, (const char *)key + sizeof c->at[pe].base, &c->at[pe].key);
    if (status)
        c->at[pe].key = NULL;
    shmemi_ucx_unlock();
    if (status == UCX_OK)
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_SYSTEM, call,
                       "UCX %s: key of PE %d for %zu bytes at offset 0x%llx (%zu bytes): %s", ucx.u.version(),
                       pe, n, (unsigned long long)offset, key_bytes, ucx.u.text(status));
}

/* Nothing has been asked for yet: an opening that failed. */
static void ucx_withdraw(int segment)
{
    if (segment != SHMEMI_SEGMENT_DEVICE)
        return;
    shmemi_ucx_gpu_close();
    shmemi_ucx_gpu_free();
}

const struct shmemi_transport shmemi_transport_ucx = {
    .name = "ucx",
    .probe = ucx_probe,
    .open = ucx_open,
    .address = ucx_address,
    .connect = ucx_connect,
    .expose = ucx_expose,
    .learn = ucx_learn,
    .withdraw = ucx_withdraw,
    .close = ucx_close,
    .put = shmemi_ucx_put,
    .get = shmemi_ucx_get,
    .amo = shmemi_ucx_amo,
    .put_signal = shmemi_ucx_put_signal,
    .fence = shmemi_ucx_fence,
    .quiet = shmemi_ucx_quiet,
    .progress = ucx_progress,
    .lost = ucx_lost,
};
