/* Memory spaces: ranges of the host heap whose pages lie on chosen NUMA nodes.
 *
 * The heaps of a node's PEs are one file in memory that all of them map, so a policy belongs to the pages of the file:
 * mbind on a shared mapping keeps it with the file's range, and it holds for every page that comes from then on, whichever process
 * makes it come. Three things follow. Each PE places its own copy, once. A range must have no pages when it is placed: those of
 * earlier blocks are given back first, and memory that a network has registered is not taken. And no peer may touch the
 * copy before: the barrier at the end of space_create sees to that, with all pages there already, so that a node that is full
 * is an error of the call and no signal in the middle of the program (a process that has bound its memory to a full node is killed
 * by the kernel). */
#include "heap.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/node.h"
#include "base/numa.h"
#include "team.h"

enum { SPACES = 64 };
static struct space {
    bool used;
    unsigned generation; /* of the slot; part of the handle */
    struct shmemi_area area;
    int numa_node; /* as resolved: a number, or SHMEMX_NUMA_INTERLEAVE */
} spaces[SPACES];
static unsigned generations;

/* Pages come in steps of this, each after a look at what the node has left: others take from it too. */
static const size_t STEP_BYTES = 64u << 20;

/* ---- which nodes ------------------------------------------------------------------------------------------------------ */

/* The nodes of a request, and *numa_node as resolved. */
static int nodes_of(const char *call, const char *what, int *numa_node, struct shmemi_numa_set *nodes)
{
    struct shmemi_numa_set usable;
    char text[256];
    shmemi_numa_usable(&usable);
    if (*numa_node == SHMEMX_NUMA_NEAREST)
        *numa_node = shmemi_numa_nearest();
    *nodes = usable;
    if (*numa_node == SHMEMX_NUMA_INTERLEAVE)
        return SHMEMX_SUCCESS;
    memset(nodes, 0, sizeof *nodes);
    if (shmemi_numa_has(&usable, *numa_node)) {
        shmemi_numa_add(nodes, *numa_node);
        return SHMEMX_SUCCESS;
    }
    shmemi_numa_text(&usable, text, sizeof text);
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                       "%s %d is no NUMA node with memory that this process may use; there are %s, "
                       "SHMEMX_NUMA_NEAREST (%d) and SHMEMX_NUMA_INTERLEAVE (%d)",
                       what, *numa_node, text, SHMEMX_NUMA_NEAREST, SHMEMX_NUMA_INTERLEAVE);
}

/* SHMEM_HEAP_NUMA: *node as in a request; TOUCH has none. */
static int heap_policy(const char *call, enum shmemi_numa_policy *policy, int *node)
{
    const char *word = shmemi_env.HEAP_NUMA;
    char *end;
    *policy = SHMEMI_NUMA_PREFER;
    if (strcmp(word, "touch") == 0) {
        *policy = SHMEMI_NUMA_TOUCH;
    } else if (strcmp(word, "nearest") == 0) {
        *node = SHMEMX_NUMA_NEAREST;
    } else if (strcmp(word, "interleave") == 0) {
        *policy = SHMEMI_NUMA_INTERLEAVE;
        *node = SHMEMX_NUMA_INTERLEAVE;
    } else {
        long number = strtol(word, &end, 10);
        if (end == word || *end || number < 0 || number > INT32_MAX)
            return shmemi_fail(
                SHMEMX_ERR_ARGUMENT, call,
                "SHMEM_HEAP_NUMA=%.100s is unknown; choices: touch, nearest, interleave, the number of a "
                "NUMA node",
                word);
        *node = (int)number;
    }
    return SHMEMX_SUCCESS;
}

int shmemi_space_settings(const char *call)
{
    enum shmemi_numa_policy policy;
    int node;
    return heap_policy(call, &policy, &node);
}

int shmemi_space_heap_policy(const char *call, void *addr, size_t bytes, bool again)
{
    enum shmemi_numa_policy policy;
    struct shmemi_numa_set nodes = {{0}};
    int node = 0, rc = heap_policy(call, &policy, &node);
    if (rc || (policy == SHMEMI_NUMA_TOUCH && !again))
        return rc;
    if (policy != SHMEMI_NUMA_TOUCH)
        rc = nodes_of(call, "SHMEM_HEAP_NUMA:", &node, &nodes);
    return rc ? rc : shmemi_numa_place(call, addr, bytes, policy, &nodes);
}

/* ---- making one --------------------------------------------------------------------------------------------------------- */

/* Do the nodes have `bytes` left? */
static int room(const char *call, const struct shmemi_numa_set *nodes, size_t bytes, int pes)
{
    size_t total = 0, left = 0, t, l;
    for (int i = shmemi_numa_next(nodes, 0); i >= 0; i = shmemi_numa_next(nodes, i + 1)) {
        if (!shmemi_numa_memory(i, &t, &l))
            return SHMEMX_SUCCESS; /* the kernel does not say */
        total += t;
        left += l;
    }
    if (bytes <= left)
        return SHMEMX_SUCCESS;
    char text[256];
    shmemi_numa_text(nodes, text, sizeof text);
    return shmemi_fail(SHMEMX_ERR_NO_MEMORY, call,
                       "NUMA node %s has %zu of its %zu bytes left, %zu are needed (spaces of %d PEs)", text,
                       left, total, bytes, pes);
}

/* Room for this PE's copy and those of the PEs of this machine that ask for the same nodes; collective. */
static int room_for_all(const char *call, int numa_node, const struct shmemi_numa_set *nodes, size_t bytes)
{
    int rc = 0, pes = 0;
    struct shmemi_team *world = shmemi_team_get(call, SHMEM_TEAM_WORLD, &rc);
    if (!world ||
        (rc = shmemi_show(call, world, shmemi_tag(SHMEMI_MEMORY, 7, 0), &numa_node, sizeof numa_node)) != 0)
        return rc;
    for (int j = 0; j < world->n; ++j) {
        int theirs;
        memcpy(&theirs, shmemi_note_of(world, j, world->epoch)->data, sizeof theirs);
        pes += shmemi_node.on_host[j] && theirs == numa_node;
    }
    return shmemi_all_well(call, room(call, nodes, bytes * (size_t)pes, pes));
}

/* The pages of this PE's copy, all of them, on the nodes. */
static int place(const char *call, size_t offset, size_t bytes, int numa_node,
                 const struct shmemi_numa_set *nodes)
{
    shmemi_heap_drop_pages(offset, bytes);
    int rc = shmemi_numa_place(
        call, shmemi_heap_place(offset), bytes,
        numa_node == SHMEMX_NUMA_INTERLEAVE ? SHMEMI_NUMA_INTERLEAVE : SHMEMI_NUMA_BIND, nodes);
    for (size_t at = 0; at < bytes && rc == 0; at += STEP_BYTES) {
        size_t n = bytes - at < STEP_BYTES ? bytes - at : STEP_BYTES;
        if ((rc = room(call, nodes, n, 1)) == 0)
            rc = shmemi_heap_commit(call, offset + at, n);
    }
    return rc;
}

/* The range is the heap's again, and its pages come by the heap's policy. */
static int unplace(const char *call, size_t offset, size_t bytes)
{
    if (!shmemi_route_has_networks()) /* else it is registered, with the pages that it has */
        shmemi_heap_drop_pages(offset, bytes);
    return shmemi_space_heap_policy(call, shmemi_heap_place(offset), bytes, true);
}

static int create(const char *call, struct space *s, int numa_node, const struct shmemi_numa_set *nodes,
                  size_t bytes)
{
    struct shmemi_area area = {.at = 0};
    int rc = room_for_all(call, numa_node, nodes, bytes);
    if (rc)
        return rc;
    if (!shmemi_heap_reserve(call, bytes, &area.at))
        return SHMEMX_ERR_NO_MEMORY; /* the heaps are alike, so on all PEs */
    rc = place(call, area.at, bytes, numa_node, nodes);
    if (rc == 0 && !shmemi_alloc_open(&area.alloc, bytes))
        rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    rc = shmemi_all_well(call, rc);
    if (rc == 0)
        rc = shmemi_heap_cover_exactly(call, shmemi_world.internal_bytes + area.at + bytes);
    if (rc) {
        shmemi_alloc_close(&area.alloc);
        (void)unplace(call, area.at, bytes);
        shmemi_heap_unreserve(area.at);
        return rc;
    }
    pthread_mutex_lock(&shmemi_heap_blocks);
    *s = (struct space){true, ++generations, area, numa_node};
    pthread_mutex_unlock(&shmemi_heap_blocks);
    return SHMEMX_SUCCESS;
}

int shmemx_space_create(int numa_node, size_t nbytes, shmemx_space_t *space)
{
    const char *call = "shmemx_space_create";
    struct shmemi_numa_set nodes;
    int rc, slot = 0;
    SHMEMI_REQUIRE_INIT(call);
    if (!space)
        return shmemi_heap_refuse(call, shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "space is NULL"));
    *space = SHMEMX_SPACE_INVALID;
    if (nbytes == 0)
        return shmemi_heap_refuse(call, shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "a space of 0 bytes"));
    if ((rc = nodes_of(call, "numa_node", &numa_node, &nodes)) != 0)
        return shmemi_heap_refuse(call, rc);
    /* a size that no heap has stays one that fits nowhere, on all PEs */
    size_t bytes = nbytes > SIZE_MAX / 2 ? SIZE_MAX / 2 + 1 : shmemi_heap_aligned(nbytes);
    struct shmemi_heap_request mine = {.what = SHMEMI_HEAP_SPACE, .bytes = bytes};
    if ((rc = shmemi_heap_agree(call, &mine)) != 0)
        return rc;
    while (slot < SPACES && spaces[slot].used)
        slot++;
    if (slot == SPACES)
        return shmemi_fail(SHMEMX_ERR_LIMIT, call, "%d spaces are in use, no more are possible", SPACES);
    if (bytes > shmemi_world.segments[SHMEMI_SEGMENT_HOST].bytes) { /* before sums of it */
        size_t offset;
        (void)shmemi_heap_reserve(call, bytes, &offset);
        return SHMEMX_ERR_NO_MEMORY;
    }
    if ((rc = create(call, &spaces[slot], numa_node, &nodes, bytes)) == 0)
        *space = (shmemx_space_t)((uintptr_t)spaces[slot].generation * SPACES + (unsigned)slot);
    return rc;
}

/* ---- using one ---------------------------------------------------------------------------------------------------------- */

static struct space *space_of(const char *call, shmemx_space_t space)
{
    uintptr_t handle = (uintptr_t)space;
    struct space *s = &spaces[handle % SPACES];
    if (handle && s->used && s->generation == handle / SPACES)
        return s;
    (void)shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%p is no memory space (destroyed already?)", (void *)space);
    return NULL;
}

static int space_number(const struct space *s)
{
    return (int)(s - spaces) + 1;
}

struct shmemi_area *shmemi_space_at(size_t offset, int *space)
{
    *space = 0;
    for (int i = 0; i < SPACES; ++i)
        if (spaces[i].used && offset - spaces[i].area.at < spaces[i].area.alloc.size) {
            *space = i + 1;
            return &spaces[i].area;
        }
    return NULL;
}

int shmemx_space_allocate(shmemx_space_t space, void **ptr, size_t size, size_t alignment, int zeroed)
{
    const char *call = "shmemx_space_allocate";
    SHMEMI_REQUIRE_INIT(call);
    if (!ptr)
        return shmemi_heap_refuse(call, shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "ptr is NULL"));
    *ptr = NULL;
    struct space *s = space_of(call, space);
    if (!s)
        return shmemi_heap_refuse(call, SHMEMX_ERR_ARGUMENT);
    return shmemi_heap_take(call, &s->area, space_number(s), ptr, size, alignment, zeroed != 0);
}

void *shmemx_space_malloc(shmemx_space_t space, size_t size)
{
    void *p = NULL;
    shmemi_void(shmemx_space_allocate(space, &p, size, 0, 0));
    return p;
}

int shmemx_space_info(shmemx_space_t space, int *numa_node, size_t *total, size_t *used, size_t *largest)
{
    const char *call = "shmemx_space_info";
    SHMEMI_REQUIRE_INIT(call);
    const struct space *s = space_of(call, space);
    if (!s)
        return SHMEMX_ERR_ARGUMENT;
    if (numa_node)
        *numa_node = s->numa_node;
    if (total)
        *total = s->area.alloc.size;
    if (used)
        *used = s->area.alloc.used;
    if (largest)
        *largest = shmemi_alloc_largest(&s->area.alloc);
    return SHMEMX_SUCCESS;
}

int shmemx_space_destroy(shmemx_space_t space)
{
    const char *call = "shmemx_space_destroy";
    SHMEMI_REQUIRE_INIT(call);
    struct space *s = space_of(call, space);
    if (!s)
        return shmemi_heap_refuse(call, SHMEMX_ERR_ARGUMENT);
    const size_t offset = s->area.at, bytes = s->area.alloc.size;
    struct shmemi_heap_request mine = {
        .what = SHMEMI_HEAP_UNSPACE, .space = space_number(s), .offset = offset, .bytes = bytes};
    int rc = shmemi_heap_agree(call, &mine);
    if (rc)
        return rc;
    if (s->area.alloc.used) /* the same on all PEs */
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "%zu bytes of the space are in use: shmem_free comes first", s->area.alloc.used);
    pthread_mutex_lock(&shmemi_heap_blocks);
    s->used = false;
    shmemi_alloc_close(&s->area.alloc);
    pthread_mutex_unlock(&shmemi_heap_blocks);
    rc = shmemi_all_well(call,
                         unplace(call, offset, bytes)); /* nobody gets the range before all have left it */
    shmemi_heap_unreserve(offset);
    return rc;
}

/* ---- what there is -------------------------------------------------------------------------------------------------------- */

int shmemx_numa_info(int index, int *numa_node, size_t *total, size_t *available)
{
    struct shmemi_numa_set usable;
    shmemi_numa_usable(&usable);
    int node = shmemi_numa_next(&usable, 0);
    for (int i = 0; i < index && node >= 0; ++i)
        node = shmemi_numa_next(&usable, node + 1);
    if (index < 0 || node < 0)
        return SHMEMX_ERR_ARGUMENT; /* the end of the list: no failure */
    size_t t = 0, a = 0;
    (void)shmemi_numa_memory(node, &t, &a);
    if (numa_node)
        *numa_node = node;
    if (total)
        *total = t;
    if (available)
        *available = a;
    return SHMEMX_SUCCESS;
}

int shmemx_numa_nearest(void)
{
    return shmemi_numa_nearest();
}

void shmemi_space_report(char *text, size_t n)
{
    struct shmemi_numa_set usable;
    int count = shmemi_numa_usable(&usable);
    int at = snprintf(text, n, "NUMA: %d node%s with memory, nearest %d", count, count == 1 ? "" : "s",
                      shmemi_numa_nearest());
    for (int i = shmemi_numa_next(&usable, 0); i >= 0 && (size_t)at < n;
         i = shmemi_numa_next(&usable, i + 1)) {
        size_t total, left;
        if (shmemi_numa_memory(i, &total, &left))
            at += snprintf(text + at, n - (size_t)at, "; node %d: %zu bytes, %zu available", i, total, left);
    }
    if ((size_t)at < n)
        at += snprintf(text + at, n - (size_t)at, "; the heap's pages: %s\n", shmemi_env.HEAP_NUMA);
    for (int i = 0; i < SPACES && (size_t)at < n; ++i) {
        const struct space *s = &spaces[i];
        char where[24] = "all nodes in turn";
        if (s->used && s->numa_node >= 0)
            snprintf(where, sizeof where, "node %d", s->numa_node);
        if (s->used)
            at += snprintf(text + at, n - (size_t)at, "space: %d, %s, %zu bytes, %zu in use\n", i, where,
                           s->area.alloc.size, s->area.alloc.used);
    }
}

void shmemi_space_close(void)
{
    for (int i = 0; i < SPACES; ++i) {
        shmemi_alloc_close(&spaces[i].area.alloc);
        spaces[i].used = false;
    }
}
