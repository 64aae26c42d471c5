/* Memory: the host heap and the calls that give it out. */
#define _GNU_SOURCE
#include "heap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/gpu.h"
#include "checks.h"
#include "globals.h"
#include "team.h"

static struct shmemi_area heap;
/* Blocks freed last, which debug mode names. */
static struct freed {
    size_t offset, bytes;
} freed[256];
static unsigned long frees;
pthread_mutex_t shmemi_heap_blocks = PTHREAD_MUTEX_INITIALIZER;

/* Stride of the PEs' segments: a multiple of the huge page size keeps every PE's copy equally aligned. */
static const size_t SEGMENT_ALIGN = 2u << 20;
/* A freed block this large gives its pages back to the system: at 4 MiB the fresh page faults of the next use cost
 * about as much as one pass over the data. */
static const size_t RETURN_BYTES = 4u << 20;
/* As cudaMalloc: a sector of the memory system and every vector type. */
enum { GPU_ALIGN = 256 };
/* Networks get to know the heap in steps of this: registering pins the memory, and is a meeting of all PEs. */
static const size_t COVER_BYTES = 64u << 20;
static uint64_t covered; /* of the segment, from its start */

size_t shmemi_heap_aligned(size_t bytes)
{
    return (bytes + SEGMENT_ALIGN - 1) & ~(SEGMENT_ALIGN - 1);
}

int shmemi_heap_bytes(const char *call, size_t *bytes)
{
    size_t n = shmemi_env.SYMMETRIC_SIZE;
    if (n > (size_t)1 << 46)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "SHMEM_SYMMETRIC_SIZE is %zu bytes, up to 64T are possible", n);
    *bytes = shmemi_heap_aligned(n ? n : 1); /* at least what was asked for, as the specification has it */
    return SHMEMX_SUCCESS;
}

/* Maps `fd` at a multiple of SEGMENT_ALIGN, so that alignments up to it hold in memory as they do in offsets. */
static char *map_aligned(size_t bytes, int fd)
{
    char *room =
        mmap(NULL, bytes + SEGMENT_ALIGN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return NULL;
    char *p = (char *)(((uintptr_t)room + SEGMENT_ALIGN - 1) & ~(SEGMENT_ALIGN - 1));
    if (p > room)
        munmap(room, (size_t)(p - room));
    munmap(p + bytes, (size_t)(room + SEGMENT_ALIGN - p));
    /* NORESERVE: address space only; a page is committed by the first store to it */
    if (mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) != MAP_FAILED)
        return p;
    int err = errno;
    munmap(p, bytes);
    errno = err;
    return NULL;
}

int shmemi_heap_open(const char *call, int fd, size_t bytes)
{
    struct shmemi_world *w = &shmemi_world;
    struct shmemi_segment *s = &w->segments[SHMEMI_SEGMENT_HOST];
    size_t all = bytes * (size_t)shmemi_node.local_npes;
    char *p = map_aligned(all, fd);
    if (!p) {
        int err = errno;
        close(fd);
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call,
                           "cannot map %d heaps of %zu bytes (SHMEM_SYMMETRIC_SIZE=%zu): %s",
                           shmemi_node.local_npes, bytes, shmemi_env.SYMMETRIC_SIZE, strerror(err));
    }
    (void)madvise(p, all, MADV_DONTDUMP); /* a core file of a terabyte helps nobody */
    *s = (struct shmemi_segment){
        .base = p + (size_t)shmemi_node.local_me * bytes,
        .bytes = bytes,
        .node_base = p,
        .stride = bytes,
        .fd = fd,
    };
    covered = 0;
    frees = 0;
    if (!shmemi_alloc_open(&heap.alloc, bytes - w->internal_bytes))
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    return shmemi_space_heap_policy(call, s->base, bytes, false); /* before this PE's pages are there */
}

int shmemi_heap_cover(const char *call, uint64_t end)
{
    end = end > covered ? (end + COVER_BYTES - 1) / COVER_BYTES * COVER_BYTES : end;
    return shmemi_heap_cover_exactly(call, end);
}

int shmemi_heap_cover_exactly(const char *call, uint64_t end)
{
    const struct shmemi_segment *s = &shmemi_world.segments[SHMEMI_SEGMENT_HOST];
    if (SHMEMI_LIKELY(end <= covered) || !shmemi_route_has_networks())
        return SHMEMX_SUCCESS;
    end = end < s->bytes ? end : s->bytes;
    int rc = shmemi_route_expose(call, SHMEMI_SEGMENT_HOST, covered, end - covered);
    covered = rc ? covered : end;
    return rc;
}

static int keep_mapping;

void shmemx_keep_mapping(int on)
{
    keep_mapping = on;
}

void shmemi_heap_close(void)
{
    struct shmemi_segment *s = &shmemi_world.segments[SHMEMI_SEGMENT_HOST];
    if (s->node_base) {
        munmap(s->node_base, s->stride * (size_t)shmemi_node.local_npes);
        /* zero pages of this process alone where the heaps were, the peers' too (shmem_ptr): stale pointers read
         * zeros and harm nobody */
        if (keep_mapping)
            (void)mmap(s->node_base, s->stride * (size_t)shmemi_node.local_npes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        close(s->fd);
    }
    memset(s, 0, sizeof *s);
    s->fd = -1;
    shmemi_world.internal_bytes = 0;
    shmemi_space_close();
    shmemi_alloc_close(&heap.alloc);
}

/* ---- the collective calls --------------------------------------------------------------------------------------- */

static char *heap_start(void)
{
    return shmemi_world.segments[SHMEMI_SEGMENT_HOST].base + shmemi_world.internal_bytes;
}

static int full(const char *call, const struct shmemi_area *a, size_t bytes)
{
    const struct shmemi_alloc *l = &a->alloc;
    if (a != &heap)
        return shmemi_fail(SHMEMX_ERR_NO_MEMORY, call,
                           "%zu bytes do not fit: %zu of the space's %zu bytes are in use, the largest free "
                           "block has %zu; shmemx_space_create sets its size",
                           bytes, l->used, l->size, shmemi_alloc_largest(l));
    return shmemi_fail(SHMEMX_ERR_NO_MEMORY, call,
                       "%zu bytes do not fit: %zu of %zu bytes are in use, the largest free block has %zu; "
                       "SHMEM_SYMMETRIC_SIZE=%zu sets the size of the heap",
                       bytes, l->used, l->size, shmemi_alloc_largest(l), shmemi_env.SYMMETRIC_SIZE);
}

/* A block that networks know. */
static int take(const char *call, struct shmemi_area *a, size_t size, size_t align, void **ptr)
{
    pthread_mutex_lock(&shmemi_heap_blocks);
    size_t offset = shmemi_alloc_take(&a->alloc, size, align);
    pthread_mutex_unlock(&shmemi_heap_blocks);
    if (offset == SHMEMI_ALLOC_NONE)
        return full(call, a, size);
    int rc = shmemi_heap_cover(call, shmemi_world.internal_bytes + a->at + offset + size);
    if (rc)
        shmemi_alloc_give(&a->alloc, shmemi_alloc_find(&a->alloc, offset));
    else
        *ptr = heap_start() + a->at + offset;
    return rc;
}

int shmemi_heap_take(const char *call, struct shmemi_area *area, int space, void **ptr, size_t size,
                     size_t align, bool zeroed)
{
    if (align & (align - 1))
        return shmemi_heap_refuse(
            call, shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "alignment %zu is not a power of two", align));
    if (align > SEGMENT_ALIGN)
        return shmemi_heap_refuse(call, shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                                                    "alignment %zu is above the largest, %zu", align,
                                                    SEGMENT_ALIGN));
    const int kind = area ? SHMEMX_MEM_HOST : SHMEMX_MEM_DEVICE;
    if (align == 0) /* blocks of a line or more do not share lines with their neighbours */
        align = kind == SHMEMX_MEM_DEVICE   ? GPU_ALIGN
                : size >= SHMEMI_CACHE_LINE ? SHMEMI_CACHE_LINE
                                            : SHMEMI_ALLOC_GRAIN;
    int rc = shmemi_heap_agree(
        call, &(struct shmemi_heap_request){SHMEMI_HEAP_MALLOC, kind, zeroed, space, 0, size, align});
    if (rc || size == 0)
        return rc;
    if (kind == SHMEMX_MEM_DEVICE)
        return shmemi_heap_gpu_take(call, size, align, zeroed, ptr);
    if ((rc = take(call, area, size, align, ptr)) != 0)
        return rc;
    if (!zeroed)
        return SHMEMX_SUCCESS;
    memset(*ptr, 0, size);
    /* nobody may put into a block that its owner is about to clear */
    return shmemx_sync(SHMEM_TEAM_WORLD);
}

static int heap_malloc(const char *call, void **ptr, size_t size, size_t align, bool zeroed, int kind)
{
    *ptr = NULL;
    SHMEMI_REQUIRE_INIT(call);
    if (kind != SHMEMX_MEM_HOST && kind != SHMEMX_MEM_DEVICE)
        return shmemi_heap_refuse(call,
                                  shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "memory kind %d, %d and %d exist",
                                              kind, SHMEMX_MEM_HOST, SHMEMX_MEM_DEVICE));
    return shmemi_heap_take(call, kind == SHMEMX_MEM_HOST ? &heap : NULL, 0, ptr, size, align, zeroed);
}

/* A block in use, and where it is. */
struct found {
    struct shmemi_area *area;
    int space;
    struct shmemi_block *block;
    size_t offset; /* in the heap */
};

static struct shmemi_area *area_of(size_t offset, int *space)
{
    struct shmemi_area *a = shmemi_space_at(offset, space);
    return a ? a : &heap;
}

/* The used block that starts at ptr, or an error: logged. */
static int block_of(const char *call, const void *ptr, struct found *f)
{
    struct shmemi_place p = {0};
    int rc = shmemi_locate(call, "ptr", ptr, 1, &p);
    if (rc)
        return rc;
    if (p.segment != SHMEMI_SEGMENT_HOST)
        return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call,
                           "%p is in the GPU heap, or not the start of a block there", ptr);
    f->offset = p.offset - shmemi_world.internal_bytes;
    f->area = area_of(f->offset, &f->space);
    f->block = shmemi_alloc_find(&f->area->alloc, f->offset - f->area->at);
    return f->block ? SHMEMX_SUCCESS
                    : shmemi_fail(SHMEMX_ERR_ADDRESS, call,
                                  "%p is not the start of a block in use (freed already?)", ptr);
}

bool shmemi_heap_holds(uint64_t offset, size_t n, char *why, size_t room)
{
    int space;
    size_t at = offset - shmemi_world.internal_bytes;
    pthread_mutex_lock(&shmemi_heap_blocks);
    const struct shmemi_area *a = area_of(at, &space);
    const struct shmemi_block *b = a->alloc.first;
    size_t inside = at - a->at;
    while (b->next && b->offset + b->bytes <= inside)
        b = b->next;
    bool ok = b->used && n <= b->offset + b->bytes - inside;
    snprintf(why, room, "no shmem_malloc returned it");
    if (!ok && b->used)
        snprintf(why, room, "they start %zu bytes into one of %zu bytes", inside - b->offset, b->bytes);
    for (unsigned long i = frees; !ok && !b->used && i-- > 0 && frees - i <= 256;) {
        const struct freed *f = &freed[i % 256];
        if (at - f->offset < f->bytes) {
            snprintf(why, room, "shmem_free was called for the %zu bytes at %p", f->bytes,
                     (void *)(heap_start() + f->offset));
            break;
        }
    }
    pthread_mutex_unlock(&shmemi_heap_blocks);
    return ok;
}

static void release(const struct found *f)
{
    struct shmemi_block *b = f->block;
    /* what a network has registered stays the pages that it has; and a space keeps its own */
    if (b->bytes >= RETURN_BYTES && f->area == &heap && !shmemi_route_has_networks())
        shmemi_heap_drop_pages(f->offset, b->bytes);
    pthread_mutex_lock(&shmemi_heap_blocks);
    freed[frees++ % 256] = (struct freed){f->offset, b->bytes};
    shmemi_alloc_give(&f->area->alloc, b);
    pthread_mutex_unlock(&shmemi_heap_blocks);
}

static int heap_free(const char *call, void *ptr)
{
    int rc;
    struct found f;
    SHMEMI_REQUIRE_INIT(call);
    if (!ptr)
        return shmemi_heap_agree(call, &(struct shmemi_heap_request){.what = SHMEMI_HEAP_FREE});
    struct shmemi_block *b = shmemi_heap_gpu_find(ptr);
    if (b) {
        if ((rc = shmemi_heap_agree(call, &(struct shmemi_heap_request){SHMEMI_HEAP_FREE, SHMEMX_MEM_DEVICE,
                                                                        0, 0, b->offset, b->bytes, 0})) == 0)
            shmemi_heap_gpu_give(b);
        return rc;
    }
    if ((rc = block_of(call, ptr, &f)) != 0)
        return shmemi_heap_refuse(call, rc);
    if ((rc = shmemi_heap_agree(call, &(struct shmemi_heap_request){SHMEMI_HEAP_FREE, SHMEMX_MEM_HOST, 0,
                                                                    f.space, f.offset, f.block->bytes, 0})) ==
        0)
        release(&f);
    return rc;
}

static int heap_realloc(const char *call, void **ptr, size_t size)
{
    int rc;
    struct found f;
    void *old = *ptr;
    *ptr = NULL;
    SHMEMI_REQUIRE_INIT(call);
    if ((rc = block_of(call, old, &f)) != 0)
        return shmemi_heap_refuse(call, rc);
    if ((rc = shmemi_heap_agree(call, &(struct shmemi_heap_request){SHMEMI_HEAP_REALLOC, SHMEMX_MEM_HOST, 0,
                                                                    f.space, f.offset, size, 0})) != 0)
        return rc;
    pthread_mutex_lock(&shmemi_heap_blocks);
    bool fits = shmemi_alloc_resize(&f.area->alloc, f.block, size);
    pthread_mutex_unlock(&shmemi_heap_blocks);
    if (fits) {
        *ptr = old;
        return shmemi_heap_cover(call, shmemi_world.internal_bytes + f.offset + size);
    }
    if ((rc = take(call, f.area, size, SHMEMI_CACHE_LINE, ptr)) != 0)
        return rc;
    memcpy(*ptr, old, f.block->bytes < size ? f.block->bytes : size);
    rc = shmemx_sync(SHMEM_TEAM_WORLD); /* a put into the new block must find its old contents copied */
    release(&f);
    return rc;
}

/* ---- ranges for spaces ---------------------------------------------------------------------------------------------- */

bool shmemi_heap_reserve(const char *call, size_t bytes, size_t *offset)
{
    /* what networks have registered has pages already, pinned where they are */
    size_t own = shmemi_world.internal_bytes,
           from = shmemi_route_has_networks() && covered > own
                      ? (covered - own + SEGMENT_ALIGN - 1) & ~(SEGMENT_ALIGN - 1)
                      : 0;
    pthread_mutex_lock(&shmemi_heap_blocks);
    *offset = shmemi_alloc_take_from(&heap.alloc, from, bytes, SEGMENT_ALIGN);
    pthread_mutex_unlock(&shmemi_heap_blocks);
    if (*offset != SHMEMI_ALLOC_NONE)
        return true;
    if (from && shmemi_alloc_largest(&heap.alloc) >= bytes)
        (void)shmemi_fail(SHMEMX_ERR_NO_MEMORY, call,
                          "%zu bytes do not fit: networks have registered all but the last %zu bytes of the "
                          "heap, and registered pages cannot move; SHMEM_SYMMETRIC_SIZE=%zu sets its size",
                          bytes, from < heap.alloc.size ? heap.alloc.size - from : 0,
                          shmemi_env.SYMMETRIC_SIZE);
    else
        (void)full(call, &heap, bytes);
    return false;
}

void shmemi_heap_unreserve(size_t offset)
{
    pthread_mutex_lock(&shmemi_heap_blocks);
    shmemi_alloc_give(&heap.alloc, shmemi_alloc_find(&heap.alloc, offset));
    pthread_mutex_unlock(&shmemi_heap_blocks);
}

char *shmemi_heap_place(size_t offset)
{
    return heap_start() + offset;
}

/* As an offset in the file of the node's heaps. */
static size_t in_file(size_t offset)
{
    return (size_t)(heap_start() - shmemi_world.segments[SHMEMI_SEGMENT_HOST].node_base) + offset;
}

void shmemi_heap_drop_pages(size_t offset, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), at = in_file(offset);
    size_t from = (at + page - 1) & ~(page - 1), to = (at + bytes) & ~(page - 1);
    (void)fallocate(shmemi_world.segments[SHMEMI_SEGMENT_HOST].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    (off_t)from, (off_t)(to - from));
}

int shmemi_heap_commit(const char *call, size_t offset, size_t bytes)
{
    while (fallocate(shmemi_world.segments[SHMEMI_SEGMENT_HOST].fd, 0, (off_t)in_file(offset),
                     (off_t)bytes) != 0)
        if (errno != EINTR)
            return shmemi_fail(SHMEMX_ERR_NO_MEMORY, call, "memory for %zu bytes of the heap: %s", bytes,
                               strerror(errno));
    return SHMEMX_SUCCESS;
}

/* ---- public ---------------------------------------------------------------------------------------------------------- */

/* On overflow a size that fits nowhere: the call stays collective, and everybody is told so. */
static size_t bytes_of(size_t count, size_t size)
{
    size_t bytes;
    return __builtin_mul_overflow(count, size, &bytes) ? SIZE_MAX : bytes;
}

int shmemx_allocate(void **ptr, size_t size, size_t alignment, int zeroed, int kind)
{
    if (!ptr)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, "shmemx_allocate", "ptr is NULL");
    return heap_malloc("shmem_malloc", ptr, size, alignment, zeroed, kind);
}

void *shmemx_malloc(size_t size, int kind)
{
    void *p;
    shmemi_void(heap_malloc("shmemx_malloc", &p, size, 0, false, kind));
    return p;
}

void *shmemx_calloc(size_t count, size_t size, int kind)
{
    void *p = NULL;
    shmemi_void(heap_malloc("shmemx_calloc", &p, bytes_of(count, size), 0, true, kind));
    return p;
}

int shmemx_free(void *ptr)
{
    return heap_free("shmem_free", ptr);
}

void *shmem_malloc(size_t size)
{
    void *p;
    shmemi_void(heap_malloc("shmem_malloc", &p, size, 0, false, SHMEMX_MEM_HOST));
    return p;
}

void *shmem_calloc(size_t count, size_t size)
{
    void *p = NULL;
    shmemi_void(heap_malloc("shmem_calloc", &p, bytes_of(count, size), 0, true, SHMEMX_MEM_HOST));
    return p;
}

void *shmem_align(size_t alignment, size_t size)
{
    void *p = NULL;
    if (alignment < sizeof(void *)) {
        (void)(shmemi_heap_refuse("shmem_align",
                                  shmemi_fail(SHMEMX_ERR_ARGUMENT, "shmem_align",
                                              "alignment %zu is below %zu", alignment, sizeof(void *))));
        return p;
    }
    shmemi_void(heap_malloc("shmem_align", &p, size, alignment, false, SHMEMX_MEM_HOST));
    return p;
}

void *shmem_malloc_with_hints(size_t size, long hints)
{
    void *p = NULL;
    if (hints & ~(long)(SHMEM_MALLOC_ATOMICS_REMOTE | SHMEM_MALLOC_SIGNAL_REMOTE)) {
        (void)(shmemi_heap_refuse("shmem_malloc_with_hints",
                                  shmemi_fail(SHMEMX_ERR_ARGUMENT, "shmem_malloc_with_hints",
                                              "hints 0x%lx have unknown bits", (unsigned long)hints)));
        return p;
    }
    /* words that others write to get lines of their own */
    shmemi_void(heap_malloc("shmem_malloc_with_hints", &p, size, hints ? SHMEMI_CACHE_LINE : 0, false,
                            SHMEMX_MEM_HOST));
    return p;
}

void *shmem_realloc(void *ptr, size_t size)
{
    if (!ptr)
        return shmem_malloc(size);
    if (size == 0) {
        shmem_free(ptr);
        return NULL;
    }
    shmemi_void(heap_realloc("shmem_realloc", &ptr, size));
    return ptr;
}

void shmem_free(void *ptr)
{
    shmemi_void(heap_free("shmem_free", ptr));
}

int shmemx_heap_info(int kind, size_t *total, size_t *used, size_t *largest)
{
    const char *call = "shmemx_heap_info";
    size_t all = heap.alloc.size, taken = heap.alloc.used, most;
    SHMEMI_REQUIRE_INIT(call);
    if (kind != SHMEMX_MEM_HOST && kind != SHMEMX_MEM_DEVICE)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "memory kind %d, %d and %d exist", kind,
                           SHMEMX_MEM_HOST, SHMEMX_MEM_DEVICE);
    if (kind == SHMEMX_MEM_HOST)
        most = shmemi_alloc_largest(&heap.alloc);
    else
        shmemi_heap_gpu_info(&all, &taken, &most);
    if (total)
        *total = all;
    if (used)
        *used = taken;
    if (largest)
        *largest = most;
    return SHMEMX_SUCCESS;
}

int shmemx_device(void)
{
    return shmemi_world.segments[SHMEMI_SEGMENT_DEVICE].base ? shmemi_gpu_device() : -1;
}

static bool inside(const void *addr, struct shmemi_place *p)
{
    const struct shmemi_segment *s = &shmemi_world.segments[SHMEMI_SEGMENT_HOST];
    uint64_t off = (uint64_t)((const char *)addr - s->base);
    *p = (struct shmemi_place){SHMEMI_SEGMENT_HOST, off};
    if (shmemi_world.npes && off >= shmemi_world.internal_bytes && off < s->bytes)
        return true;
    return shmemi_world.npes && (shmemi_globals_inside(addr, 1, p) || shmemi_heap_gpu_inside(addr, p));
}

int shmemi_locate_rest(const char *call, const char *what, const void *addr, size_t n, size_t align,
                       struct shmemi_place *p)
{
    const size_t all[] = {shmemi_world.segments[SHMEMI_SEGMENT_HOST].bytes,
                          shmemi_world.segments[SHMEMI_SEGMENT_DEVICE].bytes};
    if (!shmemi_globals_inside(addr, n, p) && (!inside(addr, p) || n > all[p->segment] - p->offset))
        return shmemi_bad_address(call, what, addr, n);
    return shmemi_world.debug ? shmemi_check_symmetric(call, what, addr, n, align, p) : SHMEMX_SUCCESS;
}

int shmemi_kind(const void *addr)
{
    struct shmemi_place p;
    if (!inside(addr, &p))
        return -1;
    return p.segment == SHMEMI_SEGMENT_HOST ? SHMEMX_MEM_HOST : SHMEMX_MEM_DEVICE;
}

int shmemx_mem_kind(const void *addr)
{
    const char *call = "shmemx_mem_kind";
    SHMEMI_REQUIRE_INIT(call);
    int kind = shmemi_kind(addr);
    return kind < 0 ? shmemi_bad_address(call, "addr", addr, 1) : kind;
}

int shmem_addr_accessible(const void *addr, int pe)
{
    struct shmemi_place p;
    return shmem_pe_accessible(pe) && inside(addr, &p);
}

void *shmem_ptr(const void *dest, int pe)
{
    struct shmemi_place p;
    if (!shmem_pe_accessible(pe) || !inside(dest, &p))
        return NULL;
    return pe == shmemi_world.me ? (void *)(uintptr_t)dest
                                 : shmemi_map(pe, p); /* a variable has two addresses here */
}
