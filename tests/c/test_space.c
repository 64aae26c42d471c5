/* Memory spaces: pages on the NUMA node that was asked for, as the kernel counts them; blocks in them are symmetric memory as any
 * other; what cannot be is an error that says why and changes nothing. Machines that this one is not (two nodes, a full
 * node, none that the kernel tells of) are made of files below shmemi_numa_root.
 *
 * pes: 1 2 4 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/mempolicy.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/numa.h"
#include "heap.h"
#include "pes.h"

static const size_t MIB = 1u << 20;
static const char *const real_root = "";

static size_t heap_used(void)
{
    size_t used = 0;
    CHECK(shmemx_heap_info(SHMEMX_MEM_HOST, NULL, &used, NULL) == 0, "%s", shmemx_last_error());
    return used;
}

/* Node of each page that this process has touched, as move_pages(2) tells; counts[node], or -1 where it may not be asked. */
static int count_pages(char *p, size_t bytes, size_t counts[SHMEMI_NUMA_NODES])
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), n = bytes / page;
    void **pages = pes_private(n * sizeof *pages);
    int *nodes = pes_private(n * sizeof *nodes), wrong = 0;
    for (size_t i = 0; i < n; i++) {
        pages[i] = p + i * page;
        *(volatile char *)pages[i] = 1;
    }
    memset(counts, 0, SHMEMI_NUMA_NODES * sizeof *counts);
    long rc = syscall(SYS_move_pages, 0, n, pages, NULL, nodes, 0);
    int err = errno;
    for (size_t i = 0; i < n && rc == 0; i++)
        if (nodes[i] >= 0 && nodes[i] < SHMEMI_NUMA_NODES)
            counts[nodes[i]]++;
        else
            wrong++;
    free(pages);
    free(nodes);
    CHECK(rc == 0 || err == EPERM || err == ENOSYS, "move_pages: %s", strerror(err));
    CHECK(wrong == 0, "%d of %zu pages have no node", wrong, n);
    return rc == 0 ? 0 : -1;
}

/* The pages of a space's block are on its node: on all of them in turn for interleave. */
static void check_place(int asked, int node, char *p, size_t bytes)
{
    size_t counts[SHMEMI_NUMA_NODES], all = bytes / (size_t)sysconf(_SC_PAGESIZE);
    struct shmemi_numa_set usable;
    int nodes = shmemi_numa_usable(&usable);
    if (count_pages(p, bytes, counts) != 0)
        return;
    if (asked != SHMEMX_NUMA_INTERLEAVE) {
        CHECK(counts[node] == all, "asked for %d, got %d: %zu of %zu pages are there", asked, node,
              counts[node], all);
        return;
    }
    CHECK(node == SHMEMX_NUMA_INTERLEAVE, "interleave is node %d", node);
    for (int i = shmemi_numa_next(&usable, 0); i >= 0; i = shmemi_numa_next(&usable, i + 1))
        CHECK(counts[i] >= all / (size_t)nodes - 1 && counts[i] <= all / (size_t)nodes + 1,
              "%zu of %zu pages on node %d of %d", counts[i], all, i, nodes);
}

/* The policy of the page at p is `mode`, as get_mempolicy(2) tells. */
static void check_policy(const char *what, void *p, int mode)
{
    int got = -1;
    unsigned long nodes[SHMEMI_NUMA_NODES / SHMEMI_NUMA_WORD] = {0};
    long rc = syscall(SYS_get_mempolicy, &got, nodes, SHMEMI_NUMA_NODES + 1ul, p, MPOL_F_ADDR);
    CHECK((rc == 0 && got == mode) || (rc != 0 && (errno == EPERM || errno == ENOSYS)),
          "%s: policy %d instead of %d (%s)", what, got, mode, rc ? strerror(errno) : "");
}

static void test_heap_policy(void)
{
    static const struct {
        const char *word;
        int mode; /* -1 = refused */
        const char *text;
    } rows[] = {{"touch", MPOL_LOCAL, ""},           {"nearest", MPOL_PREFERRED, ""},
                {"interleave", MPOL_INTERLEAVE, ""}, {"1023", -1, "1023 is no NUMA node"},
                {"-1", -1, "choices: touch"},        {"0x", -1, "choices"},
                {"99999999999", -1, "choices"},      {"near", -1, "choices"}};
    const char *word = shmemi_env.HEAP_NUMA;
    char *p = shmem_align(2 * MIB, 2 * MIB);
    shmemx_log_errors(0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        shmemi_env.HEAP_NUMA = rows[i].word;
        int rc = shmemi_space_heap_policy("test", p, 2 * MIB, true);
        CHECK(rc == (rows[i].mode < 0 ? SHMEMX_ERR_ARGUMENT : 0), "%s: %d %s", rows[i].word, rc,
              shmemx_last_error());
        CHECK(rc == 0 || strstr(shmemx_last_error(), rows[i].text), "%s: %s", rows[i].word,
              shmemx_last_error());
        if (rc == 0)
            check_policy(rows[i].word, p, rows[i].mode);
    }
    shmemx_log_errors(1);
    shmemi_env.HEAP_NUMA = word;
    CHECK(shmemi_space_heap_policy("test", p, 2 * MIB, true) == 0, "%s", shmemx_last_error());
    shmem_free(p);
}

/* Spaces of all PEs keep their policies when one of two is destroyed: the file of their heaps is one. */
static void test_neighbours(void)
{
    shmemx_space_t first, second;
    CHECK(shmemx_space_create(SHMEMX_NUMA_NEAREST, 1, &first) == 0, "%s", shmemx_last_error());
    CHECK(shmemx_space_create(SHMEMX_NUMA_INTERLEAVE, 1, &second) == 0, "%s", shmemx_last_error());
    char *p = shmemx_space_malloc(second, 64);
    CHECK(shmemx_space_destroy(first) == 0, "%s", shmemx_last_error());
    for (int pe = 0; pe < npes; pe++) {
        char *theirs = shmem_ptr(p, pe);
        if (theirs)
            check_policy("a neighbour's space", theirs, MPOL_INTERLEAVE);
    }
    shmem_free(p);
    CHECK(shmemx_space_destroy(second) == 0, "%s", shmemx_last_error());
}

/* A job with SHMEM_HEAP_NUMA: the heap has the policy, a space its own, and gives the range back to the heap's. */
static void test_heap_of_a_job(void)
{
    setenv("SHMEM_HEAP_NUMA", "interleave", 1);
    pes_begin();
    shmemx_space_t space;
    char *p = shmem_malloc(64);
    check_policy("the heap", p, MPOL_INTERLEAVE);
    CHECK(shmemx_space_create(SHMEMX_NUMA_NEAREST, 1, &space) == 0, "%s", shmemx_last_error());
    char *q = shmemx_space_malloc(space, 64);
    check_policy("a space", q, MPOL_BIND);
    shmem_free(q);
    CHECK(shmemx_space_destroy(space) == 0, "%s", shmemx_last_error());
    check_policy("where a space was", q, MPOL_INTERLEAVE);
    CHECK(shmemx_space_create(SHMEMX_NUMA_NEAREST, 1, &space) == 0, "%s", shmemx_last_error());
    shmem_finalize(); /* takes the space with it */
    unsetenv("SHMEM_HEAP_NUMA");
    shmemx_log_errors(0);
    CHECK(shmemx_space_destroy(space) == SHMEMX_ERR_NOT_INITIALIZED, "%s", shmemx_last_error());
    shmemx_log_errors(1);
}

static void test_nodes(void)
{
    int node, rows = 0, nearest = shmemx_numa_nearest(), seen = 0;
    size_t total, available;
    while (shmemx_numa_info(rows, &node, &total, &available) == 0) {
        CHECK(node >= 0 && total > 0 && available <= total, "row %d: node %d, %zu bytes, %zu available", rows,
              node, total, available);
        seen += node == nearest;
        rows++;
    }
    CHECK(rows >= 1 && seen == 1, "%d nodes, the nearest is %d", rows, nearest);
    CHECK(shmemx_numa_info(-1, NULL, NULL, NULL) == SHMEMX_ERR_ARGUMENT, "row -1");
    CHECK(shmemx_numa_info(0, NULL, NULL, NULL) == 0, "row 0 with nothing asked");
}

static void test_place(int asked)
{
    const size_t bytes = 4 * MIB;
    size_t before = heap_used(), total, used, largest;
    int node = -7;
    shmemx_space_t space;
    CHECK(shmemx_space_create(asked, bytes - 5, &space) == 0, "space on %d: %s", asked, shmemx_last_error());
    CHECK(heap_used() == before + bytes, "%zu bytes in use, %zu before", heap_used(), before);
    CHECK(shmemx_space_info(space, &node, &total, &used, &largest) == 0, "%s", shmemx_last_error());
    CHECK(total == bytes && used == 0 && largest == bytes, "total %zu, used %zu, largest %zu", total, used,
          largest);
    CHECK(asked < 0 || node == asked, "asked for node %d, got %d", asked, node);
    char *p = shmemx_space_malloc(space, bytes);
    CHECK(p != NULL && (uintptr_t)p % (2 * MIB) == 0, "all of the space: %p, %s", (void *)p,
          shmemx_last_error());
    shmem_barrier_all();
    /* the policy is the file's: a peer's touch changes nothing */
    const int next = (me + 1) % npes;
    for (size_t at = 0; at < bytes; at += 4096)
        shmem_char_p(p + at, (char)(next + 1), next);
    shmem_barrier_all();
    CHECK(p[0] == me + 1 && p[bytes - 4096] == me + 1, "the neighbour's bytes: %d, %d", p[0],
          p[bytes - 4096]);
    check_place(asked, node, p, bytes);
    check_policy("a space", p, asked == SHMEMX_NUMA_INTERLEAVE ? MPOL_INTERLEAVE : MPOL_BIND);
    shmem_barrier_all();
    CHECK(shmemx_space_info(space, NULL, NULL, &used, &largest) == 0 && used == bytes && largest == 0,
          "used %zu, largest %zu", used, largest);
    shmemx_log_errors(0);
    CHECK(shmemx_space_malloc(space, 1) == NULL && strstr(shmemx_last_error(), "space"), "full: %s",
          shmemx_last_error());
    CHECK(shmemx_space_destroy(space) == SHMEMX_ERR_ARGUMENT && strstr(shmemx_last_error(), "4194304"),
          "with blocks in use: %s", shmemx_last_error());
    shmemx_log_errors(1);
    shmem_free(p);
    CHECK(shmemx_space_destroy(space) == 0, "%s", shmemx_last_error());
    CHECK(heap_used() == before, "%zu bytes in use, %zu before", heap_used(), before);
}

/* Blocks of two spaces and of the heap, in random order: each in its place, none lost, none overwritten. */
static void test_blocks(void)
{
    enum { BLOCKS = 40, ROUNDS = 400 };
    struct {
        unsigned char *p;
        size_t size;
        int where;
        unsigned tag;
    } blocks[BLOCKS] = {0};
    shmemx_space_t spaces[2];
    char *low[2];
    size_t before = heap_used(), used;
    for (int i = 0; i < 2; i++) {
        CHECK(shmemx_space_create(SHMEMX_NUMA_NEAREST, 2 * MIB, &spaces[i]) == 0, "%s", shmemx_last_error());
        low[i] = shmemx_space_malloc(spaces[i], 1); /* the first byte of all */
        shmem_free(low[i]);
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        size_t i = common_random(BLOCKS), wrong = 0;
        unsigned char *p = blocks[i].p;
        if (p && common_random(4)) {
            for (size_t b = 0; b < blocks[i].size; b += 37)
                wrong += p[b] != (unsigned char)(blocks[i].tag + b);
            CHECK(wrong == 0, "round %u: a block of %zu bytes was overwritten", round, blocks[i].size);
            shmem_free(p);
            blocks[i].p = NULL;
            continue;
        }
        size_t size = 1 + common_random((size_t)1 << common_random(15));
        if (p) {
            p = shmem_realloc(p, size);
            for (size_t b = 0; b < (size < blocks[i].size ? size : blocks[i].size); b++)
                wrong += p[b] != (unsigned char)(blocks[i].tag + b);
            CHECK(wrong == 0, "round %u: %zu bytes lost by realloc", round, wrong);
        } else {
            blocks[i].where = (int)common_random(3) - 1;
            void *q = NULL;
            CHECK(blocks[i].where < 0 || shmemx_space_allocate(spaces[blocks[i].where], &q, size,
                                                               (size_t)8 << common_random(7), 1) == 0,
                  "%s", shmemx_last_error());
            p = blocks[i].where < 0 ? shmem_calloc(1, size) : q;
            for (size_t b = 0; b < size; b++)
                wrong += p[b] != 0;
            CHECK(wrong == 0, "round %u: %zu of %zu bytes are not zero", round, wrong, size);
        }
        for (int s = 0; s < 2; s++) {
            bool inside = (char *)p >= low[s] && (char *)p + size <= low[s] + 2 * MIB;
            CHECK(inside == (blocks[i].where == s), "round %u: %zu bytes of %d at %p, space %d at %p", round,
                  size, blocks[i].where, (void *)p, s, (void *)low[s]);
        }
        for (size_t b = 0; b < size; b++)
            p[b] = (unsigned char)(round + b);
        blocks[i].p = p;
        blocks[i].size = size;
        blocks[i].tag = round;
    }
    for (size_t i = 0; i < BLOCKS; i++)
        shmem_free(blocks[i].p);
    for (int i = 0; i < 2; i++) {
        CHECK(shmemx_space_info(spaces[i], NULL, NULL, &used, NULL) == 0 && used == 0, "%zu bytes left",
              used);
        CHECK(shmemx_space_destroy(spaces[i]) == 0, "%s", shmemx_last_error());
    }
    CHECK(heap_used() == before, "%zu bytes in use, %zu before", heap_used(), before);
}

static void refused(int code, const char *text, int rc)
{
    CHECK(rc == code, "%d instead of %d: %s", rc, code, shmemx_last_error());
    CHECK(strstr(shmemx_last_error(), text), "no '%s' in: %s", text, shmemx_last_error());
}

static void test_misuse(void)
{
    shmemx_space_t space = SHMEMX_SPACE_INVALID, old;
    void *p = &space;
    size_t before = heap_used();
    const int none = SHMEMI_NUMA_NODES - 1;
    CHECK(shmemx_space_create(SHMEMX_NUMA_NEAREST, 1, &old) == 0 && shmemx_space_destroy(old) == 0, "%s",
          shmemx_last_error());
    shmemx_log_errors(0);
    refused(SHMEMX_ERR_ARGUMENT, "1023 is no NUMA node", shmemx_space_create(none, 4096, &space));
    refused(SHMEMX_ERR_ARGUMENT, "99999999 is no", shmemx_space_create(99999999, 4096, &space));
    refused(SHMEMX_ERR_ARGUMENT, "-3 is no", shmemx_space_create(-3, 4096, &space));
    refused(SHMEMX_ERR_ARGUMENT, "0 bytes", shmemx_space_create(SHMEMX_NUMA_NEAREST, 0, &space));
    refused(SHMEMX_ERR_ARGUMENT, "NULL", shmemx_space_create(SHMEMX_NUMA_NEAREST, 4096, NULL));
    refused(SHMEMX_ERR_NO_MEMORY, "SHMEM_SYMMETRIC_SIZE",
            shmemx_space_create(SHMEMX_NUMA_NEAREST, (size_t)1 << 40, &space));
    refused(SHMEMX_ERR_NO_MEMORY, "SYMM", shmemx_space_create(SHMEMX_NUMA_INTERLEAVE, SIZE_MAX, &space));
    CHECK(space == SHMEMX_SPACE_INVALID, "a refused space is %p", (void *)space);
    const shmemx_space_t bad[] = {SHMEMX_SPACE_INVALID, old, (shmemx_space_t)12345, (shmemx_space_t)-1};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        p = &space;
        refused(SHMEMX_ERR_ARGUMENT, "no memory space", shmemx_space_allocate(bad[i], &p, 64, 0, 0));
        CHECK(p == NULL, "a refused allocation gave %p", p);
        refused(SHMEMX_ERR_ARGUMENT, "no memory space", shmemx_space_destroy(bad[i]));
        refused(SHMEMX_ERR_ARGUMENT, "no memory space", shmemx_space_info(bad[i], NULL, NULL, NULL, NULL));
    }
    CHECK(shmemx_space_create(SHMEMX_NUMA_NEAREST, 1, &space) == 0, "%s", shmemx_last_error());
    refused(SHMEMX_ERR_ARGUMENT, "48", shmemx_space_allocate(space, &p, 64, 48, 0));
    refused(SHMEMX_ERR_ARGUMENT, "NULL", shmemx_space_allocate(space, NULL, 64, 0, 0));
    refused(SHMEMX_ERR_NO_MEMORY, "2097153 bytes", shmemx_space_allocate(space, &p, 2 * MIB + 1, 0, 0));
    CHECK(shmemx_space_allocate(space, &p, 0, 0, 0) == 0 && p == NULL, "0 bytes: %p", p);
    char *q = shmemx_space_malloc(space, 256);
    refused(SHMEMX_ERR_ADDRESS, "not the start", shmemx_free(q + 16));
    shmem_free(q);
    refused(SHMEMX_ERR_ADDRESS, "", shmemx_free(q)); /* the heap's own block of the space begins here */
    if (npes > 1) {
        shmemx_space_t other = SHMEMX_SPACE_INVALID;
        refused(SHMEMX_ERR_MISMATCH, "space_create",
                shmemx_space_create(SHMEMX_NUMA_NEAREST, me ? 4 * MIB : 8 * MIB, &other));
        refused(SHMEMX_ERR_MISMATCH, "in space",
                me ? shmemx_space_allocate(space, &p, 64, 0, 0)
                   : shmemx_allocate(&p, 64, 0, 0, SHMEMX_MEM_HOST));
        int rc = shmemx_space_create(me ? 0 : none, 4096, &other);
        CHECK(rc == (me ? SHMEMX_ERR_MISMATCH : SHMEMX_ERR_ARGUMENT) && other == SHMEMX_SPACE_INVALID,
              "no such node on PE 0: %d %s", rc, shmemx_last_error());
    }
    shmemx_log_errors(1);
    CHECK(shmemx_space_destroy(space) == 0, "%s", shmemx_last_error());
    CHECK(heap_used() == before, "%zu bytes in use, %zu before", heap_used(), before);
}

static void test_limit(void)
{
    enum { MOST = 64 };
    shmemx_space_t spaces[MOST], more;
    size_t largest = 0;
    shmemx_heap_info(SHMEMX_MEM_HOST, NULL, NULL, &largest);
    for (int i = 0; i < MOST; i++)
        CHECK(shmemx_space_create(SHMEMX_NUMA_NEAREST, 1, &spaces[i]) == 0, "space %d: %s", i,
              shmemx_last_error());
    shmemx_log_errors(0);
    refused(SHMEMX_ERR_LIMIT, "64 spaces", shmemx_space_create(SHMEMX_NUMA_NEAREST, 1, &more));
    shmemx_log_errors(1);
    for (int i = 0; i < MOST; i++)
        CHECK(shmemx_space_destroy(spaces[i]) == 0, "%s", shmemx_last_error());
}

/* ---- machines that this one is not ------------------------------------------------------------------------------------ */

static void write_file(const char *root, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s%s", root, name);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0, "%s: %s", path, strerror(errno));
}

static void zoneinfo(const char *root, int left0, int left1)
{
    char text[600];
    snprintf(text, sizeof text,
             "Node 0, zone    DMA32\n  per-node stats\n      nr_inactive_file 10\n      nr_active_file 10\n"
             "  pages free     %d\n        high     100\n        managed  5000000\n      cpu: 0\n"
             "              high:  7\n"
             "Node 1, zone   Normal\n  per-node stats\n      nr_inactive_file 0\n      nr_active_file 0\n"
             "  pages free     %d\n        high     200\n        managed  6000000\n",
             left0 + 100, left1 + 200);
    write_file(root, "/proc/zoneinfo", text);
}

static void test_other_machines(void)
{
    char root[] = "/tmp/test_space.XXXXXX", text[64], command[128];
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct shmemi_numa_set set;
    size_t total, left;
    shmemx_space_t space;
    CHECK(mkdtemp(root) != NULL, "%s", strerror(errno));
    shmemi_numa_root = root;
    /* none that the kernel tells of */
    CHECK(shmemi_numa_usable(&set) == 1 && shmemi_numa_has(&set, 0), "without NUMA");
    CHECK(!shmemi_numa_memory(0, &total, &left), "without zoneinfo");
    CHECK(shmemx_space_create(0, 1, &space) == 0 && shmemx_space_destroy(space) == 0, "%s",
          shmemx_last_error());
    /* four nodes, of which 2 is processors alone, and 3 is not in this process's cpuset */
    write_file(root, "/sys/devices/system/node/has_memory", "0-1,3\n");
    write_file(root, "/sys/devices/system/node/online", "0-3\n");
    write_file(root, "/sys/devices/system/node/node0/distance", "10 20 30 40\n");
    write_file(root, "/proc/self/status", "Name:\tx\nMems_allowed_list:\t0-2\n");
    zoneinfo(root, 1000, 2000);
    CHECK(shmemi_numa_usable(&set) == 2, "two nodes");
    shmemi_numa_text(&set, text, sizeof text);
    CHECK(strcmp(text, "0-1") == 0, "%s", text);
    CHECK(shmemi_numa_memory(0, &total, &left) && total == 5000000 * page && left == 1010 * page,
          "%zu pages, %zu left", total / page, left / page);
    CHECK(shmemi_numa_memory(1, &total, &left) && total == 6000000 * page && left == 2000 * page,
          "%zu pages, %zu left", total / page, left / page);
    /* this processor's node becomes one without memory, whose line of distances tells the nearest */
    unsigned cpu, here = 0;
    CHECK(getcpu(&cpu, &here) == 0, "%s", strerror(errno));
    if (here == 0) {
        write_file(root, "/sys/devices/system/node/has_memory", "1,3\n");
        CHECK(shmemi_numa_nearest() == 1, "nearest is %d", shmemi_numa_nearest());
        write_file(root, "/proc/self/status", "Mems_allowed_list:\t0-3\n");
        write_file(root, "/sys/devices/system/node/node0/distance", "10 40 20 30\n");
        CHECK(shmemi_numa_nearest() == 3, "nearest is %d", shmemi_numa_nearest());
        write_file(root, "/sys/devices/system/node/has_memory", "0-1,3\n");
    }
    write_file(root, "/proc/self/status", "Mems_allowed_list:\t0-1\n");
    write_file(root, "/sys/devices/system/node/has_memory", "garbage\n");
    CHECK(shmemi_numa_usable(&set) == 1, "a file that is none");
    write_file(root, "/sys/devices/system/node/has_memory", "0-1\n");
    /* a node that is full, then one that is full for all PEs together */
    shmemx_log_errors(0);
    size_t before = heap_used();
    refused(SHMEMX_ERR_NO_MEMORY, "NUMA node 1 has 8192000", shmemx_space_create(1, 10 * MIB, &space));
    if (shmem_team_n_pes(SHMEM_TEAM_SHARED) == npes && npes > 1) {
        zoneinfo(root, 1000, (int)((size_t)npes * 2 * MIB / page) - 1);
        snprintf(text, sizeof text, "spaces of %d PEs", npes);
        refused(SHMEMX_ERR_NO_MEMORY, text, shmemx_space_create(1, 2 * MIB, &space));
    }
    /* the real kernel has no node 1, where this machine has one: an error of mbind, with nothing changed */
    zoneinfo(root, 4000000, 4000000);
    shmemi_numa_root = real_root;
    bool single = shmemi_numa_usable(&set) == 1 && shmemi_numa_has(&set, 0);
    shmemi_numa_root = root;
    if (single)
        refused(SHMEMX_ERR_SYSTEM, "mbind of 2097152 bytes to NUMA node 1",
                shmemx_space_create(1, 1, &space));
    CHECK(heap_used() == before, "%zu bytes in use, %zu before", heap_used(), before);
    /* the kernel refuses to place memory, as containers' filters do: an error on two nodes, no matter on one */
    shmem_barrier_all();
    struct sock_filter no_mbind[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mbind, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof no_mbind / sizeof *no_mbind, no_mbind};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
              prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0,
          "%s", strerror(errno));
    refused(SHMEMX_ERR_UNSUPPORTED, "SYS_NICE", shmemx_space_create(0, 1, &space));
    CHECK(heap_used() == before, "%zu bytes in use, %zu before", heap_used(), before);
    shmemx_log_errors(1);
    shmemi_numa_root = real_root;
    if (single) {
        CHECK(shmemx_space_create(0, 1, &space) == 0, "one node, no mbind: %s", shmemx_last_error());
        char *p = shmemx_space_malloc(space, 64);
        CHECK(p != NULL, "%s", shmemx_last_error());
        shmem_free(p);
        CHECK(shmemx_space_destroy(space) == 0, "%s", shmemx_last_error());
    }
    snprintf(command, sizeof command, "rm -rf %s", root);
    CHECK(system(command) == 0, "%s", command);
}

int main(void)
{
    setenv("SHMEM_SYMMETRIC_SIZE", "400M",
           1); /* between nodes of a network a range serves one space, and is the heap's then */
    CHECK(shmemx_numa_info(0, NULL, NULL, NULL) == 0 && shmemx_numa_nearest() >= 0, "before init");
    shmemx_log_errors(0);
    shmemx_space_t space;
    CHECK(shmemx_space_create(0, 1, &space) == SHMEMX_ERR_NOT_INITIALIZED, "%s", shmemx_last_error());
    shmemx_log_errors(1);
    test_heap_of_a_job();
    pes_begin();
    test_nodes();
    test_heap_policy();
    test_place(SHMEMX_NUMA_NEAREST);
    test_place(SHMEMX_NUMA_INTERLEAVE);
    struct shmemi_numa_set usable;
    shmemi_numa_usable(&usable);
    for (int i = shmemi_numa_next(&usable, 0); i >= 0; i = shmemi_numa_next(&usable, i + 1))
        test_place(i);
    test_neighbours();
    test_blocks();
    test_misuse();
    if (shmem_team_n_pes(SHMEM_TEAM_SHARED) == npes)
        test_limit();
    test_other_machines();
    return pes_end();
}
