/* Globals: which pages they are (the ELF program headers say), the agreement on them, and their moves.
 *
 * An object (the executable, a library) is loaded at another address in every process where addresses are random, but its
 * variables have the same distance from its start everywhere. So a variable's place in the segment is its object's
 * place plus that distance, the same on all PEs, and only this PE's own objects are looked up.
 *
 * An object takes part when it was linked, that is, when the executable or another object that takes part names it as
 * needed. Runtimes do not: their variables are nobody's to put to, and other threads write them. Nor does the object
 * that holds this library. Where the program does not link libshmem (Python opens it) there are none. */
#define _GNU_SOURCE
#include "globals.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* One PE's variables start at a multiple of this in the segment: any page size that Linux has. */
static const size_t GLOBALS_ALIGN = 64u << 10;

/* Names that start so are runtimes: the system's, the compilers', MPI's, the GPU driver's. */
static const char *const runtimes[] = {
    "ld-",      "ld.",     "libc.",    "libm.",    "libdl.",   "librt.",    "libpthread.", "libutil.",
    "libmvec.", "libgcc_", "libgomp",  "libomp.",  "libiomp5", "libstdc++", "libc++",      "libatomic.",
    "libasan.", "libtsan", "libubsan", "liblsan.", "libgcov",  "libmpi",    "libcuda",     "libgfortran",
};

/* A range of pages that hold variables. */
struct range {
    char *base;
    size_t bytes;
    size_t
        file_bytes; /* of them, from its start, those that the object's file fills; the rest starts as zeros */
    uint64_t offset; /* in the segment */
    int prot;
};
enum { RANGES = 4 };
struct object {
    const char *name;
    char *load; /* what its addresses are relative to */
    const ElfW(Phdr) * headers;
    int nheaders;
    const ElfW(Dyn) * dynamic;
    uint64_t id; /* equal for the same build of the same object */
    struct range ranges[RANGES];
    int nranges;
    bool counts;
};
static struct object
    *objects; /* those of this process in the order of loading; after the agreement the common ones */
static int count, room;
static struct range *ranges; /* of all objects, while they are moved */
static int nranges;
static int fd = -1;
static bool out_of_memory;
static const char *why_none = "before shmem_init";

/* ---- what this process has ------------------------------------------------------------------------------------------ */

/* FNV-1a (Fowler, Noll, Vo). */
static uint64_t hash(uint64_t h, const void *data, size_t n)
{
    for (const unsigned char *p = data; n--; ++p)
        h = (h ^ *p) * 0x100000001b3u;
    return h;
}

static int take_object(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size, (void)unused;
    if (count == room) {
        int more = room ? 2 * room : 32;
        struct object *new = realloc(objects, sizeof *new *(size_t)more);
        if (!new) {
            out_of_memory = true;
            return 1;
        }
        objects = new;
        room = more;
    }
    struct object *o = &objects[count];
    *o = (struct object){.name = info->dlpi_name,
                         .load = (char *)info->dlpi_addr,
                         .headers = info->dlpi_phdr,
                         .nheaders = info->dlpi_phnum};
    for (int i = 0; i < o->nheaders; ++i)
        if (o->headers[i].p_type == PT_DYNAMIC)
            o->dynamic = (const void *)(o->load + o->headers[i].p_vaddr);
    count++;
    return 0;
}

/* An entry of the dynamic section that is an address; the loader may have made it absolute or not. */
static const char *dynamic_address(const struct object *o, ElfW(Sxword) tag)
{
    for (const ElfW(Dyn) *d = o->dynamic; d && d->d_tag != DT_NULL; ++d)
        if (d->d_tag == tag)
            return d->d_un.d_ptr < (uintptr_t)o->load ? o->load + d->d_un.d_ptr : (const char *)d->d_un.d_ptr;
    return NULL;
}

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* As others name it: its soname, or its file. */
static const char *soname(const struct object *o)
{
    const char *strings = dynamic_address(o, DT_STRTAB);
    for (const ElfW(Dyn) *d = o->dynamic; strings && d && d->d_tag != DT_NULL; ++d)
        if (d->d_tag == DT_SONAME)
            return strings + d->d_un.d_val;
    return file_name(o->name);
}

static bool holds(const struct object *o, const void *addr)
{
    for (int i = 0; i < o->nheaders; ++i)
        if (o->headers[i].p_type == PT_LOAD &&
            (uintptr_t)addr - (uintptr_t)o->load - o->headers[i].p_vaddr < o->headers[i].p_memsz)
            return true;
    return false;
}

static bool is_runtime(const char *name)
{
    for (size_t i = 0; i < sizeof runtimes / sizeof *runtimes; ++i)
        if (strncmp(name, runtimes[i], strlen(runtimes[i])) == 0)
            return true;
    return false;
}

/* Marks what `o` needs, and what that needs; *library is set where the object that holds this library is among it. */
static void mark_needed(struct object *o, bool *library)
{
    const char *strings = dynamic_address(o, DT_STRTAB);
    for (const ElfW(Dyn) *d = o->dynamic; strings && d && d->d_tag != DT_NULL; ++d) {
        if (d->d_tag != DT_NEEDED)
            continue;
        const char *name = strings + d->d_un.d_val;
        for (int i = 1; i < count; ++i) {
            struct object *other = &objects[i];
            if (strcmp(soname(other), file_name(name)) != 0 && strcmp(other->name, name) != 0)
                continue;
            if (holds(other, &shmemi_world)) {
                *library = true;
            } else if (!other->counts && !is_runtime(file_name(name))) {
                other->counts = true;
                mark_needed(other, library);
            }
            break;
        }
    }
}

/* Its writable pages, without those that the loader protects again after relocation (RELRO). */
static void find_ranges(struct object *o)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), relro_start = 0, relro_end = 0;
    for (int i = 0; i < o->nheaders; ++i)
        if (o->headers[i].p_type == PT_GNU_RELRO) {
            relro_start = ((uintptr_t)o->load + o->headers[i].p_vaddr) & ~(page - 1);
            relro_end = ((uintptr_t)o->load + o->headers[i].p_vaddr + o->headers[i].p_memsz) & ~(page - 1);
        }
    for (int i = 0; i < o->nheaders && o->nranges < RANGES; ++i) {
        const ElfW(Phdr) *h = &o->headers[i];
        if (h->p_type != PT_LOAD || !(h->p_flags & PF_W))
            continue;
        uintptr_t from = ((uintptr_t)o->load + h->p_vaddr) & ~(page - 1);
        uintptr_t to = ((uintptr_t)o->load + h->p_vaddr + h->p_memsz + page - 1) & ~(page - 1);
        if (relro_end > from && relro_start <= from)
            from = relro_end;
        uintptr_t file = (uintptr_t)o->load + h->p_vaddr + h->p_filesz;
        if (from < to)
            o->ranges[o->nranges++] =
                (struct range){.base = (char *)from,
                               .bytes = to - from,
                               .file_bytes = file > from ? file - from : 0,
                               .prot = PROT_READ | PROT_WRITE | (h->p_flags & PF_X ? PROT_EXEC : 0)};
    }
}

/* The build id that the linker left, or else what the headers say of sizes and places; and which file it is. */
static uint64_t identify(const struct object *o)
{
    uint64_t id = 0xcbf29ce484222325u;
    bool found = false;
    for (int i = 0; i < o->nheaders; ++i) {
        const ElfW(Phdr) *h = &o->headers[i];
        if (h->p_type != PT_NOTE)
            continue;
        const char *at = o->load + h->p_vaddr, *end = at + h->p_memsz;
        while (at + sizeof(ElfW(Nhdr)) <= end) {
            const ElfW(Nhdr) *note = (const void *)at;
            const char *name = at + sizeof *note, *text = name + ((note->n_namesz + 3u) & ~3u);
            at = text + ((note->n_descsz + 3u) & ~3u);
            if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 && memcmp(name, "GNU", 4) == 0) {
                id = hash(id, text, note->n_descsz);
                found = true;
            }
        }
    }
    if (!found)
        id = hash(id, o->headers, sizeof *o->headers * (size_t)o->nheaders);
    for (int i = 0; i < o->nranges; ++i)
        id = hash(id, &o->ranges[i].bytes, sizeof o->ranges[i].bytes);
    return id;
}

static void forget(void)
{
    free(objects);
    free(ranges);
    objects = NULL;
    ranges = NULL;
    count = room = nranges = 0;
}

/* Leaves in `objects` those that take part. */
static int find_objects(const char *call)
{
    bool library = false;
    out_of_memory = false;
    dl_iterate_phdr(take_object, NULL);
    if (out_of_memory) {
        forget();
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    }
    if (count && !holds(&objects[0], &shmemi_world)) {
        mark_needed(&objects[0], &library);
        objects[0].name = "the executable";
        objects[0].counts = true;
    }
    int kept = 0;
    for (int i = 0; i < count && library; ++i) {
        if (!objects[i].counts)
            continue;
        find_ranges(&objects[i]);
        objects[i].id = identify(&objects[i]);
        if (objects[i].nranges)
            objects[kept++] = objects[i];
    }
    count = kept;
    return SHMEMX_SUCCESS;
}

/* ---- what all have ---------------------------------------------------------------------------------------------------- */

/* What a PE tells of its objects as a whole. */
struct summary {
    uint64_t count, hash;
};

static int allgather(const char *call, struct shmemi_bootstrap *boot, const void *mine, size_t n, void **all)
{
    *all = malloc(n * (size_t)boot->size);
    if (!*all)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", boot->size);
    int rc = boot->allgather(boot, mine, *all, n);
    if (rc)
        free(*all);
    return rc;
}

static bool has(const uint64_t *ids, uint64_t n, uint64_t id)
{
    for (uint64_t i = 0; i < n; ++i)
        if (ids[i] == id)
            return true;
    return false;
}

/* The first PE without the object, -1 = all have it. `ids`: `most` of each PE. */
static int lacking(const struct shmemi_bootstrap *boot, const uint64_t *ids, uint64_t most, uint64_t id)
{
    for (int pe = 0; pe < boot->size; ++pe)
        if (!has(ids + (uint64_t)pe * most, most, id))
            return pe;
    return -1;
}

/* Leaves in `objects` those that all PEs have, in the order of PE 0. */
static int keep_common(const char *call, struct shmemi_bootstrap *boot, uint64_t most)
{
    uint64_t *mine = calloc(most, sizeof *mine), *ids = NULL;
    struct object *common = calloc((size_t)count + 1, sizeof *common);
    int rc = mine && common ? 0 : shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    for (int i = 0; i < count && rc == 0; ++i)
        mine[i] = objects[i].id;
    rc = rc ? rc : allgather(call, boot, mine, sizeof *mine * most, (void **)&ids);
    int kept = 0;
    for (uint64_t k = 0; k < most && rc == 0; ++k)
        for (int i = 0; i < count; ++i)
            if (objects[i].id == ids[k] && lacking(boot, ids, most, ids[k]) < 0)
                common[kept++] = objects[i];
    for (int i = 0; i < count && rc == 0; ++i) {
        int pe = lacking(boot, ids, most, objects[i].id);
        /* PE 0 says it of its own, the others of what PE 0 does not have */
        if (pe >= 0 && (boot->rank == 0 || !has(ids, most, objects[i].id)))
            shmemi_warn(
                "%s: PE %d does not have this build of %s (or SHMEM_SYMMETRIC_GLOBALS=0): its global and "
                "static variables are not symmetric",
                call, pe, objects[i].name);
    }
    free(mine);
    free(ids);
    if (rc) {
        free(common);
        forget();
        return rc;
    }
    free(objects);
    objects = common;
    count = kept;
    return SHMEMX_SUCCESS;
}

int shmemi_globals_find(const char *call, struct shmemi_bootstrap *boot, size_t *bytes)
{
    struct summary mine = {0, 0xcbf29ce484222325u}, *all;
    uint64_t most = 0;
    bool same = true;
    int rc = shmemi_env.SYMMETRIC_GLOBALS ? find_objects(call) : 0;
    if (rc)
        return rc;
    why_none = shmemi_env.SYMMETRIC_GLOBALS ? "the executable does not link libshmem.so"
                                            : "SHMEM_SYMMETRIC_GLOBALS=0";
    mine.count = (uint64_t)count;
    for (int i = 0; i < count; ++i)
        mine.hash = hash(mine.hash, &objects[i].id, sizeof objects[i].id);
    if ((rc = allgather(call, boot, &mine, sizeof mine, (void **)&all)) != 0) {
        forget();
        return rc;
    }
    for (int pe = 0; pe < boot->size; ++pe) {
        same = same && all[pe].count == mine.count && all[pe].hash == mine.hash;
        most = all[pe].count > most ? all[pe].count : most;
    }
    free(all);
    if (!same) { /* on all PEs, since all compare with their own */
        why_none = count ? "not all PEs run this build" : why_none;
        if ((rc = keep_common(call, boot, most)) != 0)
            return rc;
    }
    size_t at = 0;
    for (int i = 0; i < count; ++i)
        for (int k = 0; k < objects[i].nranges; ++k) {
            objects[i].ranges[k].offset = at;
            at += (objects[i].ranges[k].bytes + GLOBALS_ALIGN - 1) & ~(GLOBALS_ALIGN - 1);
        }
    *bytes = at;
    return SHMEMX_SUCCESS;
}

/* ---- moves ---------------------------------------------------------------------------------------------------------------- */

/* Word by word and volatile, since a sanitizer's memcpy would find the guard zones between variables. */
__attribute__((no_sanitize("address", "thread"))) static void copy(char *to, const char *from, size_t bytes)
{
    volatile uint64_t *d = (void *)to;
    const volatile uint64_t *s = (const void *)from;
    for (size_t i = 0; i < bytes / sizeof *d; ++i)
        d[i] = s[i];
}

/* Where a range's shared pages are in the descriptor. */
static off_t place_of(const struct range *r)
{
    const struct shmemi_segment *s = &shmemi_world.segments[SHMEMI_SEGMENT_HOST];
    return (off_t)((size_t)(s->base - s->node_base) + r->offset);
}

/* Private pages into zeroed memory. Those of a large array that nobody has touched are left out, as the page table tells:
 * the rest takes neither memory nor time. */
static void copy_private(char *to, const struct range *r)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    for (size_t at = 0; at < r->bytes;) {
        uint64_t entries[512];
        size_t n = (r->bytes - at) / page;
        n = n < 512 ? n : 512;
        ssize_t got = map < 0 ? -1
                              : pread(map, entries, n * sizeof *entries,
                                      (off_t)((uintptr_t)(r->base + at) / page * sizeof *entries));
        bool known = got == (ssize_t)(n * sizeof *entries);
        for (size_t i = 0; i < n; ++i, at += page)
            if (at < r->file_bytes || !known ||
                entries[i] >> 62) /* from the file; or present, or swapped out */
                copy(to + at, r->base + at, page);
    }
    if (map >= 0)
        close(map);
}

/* Shared pages into zeroed memory; reading one that nobody has touched would make it. */
static void copy_shared(char *to, const struct range *r)
{
    const off_t start = place_of(r), end = start + (off_t)r->bytes;
    for (off_t at = start, hole; at < end; at = hole) {
        at = lseek(fd, at, SEEK_DATA);
        if (at < 0 || at >= end)
            return;
        hole = lseek(fd, at, SEEK_HOLE);
        hole = hole < 0 || hole > end ? end : hole;
        copy(to + (at - start), r->base + (at - start), (size_t)(hole - at));
    }
}

/* `r` becomes private memory with the same contents. */
static int make_private(const struct range *r)
{
    char *private = mmap(NULL, r->bytes, r->prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (private == MAP_FAILED)
        return -1;
    copy_shared(private, r);
    return mremap(private, r->bytes, r->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, r->base) == MAP_FAILED ? -1 : 0;
}

/* A process that is forked gets variables of its own, as they were: copied before, since this PE runs on. */
static pthread_mutex_t moving = PTHREAD_MUTEX_INITIALIZER;
static char **copies;

static void before_fork(void)
{
    pthread_mutex_lock(&moving);
    copies = nranges ? calloc((size_t)nranges, sizeof *copies) : NULL;
    for (int i = 0; copies && i < nranges; ++i) {
        copies[i] =
            mmap(NULL, ranges[i].bytes, ranges[i].prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (copies[i] != MAP_FAILED)
            copy_shared(copies[i], &ranges[i]);
    }
}

static void after_fork_parent(void)
{
    for (int i = 0; copies && i < nranges; ++i)
        if (copies[i] != MAP_FAILED)
            munmap(copies[i], ranges[i].bytes);
    free(copies);
    copies = NULL;
    pthread_mutex_unlock(&moving);
}

static void after_fork_child(void)
{
    for (int i = 0; i < nranges; ++i) {
        const struct range *r = &ranges[i];
        if (copies && copies[i] != MAP_FAILED)
            (void)mremap(copies[i], r->bytes, r->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, r->base);
        else /* without memory for a copy: what this PE has written by now, and from here on its own */
            (void)mmap(r->base, r->bytes, r->prot, MAP_PRIVATE | MAP_FIXED, fd, place_of(r));
    }
    nranges = 0;
    free(copies);
    copies = NULL;
    pthread_mutex_unlock(&moving);
}

static void watch_forks(void)
{
    (void)pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

/* `r` becomes the pages of this PE's segment at r->offset, with the same contents. */
static int make_shared(const struct range *r)
{
    copy_private(shmemi_world.segments[SHMEMI_SEGMENT_HOST].base + r->offset, r);
    void *p = mmap(r->base, r->bytes, r->prot, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, place_of(r));
    return p == MAP_FAILED ? -1 : 0;
}

int shmemi_globals_open(const char *call, uint64_t offset)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int total = 0, err = 0;
    for (int i = 0; i < count; ++i)
        total += objects[i].nranges;
    if (total == 0)
        return SHMEMX_SUCCESS;
    ranges = calloc((size_t)total, sizeof *ranges);
    if (!ranges)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    pthread_once(&once, watch_forks);
    fd = shmemi_world.segments[SHMEMI_SEGMENT_HOST].fd;
    sigset_t all, before;
    sigfillset(&all);
    pthread_mutex_lock(&moving);
    pthread_sigmask(SIG_SETMASK, &all,
                    &before); /* a handler's store to a page that is being moved would be lost */
    for (int i = 0; i < count && !err; ++i)
        for (int k = 0; k < objects[i].nranges && !err; ++k) {
            struct range *r = &ranges[nranges];
            *r = objects[i].ranges[k];
            r->offset += offset;
            if (make_shared(r) != 0)
                err = errno;
            else
                nranges++;
        }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_mutex_unlock(&moving);
    return err ? shmemi_fail(SHMEMX_ERR_SYSTEM, call,
                             "%zu bytes of global variables at %p cannot be mapped to shared memory: %s; "
                             "SHMEM_SYMMETRIC_GLOBALS=0 goes without",
                             ranges[nranges].bytes, (void *)ranges[nranges].base, strerror(err))
               : SHMEMX_SUCCESS;
}

void shmemi_globals_close(void)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_mutex_lock(&moving);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (nranges) {
        if (make_private(&ranges[nranges - 1]) != 0)
            shmemi_warn("shmem_finalize: %zu bytes of global variables at %p stay in shared memory: %s",
                        ranges[nranges - 1].bytes, (void *)ranges[nranges - 1].base, strerror(errno));
        nranges--;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    forget();
    pthread_mutex_unlock(&moving);
}

/* ---- addresses ------------------------------------------------------------------------------------------------------------ */

bool shmemi_globals_inside(const void *addr, size_t n, struct shmemi_place *p)
{
    for (int i = 0; i < nranges; ++i) {
        uint64_t off = (uint64_t)((const char *)addr - ranges[i].base);
        if (off < ranges[i].bytes && n <= ranges[i].bytes - off) {
            *p = (struct shmemi_place){SHMEMI_SEGMENT_HOST, ranges[i].offset + off};
            return true;
        }
    }
    return false;
}

void *shmemi_globals_address(uint64_t offset)
{
    for (int i = 0; i < nranges; ++i)
        if (offset - ranges[i].offset < ranges[i].bytes)
            return ranges[i].base + (offset - ranges[i].offset);
    return NULL;
}

const char *shmemi_globals_text(char *text, size_t n)
{
    size_t bytes = 0;
    for (int i = 0; i < nranges; ++i)
        bytes += ranges[i].bytes;
    if (nranges)
        snprintf(text, n, "%zu bytes in %d of the files it is made of", bytes, count);
    else
        snprintf(text, n, "not symmetric: %s", why_none);
    return text;
}
