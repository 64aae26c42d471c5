/* The host's part of MoE on GPUs without one: what the calls of shmemx_moe_gpu.h and shmemx_moe_ll.h refuse and
 * say, that they launch nothing then, and what they make of kernels' reports. */
#define _GNU_SOURCE
#include "fake_moe.h"
#include "gpu/moe_ll_args.h"

/* ---- large batches ------------------------------------------------------------------------------------------------ */

static void gpu_results(shmemx_moe_gpu_t *moe)
{
    shmemx_moe_gpu_info_t info;
    shmemx_moe_gpu_result_t r[2];
    CHECK(shmemx_moe_gpu_info(moe, &info) == 0, "%s", shmemx_last_error());
    int64_t each = 7 / npes, more = 7 % npes;
    CHECK(info.ranks == npes && info.rank == me && info.results == 2 && info.capacity == 64 &&
              info.blocks > 0,
          "%d %d %d", info.ranks, info.rank, info.results);
    CHECK(info.local_experts == each + (me < more) &&
              info.first_expert == me * each + (me < more ? me : more),
          "%lld from %lld on", (long long)info.local_experts, (long long)info.first_expert);
    for (int i = 0; i < 2; ++i) {
        CHECK(shmemx_moe_gpu_result(moe, i, &r[i]) == 0, "%s", shmemx_last_error());
        void *const all[] = {r[i].x, r[i].scales, r[i].topk_idx, r[i].topk_weights, r[i].source_token};
        for (size_t a = 0; a < sizeof all / sizeof *all; ++a)
            CHECK(shmemx_mem_kind(all[a]) == SHMEMX_MEM_DEVICE && (uintptr_t)all[a] % 16 == 0,
                  "array %zu: %p", a, all[a]);
        CHECK(r[i].rows && r[i].per_expert && r[i].per_source, "words");
    }
    CHECK((size_t)llabs((char *)r[0].x - (char *)r[1].x) >= 64 * 2 * 256, "results overlap");
    int64_t none = shmemx_moe_gpu_routing_bytes(moe, 0), all = shmemx_moe_gpu_routing_bytes(moe, 32);
    CHECK(none > 0 && all >= none + 32 * npes * 4, "%lld, %lld", (long long)none, (long long)all);
    REFUSED(shmemx_moe_gpu_info(moe, NULL), ARGUMENT, "info is NULL");
    REFUSED(shmemx_moe_gpu_result(moe, 2, r), ARGUMENT, "result is 2, must be 0 to 1");
    REFUSED(shmemx_moe_gpu_result(moe, -1, r), ARGUMENT, "result is -1");
    REFUSED(shmemx_moe_gpu_result(moe, 0, NULL), ARGUMENT, "result is NULL");
    REFUSED(shmemx_moe_gpu_routing_bytes(moe, 33), ARGUMENT, "tokens is 33, must be 0 to max_tokens = 32");
    REFUSED(shmemx_moe_gpu_routing_bytes(moe, -1), ARGUMENT, "tokens is -1");
}

static void gpu_layout(shmemx_moe_gpu_t *moe)
{
    void *m = memory, *odd = memory + 4;
    LAUNCHES(shmemx_moe_gpu_layout(moe, m, SHMEMX_INT64, 32, m, m, m, m, NULL), "layout");
    CHECK(blocks_of_launch == (unsigned)npes + 1, "%u blocks", blocks_of_launch);
    LAUNCHES(shmemx_moe_gpu_layout(moe, odd, SHMEMX_INT32, 1, NULL, NULL, NULL, NULL, NULL), "layout");
    LAUNCHES(shmemx_moe_gpu_layout(moe, NULL, 0, 0, m, NULL, NULL, NULL, NULL), "layout");
    REFUSED(shmemx_moe_gpu_layout(moe, m, SHMEMX_INT64, 33, m, m, m, m, NULL), ARGUMENT, "tokens is 33");
    REFUSED(shmemx_moe_gpu_layout(moe, m, SHMEMX_FLOAT32, 1, m, m, m, m, NULL), ARGUMENT, "idx_type is");
    REFUSED(shmemx_moe_gpu_layout(moe, NULL, SHMEMX_INT64, 1, m, m, m, m, NULL), ARGUMENT, "topk_idx is");
    REFUSED(shmemx_moe_gpu_layout(moe, odd, SHMEMX_INT64, 1, m, m, m, m, NULL), ARGUMENT,
            "aligned to 8 bytes");
    REFUSED(shmemx_moe_gpu_layout(moe, m, SHMEMX_INT64, 1, odd, m, m, m, NULL), ARGUMENT, "routing is");
}

static void gpu_dispatch(shmemx_moe_gpu_t *moe)
{
    const shmemx_moe_gpu_dispatch_t right = {.routing = memory,
                                             .tokens = 4,
                                             .x = memory,
                                             .topk_idx = memory,
                                             .idx_type = SHMEMX_INT64,
                                             .topk_weights = (float *)memory};
    shmemx_moe_gpu_dispatch_t d = right;
#define TRY(code, text) (REFUSED(shmemx_moe_gpu_dispatch(moe, &d, NULL), code, text), d = right)
    LAUNCHES(shmemx_moe_gpu_dispatch(moe, &d, NULL), "dispatch");
    d.blocks = 5;
    LAUNCHES(shmemx_moe_gpu_dispatch(moe, &d, NULL), "dispatch");
    CHECK(blocks_of_launch == 5, "%u blocks", blocks_of_launch);
    d = (shmemx_moe_gpu_dispatch_t){.routing = memory}; /* a rank without tokens needs nothing else */
    LAUNCHES(shmemx_moe_gpu_dispatch(moe, &d, NULL), "dispatch");
    d = right;
    REFUSED(shmemx_moe_gpu_dispatch(moe, NULL, NULL), ARGUMENT, "args is NULL");
    d.tokens = 33, TRY(ARGUMENT, "tokens is 33");
    d.result = 2, TRY(ARGUMENT, "result is 2");
    d.routing = NULL, TRY(ARGUMENT, "routing is");
    d.routing = memory + 8, TRY(ARGUMENT, "aligned to 16 bytes");
    d.format = 4, TRY(ARGUMENT, "format is 4");
    d.x = NULL, TRY(ARGUMENT, "x is");
    d.x = memory + 2, TRY(ARGUMENT, "x is");
    d.x_stride = 496, TRY(ARGUMENT, "rows of x are 496 bytes apart");
    d.x_stride = 520, TRY(ARGUMENT, "a multiple of 16");
    d.x_stride = -512, TRY(ARGUMENT, "rows of x");
    d.format = SHMEMX_MOE_GPU_INT8, d.group = 5, TRY(ARGUMENT, "group is 5");
    d.format = SHMEMX_MOE_GPU_FP8, d.group = 32,
    TRY(ARGUMENT, "a group of 32 columns: the object was made for 128");
    d.format = SHMEMX_MOE_GPU_BYTES, d.x_groups = 3, TRY(ARGUMENT, "x_groups is 3, must be 0 to 2");
    d.format = SHMEMX_MOE_GPU_BYTES, d.x_groups = 2, TRY(ARGUMENT, "x_scales is");
    d.format = SHMEMX_MOE_GPU_BYTES, d.x_groups = 2, d.x_scales = (float *)memory, d.x_scales_stride = 9,
    TRY(ARGUMENT, "strides of x_scales are 9 and 0");
    d.blocks = -1, TRY(ARGUMENT, "blocks is -1");
    d.blocks = 129, TRY(ARGUMENT, "blocks is 129");
    d.idx_type = SHMEMX_UINT8, TRY(ARGUMENT, "idx_type is");
    d.topk_idx = memory + 4, TRY(ARGUMENT, "topk_idx is");
    d.topk_idx = NULL, TRY(ARGUMENT, "topk_weights travel with topk_idx");
    d.expert_alignment = -1, TRY(ARGUMENT, "expert_alignment is -1");
    d.expert_alignment = (1 << 20) + 1, TRY(ARGUMENT, "expert_alignment is");
    d.cached = 1, d.topk_idx = NULL; /* ids of a cached one are not looked at */
    LAUNCHES(shmemx_moe_gpu_dispatch(moe, &d, NULL), "dispatch");
#undef TRY
}

static void gpu_forms(shmemx_moe_gpu_t *moe)
{
    const shmemx_moe_gpu_gather_t right = {
        .rows = 20, .x = memory, .out = memory, .source = (int64_t *)memory};
    shmemx_moe_gpu_gather_t g = right;
#define TRY(code, text) (REFUSED(shmemx_moe_gpu_gather(moe, &g, NULL), code, text), g = right)
    LAUNCHES(shmemx_moe_gpu_gather(moe, &g, NULL), "gather");
    CHECK(blocks_of_launch == 3, "%u blocks", blocks_of_launch);
    g.format = SHMEMX_MOE_GPU_INT8, g.group = 5, g.scales = (float *)memory, g.source = NULL;
    LAUNCHES(shmemx_moe_gpu_gather(moe, &g, NULL), "gather");
    g = right, g.x = NULL; /* nothing was received: rows of zeros */
    LAUNCHES(shmemx_moe_gpu_gather(moe, &g, NULL), "gather");
    g = right;
    REFUSED(shmemx_moe_gpu_gather(moe, NULL, NULL), ARGUMENT, "args is NULL");
    g.rows = -1, TRY(ARGUMENT, "rows is -1");
    g.rows = 1ll << 31, TRY(ARGUMENT, "rows is 2147483648");
    g.format = 4, TRY(ARGUMENT, "format is 4");
    g.format = SHMEMX_MOE_GPU_FP8, TRY(ARGUMENT, "group is 0");
    g.format = SHMEMX_MOE_GPU_FP8, g.group = 257, TRY(ARGUMENT, "group is 257");
    g.format = SHMEMX_MOE_GPU_FP8, g.group = 8, g.scales_stride = 6, TRY(ARGUMENT, "scales_stride is 6");
    g.format = SHMEMX_MOE_GPU_FP8, g.group = 8, TRY(ARGUMENT, "scales is");
    g.out = NULL, TRY(ARGUMENT, "out is");
    g.x = memory + 8, TRY(ARGUMENT, "x is");
    g.x = NULL, g.source = NULL, TRY(ARGUMENT, "x is");
    g.source = (int64_t *)(memory + 4), TRY(ARGUMENT, "source is");
    g.rows_on_gpu = (int32_t *)(memory + 2), TRY(ARGUMENT, "rows_on_gpu is");
    g.rows = 0, g.out = NULL;
    CHECK(shmemx_moe_gpu_gather(moe, &g, NULL) == 0, "%s", shmemx_last_error());
#undef TRY
    const shmemx_moe_gpu_sum_t whole = {
        .rows = 1 << 20, .y = memory, .position = (int64_t *)memory, .out = memory};
    shmemx_moe_gpu_sum_t s = whole;
#define TRY(code, text) (REFUSED(shmemx_moe_gpu_sum(moe, &s, NULL), code, text), s = whole)
    LAUNCHES(shmemx_moe_gpu_sum(moe, &s, NULL), "sum");
    CHECK(blocks_of_launch == 2048, "%u blocks", blocks_of_launch);
    REFUSED(shmemx_moe_gpu_sum(moe, NULL, NULL), ARGUMENT, "args is NULL");
    s.rows = -1, TRY(ARGUMENT, "rows is -1");
    s.position = NULL, TRY(ARGUMENT, "position is");
    s.rows_on_gpu = (int32_t *)(memory + 2), TRY(ARGUMENT, "rows_on_gpu is");
    s.out = memory + 2, TRY(ARGUMENT, "out is");
    s.y = memory + 2, TRY(ARGUMENT, "y is");
    s.y_stride = 520, TRY(ARGUMENT, "a multiple of 16");
    s.weights = (float *)(memory + 2), TRY(ARGUMENT, "weights is");
    s.rows = 0, s.out = NULL;
    CHECK(shmemx_moe_gpu_sum(moe, &s, NULL) == 0, "%s", shmemx_last_error());
#undef TRY
}

static void gpu_combine(shmemx_moe_gpu_t *moe)
{
    const shmemx_moe_gpu_combine_t right = {.routing = memory, .tokens = 4, .y = memory, .out = memory};
    shmemx_moe_gpu_combine_t c = right;
    float *f = (float *)memory;
#define TRY(code, text) (REFUSED(shmemx_moe_gpu_combine(moe, &c, NULL), code, text), c = right)
    LAUNCHES(shmemx_moe_gpu_combine(moe, &c, NULL), "combine");
    c.y = NULL;
    LAUNCHES(shmemx_moe_gpu_combine(moe, &c, NULL), "combine");
    c = right;
    REFUSED(shmemx_moe_gpu_combine(moe, NULL, NULL), ARGUMENT, "args is NULL");
    c.tokens = -1, TRY(ARGUMENT, "tokens is -1");
    c.routing = NULL, TRY(ARGUMENT, "routing is");
    c.out = NULL, TRY(ARGUMENT, "out is");
    c.out_stride = 8, TRY(ARGUMENT, "rows of out are 8 bytes apart");
    c.y = memory + 8, TRY(ARGUMENT, "y is");
    c.y_stride = 504, TRY(ARGUMENT, "rows of y are 504 bytes apart");
    c.format = SHMEMX_MOE_GPU_FP8,
    TRY(ARGUMENT, "format is 2, must be SHMEMX_MOE_GPU_BF16 or SHMEMX_MOE_GPU_INT8");
    c.group = 64, TRY(ARGUMENT, "a group of 64 columns");
    c.group = 7, TRY(ARGUMENT, "group is 7");
    c.weights = f, TRY(ARGUMENT, "out_weights is");
    c.topk_weights = f, TRY(ARGUMENT, "idx_type is");
    c.topk_weights = f, c.idx_type = SHMEMX_INT32, TRY(ARGUMENT, "topk_idx is");
    c.bias[1] = memory + 4, TRY(ARGUMENT, "bias is");
    c.blocks = 129, TRY(ARGUMENT, "blocks is 129");
#undef TRY
}

static void gpu_counts(shmemx_moe_gpu_t *moe)
{
    shmemx_moe_gpu_dispatch_t d = {.routing = memory, .result = 1};
    int64_t rows = -1;
    int32_t each[8] = {0};
    REFUSED(shmemx_moe_gpu_counts(moe, 2, &rows, each), ARGUMENT, "result is 2");
    play.rows = 17;
    play.experts = (7 + npes - 1) / npes;
    LAUNCHES(shmemx_moe_gpu_dispatch(moe, &d, NULL), "dispatch");
    int rc = shmemx_moe_gpu_counts(moe, 1, &rows, each);
    CHECK(rc == 0 && rows == 17 && each[0] == 10 && (npes == 7 || each[1] == 11), "%d: %lld, %d %d", rc,
          (long long)rows, each[0], each[1]);
    CHECK(shmemx_moe_gpu_counts(moe, 1, NULL, NULL) == 0, "%s", shmemx_last_error());
    static const struct {
        uint32_t found;
        int report, code;
        const char *text;
    } wrong[] = {
        {SHMEMI_MOEN_NO_ROOM, 0, SHMEMX_ERR_LIMIT, "more rows than its capacity, 64"},
        {SHMEMI_MOEN_NO_ROOM, SHMEMX_DEVICE_LIMIT, SHMEMX_ERR_LIMIT, "receive 3 rows and has room for 8"},
        {SHMEMI_MOEN_NO_PEER, 0, SHMEMX_ERR_TIMEOUT, "waited for a rank in vain"},
        {SHMEMI_MOEN_NO_PEER, SHMEMX_DEVICE_TIMEOUT, SHMEMX_ERR_TIMEOUT, "waited for any PE"},
        {SHMEMI_MOEN_NO_MATCH, 0, SHMEMX_ERR_MISMATCH, "another kind of dispatch"},
        {SHMEMI_MOEN_NO_MATCH, SHMEMX_DEVICE_MISMATCH, SHMEMX_ERR_MISMATCH, "makes another call"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i) {
        play.rows = wrong[i].found;
        play.report = wrong[i].report;
        LAUNCHES(shmemx_moe_gpu_dispatch(moe, &d, NULL), "dispatch");
        rc = shmemx_moe_gpu_counts(moe, 1, &rows, each);
        CHECK(rc == wrong[i].code && strstr(shmemx_last_error(), wrong[i].text), "%zu: gave %d: %s", i, rc,
              shmemx_last_error());
        CHECK(mailbox->kind == 0 && shmemx_stream_check() == 0, "%zu: said twice: %s", i,
              shmemx_last_error());
    }
    /* another report stays for who asks for it */
    play.rows = SHMEMI_MOEN_NO_ROOM;
    play.report = SHMEMX_DEVICE_EXPERT;
    LAUNCHES(shmemx_moe_gpu_dispatch(moe, &d, NULL), "dispatch");
    REFUSED(shmemx_moe_gpu_counts(moe, 1, &rows, each), LIMIT, "more rows than its capacity");
    play.report = 0;
    play.rows = 0;
    REFUSED(shmemx_stream_check(), ARGUMENT, "choice 3 of topk_idx");
}

/* ---- low latency -------------------------------------------------------------------------------------------------- */

static void ll_dispatch(shmemx_moe_ll_t *ll)
{
    const shmemx_moe_ll_dispatch_t right = {.x = memory,
                                            .tokens = 4,
                                            .topk_idx = memory,
                                            .idx_type = SHMEMX_INT64,
                                            .recv_x = memory,
                                            .recv_scales = memory,
                                            .recv_count = (int32_t *)memory,
                                            HANDLE};
    shmemx_moe_ll_dispatch_t d = right;
#define TRY(phases, text) (REFUSED(shmemx_moe_ll_dispatch(ll, &d, phases, NULL), ARGUMENT, text), d = right)
    LAUNCHES(shmemx_moe_ll_dispatch(ll, &d, BOTH, NULL), "ll_dispatch");
    REFUSED(shmemx_moe_ll_dispatch(ll, NULL, BOTH, NULL), ARGUMENT, "args is NULL");
    TRY(0, "phases is 0");
    TRY(4, "phases is 4");
    d.tokens = 33, TRY(BOTH, "tokens is 33, this object is for 0 to 32");
    d.tokens = -1, TRY(RECV, "tokens is -1");
    d.handle.choices = NULL, TRY(SEND, "handle.choices");
    d.handle.present = memory + 2, TRY(SEND, "handle.present");
    d.handle.routed = memory + 4, TRY(SEND, "handle.routed");
    d.idx_type = SHMEMX_FLOAT64, TRY(SEND, "idx_type is");
    d.x = memory + 8, TRY(SEND, "x is");
    d.topk_idx = memory + 4, TRY(SEND, "topk_idx is");
    d.x_stride = 496, TRY(SEND, "x_stride is 496 bytes");
    d.x_stride = 520, TRY(SEND, "x_stride is 520 bytes");
    d.recv_x = NULL, TRY(BOTH, "recv_x is");
    d.recv_count = NULL, TRY(BOTH, "recv_count is");
    d.recv_scales = NULL, TRY(BOTH, "recv_scales is");
    d.scale_packed = 1, TRY(BOTH, "scale_packed wants an object with ue8m0");
    /* what a phase does not use it does not look at */
    d.recv_x = d.recv_scales = NULL;
    LAUNCHES(shmemx_moe_ll_dispatch(ll, &d, SEND, NULL), "ll_dispatch");
    d = right;
    d.x = d.topk_idx = NULL;
    LAUNCHES(shmemx_moe_ll_dispatch(ll, &d, RECV, NULL), "ll_dispatch");
#undef TRY
}

static void ll_combine(shmemx_moe_ll_t *ll)
{
    const shmemx_moe_ll_combine_t right = {.y = memory, .out = memory, .tokens = 4, HANDLE};
    shmemx_moe_ll_combine_t c = right;
#define TRY(phases, text) (REFUSED(shmemx_moe_ll_combine(ll, &c, phases, NULL), ARGUMENT, text), c = right)
    LAUNCHES(shmemx_moe_ll_combine(ll, &c, BOTH, NULL), "ll_combine");
    REFUSED(shmemx_moe_ll_combine(ll, NULL, BOTH, NULL), ARGUMENT, "args is NULL");
    TRY(-1, "phases is -1");
    c.tokens = 33, TRY(BOTH, "tokens is 33");
    c.handle.choices = NULL, TRY(RECV, "handle.choices");
    c.y = NULL, TRY(SEND, "y is");
    c.out = memory + 8, TRY(BOTH, "out is");
    c.out_stride = 508, TRY(BOTH, "out_stride is 508 bytes");
    c.out_stride = 516, TRY(BOTH, "out_stride is 516 bytes");
    c.tokens = 0, c.out = NULL;
    LAUNCHES(shmemx_moe_ll_combine(ll, &c, BOTH, NULL), "ll_combine");
#undef TRY
}

/* Two of a kind may be under way, dispatches and combines apart; a launch that failed is not. */
static void ll_phases(shmemx_moe_ll_t *ll)
{
    shmemx_moe_ll_dispatch_t d = {.idx_type = SHMEMX_INT64,
                                  .recv_x = memory,
                                  .recv_scales = memory,
                                  .recv_count = (int32_t *)memory,
                                  HANDLE};
    shmemx_moe_ll_combine_t c = {.y = memory, HANDLE};
#define DISPATCH(phases) shmemx_moe_ll_dispatch(ll, &d, phases, NULL)
#define COMBINE(phases) shmemx_moe_ll_combine(ll, &c, phases, NULL)
    REFUSED(DISPATCH(RECV), ARGUMENT, "nothing has been sent");
    REFUSED(COMBINE(RECV), ARGUMENT, "nothing has been sent");
    LAUNCHES(DISPATCH(SEND), "ll_dispatch");
    REFUSED(DISPATCH(BOTH), ARGUMENT, "1 before this one have been sent and not received");
    LAUNCHES(DISPATCH(SEND), "ll_dispatch");
    REFUSED(DISPATCH(SEND), ARGUMENT, "2 before this one have been sent and not received");
    REFUSED(COMBINE(RECV), ARGUMENT, "nothing has been sent");
    LAUNCHES(COMBINE(BOTH), "ll_combine");
    LAUNCHES(COMBINE(SEND), "ll_combine");
    LAUNCHES(COMBINE(SEND), "ll_combine");
    REFUSED(COMBINE(SEND), ARGUMENT, "2 before this one");
    LAUNCHES(DISPATCH(RECV), "ll_dispatch");
    LAUNCHES(DISPATCH(SEND), "ll_dispatch");
    LAUNCHES(DISPATCH(RECV), "ll_dispatch");
    LAUNCHES(DISPATCH(RECV), "ll_dispatch");
    REFUSED(DISPATCH(RECV), ARGUMENT, "nothing has been sent");
    LAUNCHES(COMBINE(RECV), "ll_combine");
    LAUNCHES(COMBINE(RECV), "ll_combine");
    REFUSED(COMBINE(RECV), ARGUMENT, "nothing has been sent");
    setenv("FAKE_CUDA_FAIL", "cuLaunchKernel", 1);
    REFUSED(DISPATCH(SEND), SYSTEM, "");
    REFUSED(COMBINE(BOTH), SYSTEM, "");
    unsetenv("FAKE_CUDA_FAIL");
    REFUSED(DISPATCH(RECV), ARGUMENT, "nothing has been sent");
    LAUNCHES(DISPATCH(BOTH), "ll_dispatch");
    LAUNCHES(COMBINE(BOTH), "ll_combine");
#undef DISPATCH
#undef COMBINE
}

static void ll_dead(shmemx_moe_ll_t *ll)
{
    shmemx_moe_ll_info_t info = {0};
    uint64_t dead = 99, all = (1u << npes) - 1;
    CHECK(shmemx_moe_ll_info(ll, &info) == 0, "%s", shmemx_last_error());
    CHECK(info.ranks == npes && info.rank == me && info.groups == 2 &&
              info.choices_bytes == npes * 32 * 2 * 8 && info.present_bytes == npes * 4 &&
              info.routed_bytes == 32 * 8 && info.heap_bytes > 0,
          "%d %d %lld", info.ranks, info.rank, (long long)info.groups);
    REFUSED(shmemx_moe_ll_info(ll, NULL), ARGUMENT, "info is NULL");
    CHECK(shmemx_moe_ll_dead(ll, &dead) == 0 && dead == 0, "%llx", (unsigned long long)dead);
    CHECK(shmemx_moe_ll_mask(ll, all) == 0 && shmemx_moe_ll_dead(ll, &dead) == 0 && dead == all, "%llx: %s",
          (unsigned long long)dead, shmemx_last_error());
    REFUSED(shmemx_moe_ll_mask(ll, all + 1), ARGUMENT, "ranks is 0x");
    REFUSED(shmemx_moe_ll_dead(ll, NULL), ARGUMENT, "ranks is NULL");
    CHECK(shmemx_moe_ll_mask(ll, 0) == 0 && shmemx_moe_ll_dead(ll, &dead) == 0 && dead == 0, "%llx",
          (unsigned long long)dead);
}

/* ---- reports, lifetime ---------------------------------------------------------------------------------------------- */

/* What a kernel has found wrong on one PE keeps it from no MoE call that the others make too. */
static void test_reports(shmemx_moe_gpu_t *moe, shmemx_moe_ll_t *ll)
{
    shmemx_moe_gpu_dispatch_t d = {.routing = memory};
    shmemx_moe_gpu_combine_t c = {.routing = memory};
    shmemx_moe_ll_dispatch_t ld = {.idx_type = SHMEMX_INT64,
                                   .recv_x = memory,
                                   .recv_scales = memory,
                                   .recv_count = (int32_t *)memory,
                                   HANDLE};
    shmemx_moe_ll_combine_t lc = {.y = memory, HANDLE};
    for (int by_check = 0; by_check < 2; ++by_check) {
        if (me == last)
            report(SHMEMX_DEVICE_EXPERT);
        LAUNCHES(shmemx_moe_gpu_layout(moe, NULL, 0, 0, memory, NULL, NULL, NULL, NULL), "layout");
        LAUNCHES(shmemx_moe_gpu_dispatch(moe, &d, NULL), "dispatch");
        CHECK(shmemx_moe_gpu_counts(moe, 0, NULL, NULL) == 0, "%s", shmemx_last_error());
        LAUNCHES(shmemx_moe_gpu_combine(moe, &c, NULL), "combine");
        LAUNCHES(shmemx_moe_ll_dispatch(ll, &ld, BOTH, NULL), "ll_dispatch");
        LAUNCHES(shmemx_moe_ll_combine(ll, &lc, SEND, NULL), "ll_combine");
        LAUNCHES(shmemx_moe_ll_combine(ll, &lc, RECV, NULL), "ll_combine");
        if (me == last)
            REFUSED(by_check ? shmemx_stream_check() : shmemx_quiet_on_stream(NULL), ARGUMENT,
                    "choice 3 of topk_idx, at 0x0, is neither -1 nor one of the 8 experts");
        CHECK(shmemx_stream_check() == 0, "said twice: %s", shmemx_last_error());
    }
}

/* A kernel that never says how many rows come: counts ends by the deadline. */
static void test_silence(void)
{
    shmemx_moe_gpu_config_t c = gpu_config();
    shmemx_moe_gpu_dispatch_t d = {.routing = memory};
    shmemx_moe_gpu_t *moe = NULL;
    setenv("SHMEM_TIMEOUT", "1", 1);
    start();
    CHECK(shmemx_moe_gpu_create(&c, &moe) == 0, "%s", shmemx_last_error());
    shmemx_log_errors(0);
    REFUSED(shmemx_moe_gpu_counts(moe, 0, NULL, NULL), ARGUMENT, "there was no dispatch into result 0");
    play.rows = 5;
    LAUNCHES(shmemx_moe_gpu_dispatch(moe, &d, NULL), "dispatch");
    play.silent = true;
    LAUNCHES(shmemx_moe_gpu_dispatch(moe, &d, NULL), "dispatch"); /* the other one's word does not do */
    REFUSED(shmemx_moe_gpu_counts(moe, 0, NULL, NULL), TIMEOUT, "");
    play.silent = false;
    shmemx_log_errors(1);
    CHECK(shmemx_moe_gpu_destroy(moe) == 0, "%s", shmemx_last_error());
    shmem_finalize();
}

static void test_calls(void)
{
    shmemx_moe_gpu_config_t g = gpu_config();
    shmemx_moe_ll_config_t l = ll_config();
    shmemx_moe_gpu_t *moe = NULL;
    shmemx_moe_ll_t *ll = NULL;
    CHECK(shmemx_moe_gpu_create(&g, &moe) == 0 && shmemx_moe_ll_create(&l, &ll) == 0, "%s",
          shmemx_last_error());
    if (!moe || !ll)
        return;
    shmemx_log_errors(0);
    gpu_results(moe);
    gpu_layout(moe);
    gpu_dispatch(moe);
    gpu_combine(moe);
    gpu_forms(moe);
    gpu_counts(moe);
    ll_dispatch(ll);
    ll_combine(ll);
    ll_phases(ll);
    ll_dead(ll);
    test_reports(moe, ll);
    CHECK(shmemx_moe_gpu_destroy(moe) == 0 && shmemx_moe_ll_destroy(ll) == 0, "%s", shmemx_last_error());
    shmemx_log_errors(1);
}

/* ---- between nodes ------------------------------------------------------------------------------------------------ */

static struct shmemi_moe_ll given; /* to the last low-latency kernel */
static void keep(const char *name, unsigned blocks, unsigned threads, unsigned shared, void **arguments)
{
    if (strncmp(name, "shmem_k_moe_", 12) != 0)
        return; /* the transport's own, when paths open */
    given = *(const struct shmemi_moe_ll *)arguments[0];
    kernel(name, blocks, threads, shared, arguments);
}

/* Every PE is a node: with `paths` a NIC's path goes to all others, by kernels that know it, which leave room for a block, and
 * there is memory for what goes that way; else all are mapped, as between the GPUs of one machine. */
static void test_nodes(bool paths)
{
    shmemx_moe_ll_config_t l = ll_config();
    shmemx_moe_ll_info_t info = {0};
    shmemx_moe_ll_t *ll = NULL;
    on_launch(keep);
    start_with(keep);
    uint64_t others = paths ? ((1ull << npes) - 1) ^ 1ull << me : 0;
    if (!CHECK(shmemx_moe_ll_create(&l, &ll) == 0 && shmemx_moe_ll_info(ll, &info) == 0, "%s",
               shmemx_last_error()))
        return;
    shmemx_moe_ll_dispatch_t d = {.idx_type = SHMEMX_INT64,
                                  .recv_x = memory,
                                  .recv_scales = memory,
                                  .recv_count = (int32_t *)memory,
                                  HANDLE};
    shmemx_moe_ll_combine_t c = {.y = memory, HANDLE};
    LAUNCHES(shmemx_moe_ll_combine(ll, &c, BOTH, NULL), "ll_combine");
    unsigned combining = blocks_of_launch;
    LAUNCHES(shmemx_moe_ll_dispatch(ll, &d, BOTH, NULL), "ll_dispatch");
    CHECK(given.far == others, "far ranks 0x%llx, not 0x%llx", given.far, (unsigned long long)others);
    CHECK(paths ? blocks_of_launch == combining : blocks_of_launch > combining, "%u blocks, combine %u",
          blocks_of_launch, combining);
    /* the last mirror ends where the object's own words begin */
    uint64_t end = given.words_at + 2 * given.far_half, block = given.block;
    CHECK(!paths || (given.words_at >= given.acks_at + 16 * (unsigned)npes && given.local - block >= end &&
                     given.local - block < end + 128),
          "words at %llu, end %llu", given.words_at, (unsigned long long)end);
    CHECK((uint64_t)info.heap_bytes == given.local - block + sizeof(struct shmemi_moe_ll_local), "%lld bytes",
          (long long)info.heap_bytes);
    CHECK(shmemx_moe_ll_destroy(ll) == 0, "%s", shmemx_last_error());
    shmem_finalize();
}

/* Without an argument, or a number: all calls. `paths`, `mapped`: see test_nodes. */
int main(int argc, char **argv)
{
    if (!on_the_fake_driver())
        return check_done();
    if (argc > 1 && (strcmp(argv[1], "paths") == 0 || strcmp(argv[1], "mapped") == 0)) {
        test_nodes(strcmp(argv[1], "paths") == 0);
        return check_done();
    }
    start();
    test_calls();
    shmem_finalize();
    test_silence();
    return check_done();
}
