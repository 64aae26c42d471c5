/* Queue pairs of kernels: memory of the queues, keys of the heap. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/gpu.h"
#include "ibgda_state.h"

enum { GPU_PAGE = 2 << 20 };

/* ---- memory -------------------------------------------------------------------------------------------- */

int shmemi_ibgda_get(const char *call, struct ibgda_memory *m, int kind, size_t bytes)
{
    void *p = NULL;
    int rc = SHMEMX_SUCCESS;
    if (kind == IBGDA_ON_GPU) {
        char *at = NULL;
        /* whole pages of the GPU's: of less the driver gives a part of one, which begins anywhere, and it makes dmabufs only
         * of whole pages of the host's */
        bytes = (bytes + GPU_PAGE - 1) / GPU_PAGE * GPU_PAGE;
        rc = shmemi_gpu_alloc(call, bytes, &at);
        p = at;
    } else if (kind == IBGDA_PINNED) {
        rc = shmemi_gpu_host_alloc(call, bytes, &p);
    } else {
        /* shared: a forked child's copy on write must not part us from the pages that the NIC knows */
        p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%zu bytes of memory: %s", bytes, strerror(errno));
    }
    if (rc)
        return rc;
    *m = (struct ibgda_memory){p, bytes, kind};
    if (kind == IBGDA_PINNED)
        memset(p, 0, bytes);
    return SHMEMX_SUCCESS;
}

void shmemi_ibgda_give(struct ibgda_memory *m)
{
    if (m->kind == IBGDA_ON_GPU)
        shmemi_gpu_free(m->base);
    else if (m->kind == IBGDA_PINNED)
        shmemi_gpu_host_free(m->base);
    else if (m->kind == IBGDA_PRIVATE)
        munmap(m->base, m->bytes);
    *m = (struct ibgda_memory){0};
}

int shmemi_ibgda_read(const char *call, const struct ibgda_memory *m, size_t at, void *to, size_t n)
{
    if (m->kind != IBGDA_ON_GPU) {
        memcpy(to, m->base + at, n);
        return SHMEMX_SUCCESS;
    }
    int rc = shmemi_gpu_copy(call, to, m->base + at, n, shmemi_gpu_stream());
    return rc ? rc : shmemi_gpu_sync(call, shmemi_gpu_stream());
}

int shmemi_ibgda_write(const char *call, const struct ibgda_memory *m, size_t at, const void *from, size_t n)
{
    if (m->kind != IBGDA_ON_GPU) {
        memcpy(m->base + at, from, n);
        return SHMEMX_SUCCESS;
    }
    int rc = shmemi_gpu_copy(call, m->base + at, from, n, shmemi_gpu_stream());
    return rc ? rc : shmemi_gpu_sync(call, shmemi_gpu_stream());
}

/* ---- keys ---------------------------------------------------------------------------------------------- */

static int register_any(const char *call, char *addr, size_t n, int access, bool gpu, struct ibv_mr **mr)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    return gpu ? shmemi_verbs_register_gpu(call, &g->port, g->pd, addr, n, access, mr)
               : shmemi_verbs_register_in(call, &g->port, g->pd, addr, n, access, mr);
}

int shmemi_ibgda_expose(uint64_t offset, size_t n, void *key, size_t room)
{
    const char *call = "register memory for its peers";
    struct shmemi_ibgda *g = &shmemi_ibgda;
    struct ibgda_chunk new = {.offset = offset, .n = n};
    struct verbs_key mine;
    if (room < sizeof mine)
        return shmemi_fail(SHMEMX_ERR_LIMIT, call, "a key has %zu bytes, not %zu", sizeof mine, room);
    struct ibgda_chunk *more = realloc(g->chunk, sizeof *more * (size_t)(g->chunks + 1));
    if (more)
        g->chunk = more;
    new.keys = calloc((size_t)g->job->npes, sizeof *new.keys);
    if (!more || !new.keys) {
        free(new.keys);
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", g->job->npes);
    }
    char *addr = g->job->segments[g->segment].base + offset;
    int rc = register_any(call, addr, n,
                          IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
                              IBV_ACCESS_REMOTE_ATOMIC,
                          g->gpu, &new.mr);
    if (rc) {
        free(new.keys);
        return rc;
    }
    g->chunk[g->chunks++] = new;
    mine = (struct verbs_key){(uint64_t)(uintptr_t)addr, new.mr->rkey, 1};
    memcpy(key, &mine, sizeof mine);
    return sizeof mine;
}

int shmemi_ibgda_learn(int pe, uint64_t offset, size_t n, const void *key, size_t key_bytes)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    (void)n;
    for (int i = g->chunks; i-- > 0;)
        if (g->chunk[i].offset == offset && key_bytes == sizeof *g->chunk->keys) {
            memcpy(&g->chunk[i].keys[pe], key, key_bytes);
            return SHMEMX_SUCCESS;
        }
    return shmemi_fail(SHMEMX_ERR_MISMATCH, "learn its peers' keys", "PE %d gave %zu bytes for offset %llu",
                       pe, key_bytes, (unsigned long long)offset);
}

uint64_t shmemi_ibgda_forget(uint64_t end)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    while (g->chunks > 0 && g->chunk[g->chunks - 1].offset + g->chunk[g->chunks - 1].n > end) {
        struct ibgda_chunk *last = &g->chunk[--g->chunks];
        (void)g->lib->dereg_mr(last->mr);
        free(last->keys);
    }
    return g->chunks ? g->chunk[g->chunks - 1].offset + g->chunk[g->chunks - 1].n : 0;
}

/* ---- queues and answers -------------------------------------------------------------------------------- */

size_t shmemi_ibgda_answer_bytes(void)
{
    return ((size_t)shmemi_ibgda.depth + 1) * SHMEMX_IBGDA_ANSWER;
}

/* Whether the NIC takes GPU memory for queues: a descriptor of it, or the memory by its address. Tried with the first
 * queue's. */
static bool takes_gpu_queues(char *why, size_t n)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    size_t bytes = shmemi_ibgda_queue_bytes();
    int fd = -1;
    struct mlx5dv_devx_umem *umem = NULL;
    snprintf(why, n, "libmlx5 has no mlx5dv_devx_umem_reg_ex (rdma-core 44 has)");
    if (g->dv->devx_umem_reg_ex && shmemi_gpu_dmabuf(g->queues.base, g->queues.bytes, &fd, why, n)) {
        struct mlx5dv_devx_umem_in in = {.size = bytes,
                                         .access = IBV_ACCESS_LOCAL_WRITE,
                                         .pgsz_bitmap = ~(uint64_t)(IBGDA_PAGE - 1),
                                         .comp_mask = MLX5DV_UMEM_MASK_DMABUF,
                                         .dmabuf_fd = fd};
        umem = g->dv->devx_umem_reg_ex(g->port.context, &in);
        if (umem) {
            g->queues_fd = fd;
        } else {
            snprintf(why, n, "mlx5dv_devx_umem_reg_ex of a dmabuf: %s", strerror(errno));
            close(fd);
        }
    }
    if (!umem) {
        umem = g->dv->devx_umem_reg(g->port.context, g->queues.base, bytes, IBV_ACCESS_LOCAL_WRITE);
        if (!umem) {
            size_t at = strlen(why);
            snprintf(why + at, n - at, "; mlx5dv_devx_umem_reg by address: %s (modprobe nvidia_peermem)",
                     strerror(errno));
        }
    }
    if (umem)
        (void)g->dv->devx_umem_dereg(umem);
    return umem != NULL;
}

static int queues_on_gpu(const char *call, size_t count)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    bool only = strcmp(shmemi_env.IBGDA_MEMORY, "gpu") == 0;
    char why[400];
    if (!g->gpu)
        return only ? shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                                  "SHMEM_IBGDA_MEMORY=gpu, but the queues are for threads of the CPU")
                    : SHMEMX_SUCCESS;
    g->queues_on_gpu = true;
    int rc = shmemi_ibgda_get(call, &g->queues, IBGDA_ON_GPU, count * shmemi_ibgda_queue_bytes());
    if (rc)
        return rc;
    if (takes_gpu_queues(why, sizeof why))
        return SHMEMX_SUCCESS;
    shmemi_ibgda_give(&g->queues);
    g->queues_on_gpu = false;
    if (only)
        return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call,
                           "SHMEM_IBGDA_MEMORY=gpu: %s takes no queues there: %s", g->port.name, why);
    shmemi_debug("ibgda: queues in host memory; %s takes none of the GPU: %s", g->port.name, why);
    return SHMEMX_SUCCESS;
}

int shmemi_ibgda_memory_open(const char *call)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    const char *where = shmemi_env.IBGDA_MEMORY;
    size_t count = (size_t)g->job->npes * g->qps;
    int rc = SHMEMX_SUCCESS, host = g->gpu ? IBGDA_PINNED : IBGDA_PRIVATE;
    if (strcmp(where, "auto") != 0 && strcmp(where, "host") != 0 && strcmp(where, "gpu") != 0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "SHMEM_IBGDA_MEMORY=%s; auto, host and gpu are possible", where);
    if (strcmp(where, "host") != 0)
        rc = queues_on_gpu(call, count);
    if (rc == 0 && !g->queues.base)
        rc = shmemi_ibgda_get(call, &g->queues, host, count * shmemi_ibgda_queue_bytes());
    for (size_t i = 0; i < count && rc == 0; ++i) { /* no entry yet */
        char *cq = g->queues.base + i * shmemi_ibgda_queue_bytes() + shmemi_ibgda_cq_at();
        if (g->queues_on_gpu)
            rc = shmemi_gpu_fill(call, cq, 0xff, (size_t)g->depth * SHMEMX_MLX5_CQE, shmemi_gpu_stream());
        else
            memset(cq, 0xff, (size_t)g->depth * SHMEMX_MLX5_CQE);
    }
    if (rc == 0 && g->queues_on_gpu)
        rc = shmemi_gpu_sync(call, shmemi_gpu_stream());
    if (rc == 0)
        rc = shmemi_ibgda_get(call, &g->answers, g->queues_on_gpu ? IBGDA_ON_GPU : host,
                              count * shmemi_ibgda_answer_bytes());
    return rc ? rc
              : register_any(call, g->answers.base, g->answers.bytes, IBV_ACCESS_LOCAL_WRITE,
                             g->queues_on_gpu, &g->answers_mr);
}

void shmemi_ibgda_memory_close(void)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    for (int i = 0; i < g->chunks; ++i) {
        (void)g->lib->dereg_mr(g->chunk[i].mr);
        free(g->chunk[i].keys);
    }
    free(g->chunk);
    if (g->answers_mr)
        (void)g->lib->dereg_mr(g->answers_mr);
    if (g->queues_fd >= 0)
        close(g->queues_fd);
    shmemi_ibgda_give(&g->queues);
    shmemi_ibgda_give(&g->answers);
    shmemi_ibgda_give(&g->counts);
    shmemi_ibgda_give(&g->tables);
}
