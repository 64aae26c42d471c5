/* Low-latency MoE on GPUs (shmemx_moe_ll.h): objects, checks and launches. The kernels are gpu/moe_ll*.cuh. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/gpu.h"
#include "gpu/moe_ll_args.h"
#include "gpu_nic.h"
#include "moe_agree.h"
#include "shmemx_moe_gpu.h"
#include "shmemx_moe_ll.h"
#include "stream.h"
#include "team.h"
#include "world.h"

enum { MAX_RANKS = 64, MAX_TOKENS = 1024, MAX_EXPERTS = 65535 };
enum { PLAIN_SHARED = 48 << 10, RESERVED_SHARED = 1 << 10, LIVE_RESULTS = 2 };
/* Bytes of data and of the wire in a group of packets, for lines of 128 and of 16 bytes (device/packets.h). */
enum { LINES_DATA = 480, PAIRS_DATA = 256, GROUP_WIRE = 512 };

struct shmemx_moe_ll {
    struct shmemi_moe_object base;
    shmemx_moe_ll_config_t c;
    int ranks, me; /* ranks 0: this PE is no member and only holds its share of the heap */
    struct shmemi_moe_ll o;
    shmemx_moe_ll_info_t info;
    uint64_t sent[2], received[2]; /* phases called: dispatch, combine */
};

/* One thread at a time uses an object, and creating is collective, but different objects may be used by different threads. */
static struct shmemi_moe_list objects = {.lock = PTHREAD_MUTEX_INITIALIZER, .what = "low-latency MoE object"};

/* The object, usable by a member of its team. */
static int find(const char *call, struct shmemx_moe_ll *moe)
{
    int rc = shmemi_moe_check(&objects, call, (const struct shmemi_moe_object *)moe);
    if (rc == 0 && moe->ranks == 0)
        rc = shmemi_fail(SHMEMX_ERR_TEAM, call, "this PE is no member of the object's team");
    return rc;
}

/* ---- create, destroy ----------------------------------------------------------------------------------------------- */

static int bad(const char *call, const char *name, int64_t value, const char *want)
{
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s is %lld, must be %s", name, (long long)value, want);
}

static int check_config(const char *call, const shmemx_moe_ll_config_t *c)
{
    if (c->format != SHMEMX_MOE_GPU_BF16 && c->format != SHMEMX_MOE_GPU_INT8 &&
        c->format != SHMEMX_MOE_GPU_FP8)
        return bad(call, "format", c->format, "SHMEMX_MOE_GPU_BF16, _INT8 or _FP8");
    if (c->combine_format != SHMEMX_MOE_GPU_BF16 && c->combine_format != SHMEMX_MOE_GPU_INT8)
        return bad(call, "combine_format", c->combine_format, "SHMEMX_MOE_GPU_BF16 or _INT8");
    if (c->group != 0 && c->group != 32 && c->group != 64 && c->group != 128)
        return bad(call, "group", c->group, "32, 64, 128 or 0 (= row)");
    if (c->ue8m0 != 0 && (c->ue8m0 != 1 || c->format != SHMEMX_MOE_GPU_FP8))
        return bad(call, "ue8m0", c->ue8m0, "0, or 1 with FP8");
    if (c->hidden < 8 || c->hidden % 8 != 0 || c->hidden >= 1 << 20)
        return bad(call, "hidden", c->hidden, "a multiple of 8, below 2^20");
    if (c->num_experts < 1 || c->num_experts > MAX_EXPERTS)
        return bad(call, "num_experts", c->num_experts, "1 to 65535");
    if (c->topk < 1 || c->topk > 32)
        return bad(call, "topk", c->topk, "1 to 32");
    if (c->max_tokens < 1 || c->max_tokens > MAX_TOKENS)
        return bad(call, "max_tokens", c->max_tokens, "1 to 1024");
    return SHMEMX_SUCCESS;
}

static uint64_t nanoseconds(double seconds)
{
    return seconds > 0 ? (uint64_t)(seconds * 1e9) : 0;
}

/* What a block may have, and what all blocks of a multiprocessor have at least. */
static unsigned most_shared(void)
{
    unsigned bulk = shmemi_gpu_bulk_bytes();
    return bulk ? bulk : PLAIN_SHARED;
}
/* Blocks of a launch: as many as `each` multiprocessor takes, and its shared memory. */
static unsigned blocks(unsigned each, unsigned shared)
{
    unsigned room = most_shared() / (shared + RESERVED_SHARED);
    return shmemi_gpu_processors() * (room < 1 ? 1 : room < each ? room : each);
}

/* The kernel for what is mapped, or the one behind it, which knows a NIC's path. What that waits for is bytes and words that
 * are set: no kernels, but for copies within one GPU that several PEs have, for which it leaves the room of a block. */
static int launch(const char *call, const struct shmemx_moe_ll *m, int kernel, unsigned each, unsigned shared,
                  void *args, void *stream)
{
    void *arguments[] = {(void *)(uintptr_t)&m->o, args};
    unsigned n = blocks(m->o.far ? SHMEMI_MOE_LL_FAR_BLOCKS : each, shared);
    if (m->o.far && n > 1)
        n--;
    return shmemi_gpu_kernel_shared(call, kernel + (m->o.far != 0), n, SHMEMI_MOE_LL_THREADS, shared,
                                    arguments, stream);
}

/* The member's view of an object before there is memory. */
static int prepare(const char *call, struct shmemx_moe_ll *m, struct shmemi_moe_offer *mine)
{
    int rc;
    struct shmemi_team *team = shmemi_team_get(call, m->c.team, &rc);
    if (!team || (rc = check_config(call, &m->c)) != 0)
        return rc;
    if (team->n > MAX_RANKS)
        return bad(call, "the number of ranks", team->n, "64 at most");
    const bool lines = shmemi_gpu_lines_whole();
    struct shmemi_moe_ll *o = &m->o;
    o->team = (unsigned)shmemi_team_slot(team);
    o->hidden = (unsigned)m->c.hidden;
    o->experts = (unsigned)m->c.num_experts;
    o->topk = (unsigned)m->c.topk;
    o->max_tokens = (unsigned)m->c.max_tokens;
    o->group = m->c.group ? (unsigned)m->c.group : o->hidden;
    o->ue8m0 = (unsigned)m->c.ue8m0;
    o->how = (unsigned)m->c.format;
    o->back_how = (unsigned)m->c.combine_format;
    o->timeout_ns = nanoseconds(shmemi_env.TIMEOUT);
    uint64_t end = shmemi_moe_ll_lay_out(o, (unsigned)team->n, lines ? LINES_DATA : PAIRS_DATA, GROUP_WIRE);
    for (int j = 0; j < team->n; ++j)
        o->far |= (uint64_t)shmemi_gpu_nic_unmapped(&team->pes[j], 1) << j;
    if (o->far) /* so for all members: those of a node are mapped, others are not */
        end = shmemi_moe_ll_lay_out_far(o, (unsigned)team->n, end);
    end = (end + 127) / 128 * 128;
    o->local = end; /* an offset until there is memory */
    if (o->dispatch_shared > most_shared() || o->combine_shared > most_shared())
        return shmemi_fail(
            SHMEMX_ERR_UNSUPPORTED, call,
            "hidden %u, %u experts on %d ranks and %u tokens want %u and %u bytes of shared memory for a "
            "block; there are %u",
            o->hidden, o->experts, team->n, o->max_tokens, o->dispatch_shared, o->combine_shared,
            most_shared());
    m->ranks = team->n;
    m->me = team->me;
    int64_t ranks = m->ranks, each = m->c.num_experts / ranks, more = m->c.num_experts % ranks;
    m->info = (shmemx_moe_ll_info_t){
        .ranks = m->ranks,
        .rank = m->me,
        .first_expert = m->me * each + (m->me < more ? m->me : more),
        .local_experts = each + (m->me < more),
        .groups = (o->hidden + o->group - 1) / o->group,
        .choices_bytes = ranks * m->c.max_tokens * m->c.topk * 8,
        .present_bytes = ranks * o->bit_words * 4,
        .routed_bytes = m->c.max_tokens * 8,
        .heap_bytes = (int64_t)(end + sizeof(struct shmemi_moe_ll_local)),
    };
    shmemi_moe_offer_team(mine, team->pes, team->n);
    mine->bytes = m->info.heap_bytes;
    const int64_t fields[] = {m->c.format, m->c.combine_format, m->c.group, m->c.ue8m0,
                              m->c.hidden, m->c.num_experts,    m->c.topk,  m->c.max_tokens};
    memcpy(mine->fields, fields, sizeof fields);
    return SHMEMX_SUCCESS;
}

static int ready(const char *call, void *object, void *block)
{
    (void)call;
    struct shmemx_moe_ll *m = object;
    m->o.block = (uintptr_t)block;
    m->o.local += (uintptr_t)block;
    return SHMEMX_SUCCESS;
}

int shmemx_moe_ll_create(const shmemx_moe_ll_config_t *config, shmemx_moe_ll_t **moe)
{
    static const char *const names[] = {"format", "combine_format", "group", "ue8m0",
                                        "hidden", "num_experts",    "topk",  "max_tokens"};
    SHMEMI_REQUIRE_INIT(__func__);
    int rc = shmemi_gpu_state_is_open() ? SHMEMX_SUCCESS : shmemi_heap_gpu_open(__func__);
    if (moe)
        *moe = NULL;
    if (rc)
        return rc; /* on all PEs alike */
    struct shmemi_moe_offer mine = {0};
    struct shmemx_moe_ll *m = NULL;
    if (moe == NULL || config == NULL) {
        mine.error = shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__, "%s is NULL", moe ? "config" : "moe");
    } else if ((m = calloc(1, sizeof *m)) == NULL) {
        mine.error = shmemi_fail(SHMEMX_ERR_NO_MEMORY, __func__, "%zu bytes of private memory", sizeof *m);
    } else if (config->team != SHMEM_TEAM_INVALID) {
        m->c = *config;
        mine.error = prepare(__func__, m, &mine);
    }
    const struct shmemi_moe_creation how = {.call = __func__,
                                            .names = names,
                                            .fields = sizeof names / sizeof *names,
                                            .kind = SHMEMX_MEM_DEVICE,
                                            .ready = ready,
                                            .object = m};
    void *block;
    rc = shmemi_moe_create(&how, &mine, &block);
    if (rc) {
        free(m);
        return rc;
    }
    shmemi_moe_enlist(&objects, &m->base, block);
    *moe = m;
    return SHMEMX_SUCCESS;
}

int shmemx_moe_ll_destroy(shmemx_moe_ll_t *moe)
{
    int rc;
    /* what the last kernels have posted, acknowledgements, arrives before anybody's memory goes */
    shmemi_gpu_nic_drain();
    if (shmemi_world.npes)
        (void)shmemx_quiet(SHMEM_CTX_DEFAULT);
    if (shmemi_moe_dismiss(&objects, __func__, (struct shmemi_moe_object *)moe, &rc))
        free(moe);
    return rc;
}

int shmemx_moe_ll_info(shmemx_moe_ll_t *moe, shmemx_moe_ll_info_t *info)
{
    int rc = find(__func__, moe);
    if (rc)
        return rc;
    if (info == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__, "info is NULL");
    *info = moe->info;
    return SHMEMX_SUCCESS;
}

/* ---- checks of a call --------------------------------------------------------------------------------------------------- */

static int check_pointer(const char *call, const char *name, const void *p, size_t alignment)
{
    if (p && (uintptr_t)p % alignment == 0)
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s is %p, must be an address aligned to %zu bytes", name,
                       p, alignment);
}

static int check_stride(const char *call, const char *name, ptrdiff_t stride, int64_t least, int64_t multiple)
{
    if (stride >= least && stride % multiple == 0)
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                       "%s is %td bytes, must be a multiple of %lld, at least %lld", name, stride,
                       (long long)multiple, (long long)least);
}

/* What kernels of this PE have reported stays for shmemx_stream_check: a call that stopped for it on this PE alone would
 * let the other ranks wait. */
static int check_call(const char *call, struct shmemx_moe_ll *moe, const void *args, int phases,
                      int64_t tokens, const shmemx_moe_ll_handle_t *h)
{
    int rc = find(call, moe);
    if (rc)
        return rc;
    if (args == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "args is NULL");
    if (phases < 1 || phases > (SHMEMX_MOE_LL_SEND | SHMEMX_MOE_LL_RECV))
        return bad(call, "phases", phases, "SHMEMX_MOE_LL_SEND, SHMEMX_MOE_LL_RECV or both");
    if (tokens < 0 || tokens > moe->c.max_tokens)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "tokens is %lld, this object is for 0 to %lld",
                           (long long)tokens, (long long)moe->c.max_tokens);
    if ((rc = check_pointer(call, "handle.choices", h->choices, 8)) != 0 ||
        (rc = check_pointer(call, "handle.present", h->present, 4)) != 0)
        return rc;
    return check_pointer(call, "handle.routed", h->routed, 8);
}

/* Is there room for a SEND, something to RECV? `kind` 0: dispatch, 1: combine. */
static int check_phases(const char *call, const struct shmemx_moe_ll *m, int kind, int phases)
{
    uint64_t open = m->sent[kind] - m->received[kind];
    if ((phases & SHMEMX_MOE_LL_SEND) && open >= (phases & SHMEMX_MOE_LL_RECV ? 1 : LIVE_RESULTS))
        return shmemi_fail(
            SHMEMX_ERR_ARGUMENT, call,
            "%llu before this one have been sent and not received; call their RECV phase first",
            (unsigned long long)open);
    if (phases == SHMEMX_MOE_LL_RECV && open == 0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "nothing has been sent that could be received");
    return SHMEMX_SUCCESS;
}

/* Counts what is under way, once it is. */
static int launched(struct shmemx_moe_ll *m, int kind, int phases, int rc)
{
    m->sent[kind] += rc == 0 && (phases & SHMEMX_MOE_LL_SEND) != 0;
    m->received[kind] += rc == 0 && (phases & SHMEMX_MOE_LL_RECV) != 0;
    return rc;
}

static struct shmemi_moe_ll_handle handle_of(const shmemx_moe_ll_handle_t *h)
{
    return (struct shmemi_moe_ll_handle){(uintptr_t)h->choices, (uintptr_t)h->present, (uintptr_t)h->routed};
}

/* ---- dispatch, combine ------------------------------------------------------------------------------------------------------ */

static int check_sent(const char *call, const struct shmemx_moe_ll *m, const shmemx_moe_ll_dispatch_t *a)
{
    int rc = SHMEMX_SUCCESS;
    if (a->idx_type != SHMEMX_INT64 && a->idx_type != SHMEMX_INT32)
        return bad(call, "idx_type", a->idx_type, "SHMEMX_INT64 or SHMEMX_INT32");
    if (a->tokens == 0)
        return rc;
    if ((rc = check_pointer(call, "x", a->x, 16)) != 0 ||
        (rc = check_pointer(call, "topk_idx", a->topk_idx, a->idx_type == SHMEMX_INT64 ? 8 : 4)) != 0)
        return rc;
    return a->x_stride ? check_stride(call, "x_stride", a->x_stride, m->c.hidden * 2, 16) : SHMEMX_SUCCESS;
}

static int check_received(const char *call, const struct shmemx_moe_ll *m, const shmemx_moe_ll_dispatch_t *a)
{
    int rc = check_pointer(call, "recv_x", a->recv_x, 8);
    if (rc || (rc = check_pointer(call, "recv_count", a->recv_count, 4)) != 0 ||
        m->c.format == SHMEMX_MOE_GPU_BF16)
        return rc;
    if (a->scale_packed && !m->c.ue8m0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "scale_packed wants an object with ue8m0");
    return check_pointer(call, "recv_scales", a->recv_scales, 4);
}

int shmemx_moe_ll_dispatch(shmemx_moe_ll_t *moe, const shmemx_moe_ll_dispatch_t *args, int phases,
                           void *stream)
{
    const char *call = "shmemx_moe_ll_dispatch";
    int rc = check_call(call, moe, args, phases, args ? args->tokens : 0, args ? &args->handle : NULL);
    if (rc == 0 && (phases & SHMEMX_MOE_LL_SEND))
        rc = check_sent(call, moe, args);
    if (rc == 0 && (phases & SHMEMX_MOE_LL_RECV))
        rc = check_received(call, moe, args);
    if (rc || (rc = check_phases(call, moe, 0, phases)) != 0)
        return rc;
    struct shmemi_moe_ll_dispatch a = {
        .x = (uintptr_t)args->x,
        .x_stride = (uint64_t)(args->x_stride ? args->x_stride : moe->c.hidden * 2),
        .idx = (uintptr_t)args->topk_idx,
        .weights = (uintptr_t)args->topk_weights,
        .recv_x = (uintptr_t)args->recv_x,
        .recv_scales = (uintptr_t)args->recv_scales,
        .scale_expert = (uint64_t)args->scale_expert,
        .scale_row = (uint64_t)args->scale_row,
        .scale_group = (uint64_t)args->scale_group,
        .recv_count = (uintptr_t)args->recv_count,
        .recv_source = (uintptr_t)args->recv_source,
        .handle = handle_of(&args->handle),
        .tokens = (unsigned)args->tokens,
        .wide_idx = args->idx_type == SHMEMX_INT64,
        .scale_packed = args->scale_packed != 0,
        .phases = (unsigned)phases,
    };
    rc = launch(call, moe, SHMEMI_K_MOE_LL_DISPATCH, SHMEMI_MOE_LL_DISPATCH_BLOCKS, moe->o.dispatch_shared,
                &a, stream);
    return launched(moe, 0, phases, rc);
}

int shmemx_moe_ll_combine(shmemx_moe_ll_t *moe, const shmemx_moe_ll_combine_t *args, int phases, void *stream)
{
    const char *call = "shmemx_moe_ll_combine";
    int rc = check_call(call, moe, args, phases, args ? args->tokens : 0, args ? &args->handle : NULL);
    if (rc == 0 && (phases & SHMEMX_MOE_LL_SEND))
        rc = check_pointer(call, "y", args->y, 16);
    if (rc == 0 && (phases & SHMEMX_MOE_LL_RECV) && args->tokens > 0) {
        rc = check_pointer(call, "out", args->out, 16);
        if (rc == 0 && args->out_stride)
            rc = check_stride(call, "out_stride", args->out_stride, moe->c.hidden * 2, 8);
    }
    if (rc || (rc = check_phases(call, moe, 1, phases)) != 0)
        return rc;
    struct shmemi_moe_ll_combine a = {
        .y = (uintptr_t)args->y,
        .weights = (uintptr_t)args->topk_weights,
        .out = (uintptr_t)args->out,
        .out_stride = (uint64_t)(args->out_stride ? args->out_stride : moe->c.hidden * 2),
        .handle = handle_of(&args->handle),
        .tokens = (unsigned)args->tokens,
        .phases = (unsigned)phases,
    };
    rc = launch(call, moe, SHMEMI_K_MOE_LL_COMBINE, SHMEMI_MOE_LL_COMBINE_BLOCKS, moe->o.combine_shared, &a,
                stream);
    return launched(moe, 1, phases, rc);
}

/* ---- dead ranks ---------------------------------------------------------------------------------------------------------------- */

static void *dead_word(const struct shmemx_moe_ll *m)
{
    return &((struct shmemi_moe_ll_local *)(uintptr_t)m->o.local)->dead;
}

int shmemx_moe_ll_dead(shmemx_moe_ll_t *moe, uint64_t *ranks)
{
    int rc = find(__func__, moe);
    if (rc)
        return rc;
    if (ranks == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__, "ranks is NULL");
    rc = shmemi_gpu_copy(__func__, ranks, dead_word(moe), sizeof *ranks, shmemi_gpu_stream());
    return rc ? rc : shmemi_gpu_sync(__func__, shmemi_gpu_stream());
}

int shmemx_moe_ll_mask(shmemx_moe_ll_t *moe, uint64_t ranks)
{
    int rc = find(__func__, moe);
    if (rc)
        return rc;
    if (moe->ranks < 64 && ranks >> moe->ranks)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__, "ranks is 0x%llx, there are %d",
                           (unsigned long long)ranks, moe->ranks);
    rc = shmemi_gpu_copy(__func__, dead_word(moe), &ranks, sizeof ranks, shmemi_gpu_stream());
    return rc ? rc : shmemi_gpu_sync(__func__, shmemi_gpu_stream());
}
