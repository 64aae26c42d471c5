/* Routes: which transport serves a peer. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

#define SHMEM_TRANSPORT(name, text) extern const struct shmemi_transport shmemi_transport_##name;
#include "transports.def"
#undef SHMEM_TRANSPORT

static const struct {
    const struct shmemi_transport *raw;
    const char *text;
} rows[] = {
#define SHMEM_TRANSPORT(name, text) {&shmemi_transport_##name, text},
#include "transports.def"
#undef SHMEM_TRANSPORT
};
enum { ROWS = sizeof rows / sizeof *rows };
_Static_assert(ROWS <= sizeof shmemi_world.open / sizeof *shmemi_world.open, "room for every transport");

/* The same tables with no slot empty. */
static struct shmemi_transport full[ROWS];

static int unsupported(const char *what, int pe)
{
    return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, what, "the transport to PE %d does not offer this operation",
                       pe);
}
static void *no_map(int pe, int segment, uint64_t offset)
{
    (void)pe, (void)segment, (void)offset;
    return NULL;
}
static int no_put(int pe, int segment, uint64_t offset, const void *source, size_t n, unsigned how)
{
    (void)segment, (void)offset, (void)source, (void)n, (void)how;
    return unsupported("put", pe);
}
static int no_get(int pe, int segment, uint64_t offset, void *dest, size_t n, unsigned how)
{
    (void)segment, (void)offset, (void)dest, (void)n, (void)how;
    return unsupported("get", pe);
}
static int no_amo(int pe, int segment, uint64_t offset, const struct shmemi_amo *a, unsigned how)
{
    (void)segment, (void)offset, (void)a, (void)how;
    return unsupported("atomic", pe);
}
static int no_put_signal(int pe, int segment, uint64_t offset, const void *source, size_t n, int sig_segment,
                         uint64_t sig_offset, uint64_t signal, int sig_op, unsigned how)
{
    (void)segment, (void)offset, (void)source, (void)n, (void)sig_segment, (void)sig_offset, (void)signal;
    (void)sig_op, (void)how;
    return unsupported("put_signal", pe);
}
static int no_order(int pe, unsigned context)
{
    (void)context;
    return unsupported("fence or quiet", pe);
}
static bool no_progress(void)
{
    return false;
}
static int no_view(int pe, void *view, size_t bytes)
{
    (void)view, (void)bytes;
    return unsupported("device view", pe);
}

static void fill(struct shmemi_transport *t)
{
#define SHMEMI_FILL(slot, with)                                                                              \
    if (!t->slot)                                                                                            \
    t->slot = (with)
    SHMEMI_FILL(map, no_map);
    SHMEMI_FILL(put, no_put);
    SHMEMI_FILL(get, no_get);
    SHMEMI_FILL(amo, no_amo);
    SHMEMI_FILL(put_signal, no_put_signal);
    SHMEMI_FILL(fence, no_order);
    SHMEMI_FILL(quiet, no_order);
    SHMEMI_FILL(progress, no_progress);
    SHMEMI_FILL(device_view, no_view);
    /* strided and buffer_register stay NULL: whoever asks for them looks */
#undef SHMEMI_FILL
}

static bool is_open(const struct shmemi_transport *t)
{
    for (int i = 0; i < shmemi_world.nopen; ++i)
        if (shmemi_world.open[i] == t)
            return true;
    return false;
}

/* ---- which transports, in which order: SHMEM_TRANSPORTS ------------------------------------------------------------- */

static int order[ROWS], norder;
static bool maps_node; /* shm is among them: else it serves a PE's own memory alone, each PE being a node */

static int unknown_name(const char *call, const char *name, size_t n)
{
    char known[128] = "";
    for (int i = 0; i < ROWS; ++i)
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "",
                 rows[i].raw->name);
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "SHMEM_TRANSPORTS names \"%.*s\"; there are %s", (int)n,
                       name, known);
}

int shmemi_route_settings(const char *call)
{
    const char *text = shmemi_env.TRANSPORTS;
    norder = 0;
    maps_node = true;
    if (strcmp(text, "auto") == 0) {
        while (norder < ROWS)
            order[norder] = norder, norder++;
        return SHMEMX_SUCCESS;
    }
    for (const char *at = text; *at; at += *at == ',') {
        size_t n = strcspn(at, ",");
        int i = 0;
        while (i < ROWS && (strlen(rows[i].raw->name) != n || strncmp(rows[i].raw->name, at, n) != 0))
            i++;
        if (i == ROWS)
            return unknown_name(call, at, n);
        for (int k = 0; k < norder; ++k)
            if (order[k] == i)
                return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "SHMEM_TRANSPORTS names %s twice",
                                   rows[i].raw->name);
        order[norder++] = i;
        at += n;
    }
    /* shm goes first, listed or not: notes need a PE's own memory, and its node's where that is what a node is */
    int shm = 0, at = 0;
    while (rows[shm].raw != &shmemi_transport_shm)
        shm++;
    while (at < norder && order[at] != shm)
        at++;
    maps_node = at < norder;
    norder += !maps_node;
    memmove(order + 1, order, sizeof order[0] * (size_t)at);
    order[0] = shm;
    return SHMEMX_SUCCESS;
}

bool shmemi_route_maps_node(void)
{
    return maps_node;
}

static int add(char *text, size_t n, size_t *at, const char *fmt, ...) SHMEMI_PRINTF(4, 5);
static int add(char *text, size_t n, size_t *at, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int more = *at < n ? vsnprintf(text + *at, n - *at, fmt, ap) : 0;
    va_end(ap);
    *at += more > 0 ? (size_t)more : 0;
    return more;
}

/* ---- no route ------------------------------------------------------------------------------------------------------- */

/* To GPU memory of another host that kernels alone may reach: nothing is offered, and nothing is under way. */
static int none_order(int pe, unsigned context)
{
    (void)pe, (void)context;
    return SHMEMX_SUCCESS;
}
static struct shmemi_transport none = {.name = "no transport", .fence = none_order, .quiet = none_order};

bool shmemi_route_is(int pe, int segment)
{
    const struct shmemi_transport *const *route =
        segment == SHMEMI_SEGMENT_HOST ? shmemi_world.route : shmemi_world.gpu_route;
    return route && route[pe] && route[pe] != &none;
}

/* ---- routes --------------------------------------------------------------------------------------------------------- */

/* Gives `t` the PEs whose segment has no route yet; opens it for that, and leaves it open if it serves any. */
static int connect_rest(struct shmemi_transport *t, int segment, const struct shmemi_transport **route,
                        int *without)
{
    struct shmemi_world *w = &shmemi_world;
    bool used = is_open(t);
    int rc = used ? 0 : t->open(&w->job);
    if (rc)
        return rc;
    for (int pe = 0; pe < w->job.npes && rc >= 0; ++pe) {
        if (route[pe] || (rc = t->connect(pe, segment, NULL, 0)) <= 0)
            continue;
        route[pe] = t;
        --*without;
        if (!used)
            w->open[w->nopen++] = t;
        used = true;
    }
    if (!used)
        t->close();
    return rc < 0 ? rc : SHMEMX_SUCCESS;
}

/* A route to every PE's segment, by the first transport in order that reaches it. */
static int find_routes(const char *call, int segment, const struct shmemi_transport **route)
{
    int without = shmemi_world.job.npes;
    char absent[512] = ""; /* networks, and what they lack */
    size_t at = 0;
    for (int k = 0; k < norder; ++k) {
        struct shmemi_transport *t = &full[order[k]];
        char why[160];
        if (!t->name) {
            *t = *rows[order[k]].raw;
            fill(t);
        }
        /* not asked where nothing is missing: the answer may load a library */
        int rc = SHMEMX_SUCCESS, there = without > 0 && t->probe(why, sizeof why);
        if (!there && without > 0) {
            shmemi_debug("transport %s: %s", t->name, why);
            if (rows[order[k]].raw->address)
                add(absent, sizeof absent, &at, "; %s: %s", t->name, why);
        }
        if (rows[order[k]].raw->address)
            rc = shmemi_network_connect(call, t, there, segment, route, &without);
        else if (there && without > 0)
            rc = connect_rest(t, segment, route, &without);
        if (rc)
            return rc;
    }
    for (int pe = 0; segment == SHMEMI_SEGMENT_DEVICE && pe < shmemi_world.job.npes; ++pe)
        if (!route[pe] && !shmemi_node.on_host[pe]) {
            fill(&none);
            route[pe] = &none;
            without--;
        }
    if (without == 0)
        return SHMEMX_SUCCESS;
    int pe = 0;
    while (route[pe])
        pe++;
    return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call,
                       "no transport reaches the %s memory of PE %d (%d of %d PEs); SHMEM_TRANSPORTS=%s%s",
                       segment == SHMEMI_SEGMENT_HOST ? "host" : "GPU", pe, without, shmemi_world.job.npes,
                       shmemi_env.TRANSPORTS, absent);
}

static int new_table(const char *call, const struct shmemi_transport ***route)
{
    *route = calloc((size_t)shmemi_world.job.npes, sizeof **route);
    return *route ? SHMEMX_SUCCESS
                  : shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", shmemi_world.job.npes);
}

int shmemi_route_open(const char *call)
{
    struct shmemi_world *w = &shmemi_world;
    int rc = new_table(call, &w->route);
    return rc ? rc : find_routes(call, SHMEMI_SEGMENT_HOST, w->route);
}

int shmemi_route_open_gpu(const char *call)
{
    const struct shmemi_transport **route = NULL;
    int rc = new_table(call, &route);
    if (rc || (rc = find_routes(call, SHMEMI_SEGMENT_DEVICE, route)) != 0)
        free(route);
    else
        shmemi_world.gpu_route = route;
    for (int pe = 0; rc == 0 && pe < shmemi_world.job.npes; ++pe)
        shmemi_world.fence_waits |= route[pe]->address && route[pe] != shmemi_world.route[pe];
    return rc;
}

static bool serves(const struct shmemi_transport *const *route, const struct shmemi_transport *t)
{
    for (int pe = 0; route && pe < shmemi_world.job.npes; ++pe)
        if (route[pe] == t)
            return true;
    return false;
}

void shmemi_route_close_gpu(void)
{
    struct shmemi_world *w = &shmemi_world;
    int kept = 0;
    for (int i = 0; i < w->nopen; ++i) {
        if (!serves(w->route, w->open[i]) && !w->open[i]->address) {
            w->open[i]->close();
            continue;
        }
        if (w->open[i]->withdraw)
            w->open[i]->withdraw(SHMEMI_SEGMENT_DEVICE);
        w->open[kept++] = w->open[i];
    }
    w->nopen = kept;
    free(w->gpu_route);
    w->gpu_route = NULL;
    w->fence_waits = false;
}

int shmemi_route_register(void *addr, size_t n, unsigned *known, unsigned *held)
{
    unsigned new_known = 0, new_held = 0;
    for (int i = 0; i < ROWS; ++i) {
        const struct shmemi_transport *t = &full[i];
        unsigned bit = 1u << i;
        if ((*known & bit) || !is_open(t))
            continue;
        int rc = t->buffer_register ? t->buffer_register(addr, n) : 0;
        if (rc < 0) {
            shmemi_route_unregister(addr, &new_known, &new_held);
            return rc;
        }
        new_known |= bit;
        new_held |= rc ? bit : 0;
    }
    *known |= new_known;
    *held |= new_held;
    return SHMEMX_SUCCESS;
}

void shmemi_route_unregister(void *addr, unsigned *known, unsigned *held)
{
    for (int i = 0; i < ROWS; ++i)
        if (*held & 1u << i)
            full[i].buffer_unregister(addr);
    *known = *held = 0;
}

void shmemi_route_close(void)
{
    struct shmemi_world *w = &shmemi_world;
    shmemi_network_close();
    for (int i = 0; i < w->nopen; ++i)
        w->open[i]->close();
    w->nopen = 0;
    free(w->route);
    free(w->gpu_route);
    w->route = w->gpu_route = NULL;
    w->fence_waits = false;
}

void shmemi_route_report(char *text, size_t n)
{
    size_t at = 0;
    text[0] = 0;
    for (int i = 0; i < ROWS; ++i) {
        char why[128];
        int there = rows[i].raw->probe(why, sizeof why);
        add(text, n, &at, "transport %s: %s (%s); %s\n", rows[i].raw->name,
            there ? "available" : "not available", why, rows[i].text);
    }
}

void shmemi_route_table(char *text, size_t n)
{
    const struct {
        const char *memory;
        const struct shmemi_transport *const *route;
    } tables[] = {{"host", shmemi_world.route}, {"GPU", shmemi_world.gpu_route}};
    size_t at = 0;
    int npes = shmemi_world.npes;
    text[0] = 0;
    for (size_t k = 0; k < sizeof tables / sizeof *tables; ++k)
        for (int from = 0, to; tables[k].route && from < npes; from = to) {
            const struct shmemi_transport *t = tables[k].route[from];
            for (to = from + 1; to < npes && tables[k].route[to] == t;)
                to++;
            if (to - from == 1)
                add(text, n, &at, "%s memory of PE %d: %s\n", tables[k].memory, from, t->name);
            else
                add(text, n, &at, "%s memory of PEs %d to %d: %s\n", tables[k].memory, from, to - 1, t->name);
        }
}
