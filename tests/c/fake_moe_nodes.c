/* The host's part of MoE on GPUs between nodes, without GPUs: which PEs are of one node, what is refused, which kernels each
 * call launches in which order and with what. 6 PEs: 2 nodes of 3, or 3 of 2; with an argument the job has nodes of 2, which
 * kernels reach by a NIC's path if the argument is `paths`. */
#define _GNU_SOURCE
#include "fake_moe.h"

static char order[256]; /* a letter and the level for each launch: "db lw dw " */
static struct shmemi_moen objects[4];
static struct shmemi_moen_dispatch dispatches[2];
static struct shmemi_moen_combine combines[2];
static int launched_dispatches, launched_combines;
static bool paths;

/* Between nodes nothing is counted; the layout's tables of all ranks have their experts. */
static char level_of(const struct shmemi_moen *o)
{
    return o->most == 0 ? 'b' : o->sources > 1 ? 'w' : 'a';
}
static void note(const char *name, unsigned blocks, unsigned threads, unsigned shared, void **arguments)
{
    const char *ours = "shmem_k_moe_";
    if (strncmp(name, ours, strlen(ours)) != 0) /* transport cuda's, for the host's own barriers */
        return;
    char what = name[strlen(ours)];
    size_t n = strlen(order);
    const struct shmemi_moen *o = arguments[0];
    bool far = strstr(name, "_far") != NULL, moves = what == 'd' || what == 'c';
    CHECK(far == (moves && o->mirror.far), "%s for ranks 0x%llx by a path", name, o->mirror.far);
    objects[strlen(order) / 3 % 4] = *(const struct shmemi_moen *)arguments[0];
    snprintf(order + n, sizeof order - n, "%c%c ", what, level_of(arguments[0]));
    if (what == 'd')
        dispatches[launched_dispatches++ % 2] = *(const struct shmemi_moen_dispatch *)arguments[1];
    if (what == 'c')
        combines[launched_combines++ % 2] = *(const struct shmemi_moen_combine *)arguments[1];
    kernel(name, blocks, threads, shared, arguments);
}
/* That call launched just these: first letters of the kernels and of the levels (all, between, within). */
static void ordered(int line, int rc, const char *wanted)
{
    CHECK(rc == 0 && strcmp(order, wanted) == 0, "line %d: gave %d, launched \"%s\", not \"%s\": %s", line,
          rc, order, wanted, shmemx_last_error());
    order[0] = 0;
}
#define ORDER(call, wanted) ordered(__LINE__, call, wanted)

static shmemx_moe_gpu_config_t config_for(int per_node)
{
    shmemx_moe_gpu_config_t c = gpu_config();
    c.pes_per_node = per_node;
    c.capacity = 0;
    return c;
}

/* 7 experts on 6 ranks: rank 0 has two. */
static void test_calls(int per_node)
{
    shmemx_moe_gpu_config_t c = config_for(per_node);
    shmemx_moe_gpu_info_t info = {0};
    shmemx_moe_gpu_result_t r = {0};
    shmemx_moe_gpu_t *moe = NULL;
    int nodes = npes / per_node, node = me / per_node;
    c.max_nodes = 1;
    if (!CHECK(shmemx_moe_gpu_create(&c, &moe) == 0, "%s", shmemx_last_error()))
        return;
    CHECK(shmemx_moe_gpu_info(moe, &info) == 0 && info.nodes == nodes && info.pes_per_node == per_node &&
              info.ranks == npes && info.rank == me && info.capacity == npes * 32 &&
              info.local_experts == 1 + (me == 0) && info.first_expert == me + (me > 0),
          "%d nodes of %d: %s", info.nodes, info.pes_per_node, shmemx_last_error());
    int64_t bytes = shmemx_moe_gpu_routing_bytes(moe, 32);
    CHECK(bytes > shmemx_moe_gpu_routing_bytes(moe, 0) && bytes > 32 * nodes * (per_node * 4 + 2 * 12),
          "%lld bytes of routing", (long long)bytes);
    char *way = NULL, *m = memory;
    int rc = shmemx_allocate((void **)&way, (size_t)bytes, 16, 0, SHMEMX_MEM_DEVICE);
    CHECK(rc == 0 && shmemx_moe_gpu_result(moe, 1, &r) == 0, "%s", shmemx_last_error());

    int32_t *tables = (int32_t *)m;
    ORDER(shmemx_moe_gpu_layout(moe, m, SHMEMX_INT64, 4, way, NULL, NULL, NULL, NULL), "lb ");
    CHECK(objects[0].max_nodes == 1 && objects[0].each == (unsigned)per_node, "%u", objects[0].max_nodes);
    ORDER(shmemx_moe_gpu_layout(moe, m, SHMEMX_INT64, 4, way, tables, tables, NULL, NULL), "la lb ");
    CHECK(objects[0].max_nodes == 0 && objects[0].experts == 7, "the tables are of ranks");
    ORDER(shmemx_moe_gpu_layout(moe, m, SHMEMX_INT32, 4, NULL, NULL, NULL, (uint8_t *)m, NULL), "la lb ");

    shmemx_moe_gpu_dispatch_t d = {.routing = way,
                                   .tokens = 4,
                                   .x = m,
                                   .format = SHMEMX_MOE_GPU_FP8,
                                   .group = 128,
                                   .topk_idx = m,
                                   .idx_type = SHMEMX_INT32,
                                   .result = 1,
                                   .worst_case = 1};
    play.rows = 9;
    play.experts = (int)info.local_experts;
    ORDER(shmemx_moe_gpu_dispatch(moe, &d, NULL), "db lw dw ");
    const struct shmemi_moen_dispatch *b = &dispatches[0], *w = &dispatches[1];
    CHECK(b->tokens == 4 && b->format == SHMEMI_MOEN_FP8 && b->ones && !b->worst_case && b->what == w->what &&
              b->ticket == w->ticket,
          "between: %u tokens, format %u", b->tokens, b->format);
    CHECK(w->tokens == SHMEMI_MOEN_ROUTED && w->format == SHMEMI_MOEN_BYTES && w->groups == 2 &&
              w->x == b->result.x && w->x_scales == b->result.scales && w->idx == b->result.topk_idx &&
              w->numbers == b->result.source_token && w->result.x == (uintptr_t)r.x && w->worst_case,
          "within: %u tokens, format %u", w->tokens, w->format);
    CHECK(w->routing == (uintptr_t)way && b->routing > w->routing &&
              b->routing < w->routing + (uint64_t)bytes,
          "routings overlap");
    unsigned experts = (unsigned)per_node + (node == 0), each = objects[2].experts;
    CHECK(each == experts && objects[2].sources == (unsigned)nodes, "%u experts, not %u", each, experts);
    int64_t rows = 0;
    int32_t counts[2] = {0};
    CHECK(shmemx_moe_gpu_counts(moe, 1, &rows, counts) == 0 && rows == 9 && counts[0] == 10, "%lld rows: %s",
          (long long)rows, shmemx_last_error());
    d.cached = 1;
    d.result = 0;
    d.format = SHMEMX_MOE_GPU_BF16;
    ORDER(shmemx_moe_gpu_dispatch(moe, &d, NULL), "db dw ");
    CHECK(w->idx == 0 && w->format == SHMEMI_MOEN_BF16 && w->x_stride == 512, "cached");
    /* an earlier dispatch's counts are still there */
    CHECK(shmemx_moe_gpu_counts(moe, 1, &rows, NULL) == 0 && rows == 9, "%s", shmemx_last_error());

    shmemx_moe_gpu_combine_t back = {.routing = way,
                                     .tokens = 4,
                                     .y = m,
                                     .weights = (float *)m,
                                     .out_weights = (float *)m,
                                     .topk_weights = (float *)m,
                                     .topk_idx = m,
                                     .idx_type = SHMEMX_INT32,
                                     .bias = {m, NULL},
                                     .out = m};
    ORDER(shmemx_moe_gpu_combine(moe, &back, NULL), "cw cb ");
    const struct shmemi_moen_combine *first = &combines[0], *second = &combines[1];
    CHECK(first->tokens == SHMEMI_MOEN_ROUTED && first->wide && first->idx > (uintptr_t)way &&
              first->topk_weights > first->idx && first->bias[0] == 0 && first->out == second->y &&
              first->out_weights == second->weights && second->topk_weights == 0 && second->tokens == 4 &&
              second->bias[0] == (uintptr_t)m && second->out == (uintptr_t)m,
          "the steps do not fit");

    shmemx_log_errors(0);
    d.cached = 0;
    d.topk_idx = NULL;
    REFUSED(shmemx_moe_gpu_dispatch(moe, &d, NULL), ARGUMENT, "between nodes it must travel");
    /* a rank is missing in another node: known before what comes within */
    d.topk_idx = m;
    play.rows = SHMEMI_MOEN_NO_PEER;
    order[0] = 0;
    ORDER(shmemx_moe_gpu_dispatch(moe, &d, NULL), "db lw dw ");
    REFUSED(shmemx_moe_gpu_counts(moe, 0, &rows, counts), TIMEOUT, "waited for a rank in vain");
    shmemx_log_errors(1);
    play.rows = 0;
    shmem_barrier_all();
    shmem_free(way);
    CHECK(shmemx_moe_gpu_destroy(moe) == 0, "%s", shmemx_last_error());
}

static void test_create(void)
{
    static const struct {
        int per_node;
        const char *text;
    } wrong[] = {{4, "pes_per_node is 4, must be the same on all nodes and divide the 6 members"},
                 {7, "pes_per_node is 7, must be"},
                 {-2, "pes_per_node is -2, must be"}};
    shmemx_moe_gpu_t *moe;
    shmemx_log_errors(0);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i) {
        shmemx_moe_gpu_config_t c = config_for(wrong[i].per_node);
        REFUSED(shmemx_moe_gpu_create(&c, &moe), ARGUMENT, wrong[i].text);
    }
    shmemx_moe_gpu_config_t c = config_for(me < 3 ? 3 : 2);
    REFUSED(shmemx_moe_gpu_create(&c, &moe), MISMATCH, "pes_per_node is 3 on PE 0 and 2 on PE 3");
    c = config_for(2);
    c.max_nodes = me == last;
    REFUSED(shmemx_moe_gpu_create(&c, &moe), MISMATCH, "max_nodes is 0 on PE 0 and 1 on PE 5");
    shmemx_log_errors(1);
    /* its two teams are given back: there are 128 in all */
    for (int i = 0; i < 70; ++i) {
        c = config_for(i % 2 ? 2 : 3);
        if (!CHECK(shmemx_moe_gpu_create(&c, &moe) == 0 && shmemx_moe_gpu_destroy(moe) == 0, "object %d: %s",
                   i, shmemx_last_error()))
            break;
    }
}

/* One level: all PEs of this machine share a node, or each is one. */
static void test_one_level(void)
{
    for (int per_node = 0; per_node < 2; ++per_node) {
        shmemx_moe_gpu_config_t c = config_for(per_node);
        shmemx_moe_gpu_info_t info = {0};
        shmemx_moe_gpu_t *moe = NULL;
        c.max_nodes = 2;
        CHECK(shmemx_moe_gpu_create(&c, &moe) == 0 && shmemx_moe_gpu_info(moe, &info) == 0, "%s",
              shmemx_last_error());
        CHECK(info.nodes == (per_node ? npes : 1) && info.pes_per_node == (per_node ? 1 : npes),
              "%d nodes of %d", info.nodes, info.pes_per_node);
        order[0] = 0;
        ORDER(shmemx_moe_gpu_layout(moe, memory, SHMEMX_INT64, 1, memory, NULL, NULL, NULL, NULL), "la ");
        CHECK(objects[0].max_nodes == (per_node ? 2 : 0), "max_nodes is %u", objects[0].max_nodes);
        CHECK(shmemx_moe_gpu_destroy(moe) == 0, "%s", shmemx_last_error());
    }
}

/* A team in reverse order of its PEs, and one PE outside. */
static void test_team(void)
{
    shmem_team_t team = SHMEM_TEAM_INVALID;
    shmemx_moe_gpu_config_t c = config_for(2);
    shmemx_moe_gpu_info_t info = {0};
    shmemx_moe_gpu_t *moe = NULL;
    CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, last, -1, 4, NULL, 0, &team) == 0, "split");
    c.team = team;
    CHECK(shmemx_moe_gpu_create(&c, &moe) == 0, "%s", shmemx_last_error());
    if (team != SHMEM_TEAM_INVALID)
        CHECK(shmemx_moe_gpu_info(moe, &info) == 0 && info.nodes == 2 && info.rank == last - me, "%s",
              shmemx_last_error());
    CHECK(shmemx_moe_gpu_destroy(moe) == 0, "%s", shmemx_last_error());
    if (team != SHMEM_TEAM_INVALID)
        shmem_team_destroy(team);
}

/* Where rows wait for a NIC: what takes which bytes of the heap, and for whom. */
static void test_mirror(void)
{
    int64_t bytes[2];
    for (int per_node = 1; per_node <= 2; ++per_node) {
        shmemx_moe_gpu_config_t c = config_for(per_node);
        shmemx_moe_gpu_info_t info = {0};
        shmemx_moe_gpu_dispatch_t d = {.tokens = 1, .x = memory, .topk_idx = memory};
        shmemx_moe_gpu_t *moe = NULL;
        c.max_tokens = 100;
        d.idx_type = SHMEMX_INT64;
        CHECK(shmemx_moe_gpu_create(&c, &moe) == 0 && shmemx_moe_gpu_info(moe, &info) == 0, "%s",
              shmemx_last_error());
        size_t routing = ((size_t)shmemx_moe_gpu_routing_bytes(moe, d.tokens) + 15) / 16 * 16;
        d.routing = aligned_alloc(16, routing); /* the driver copies choices into it */
        order[0] = 0;
        ORDER(shmemx_moe_gpu_dispatch(moe, &d, NULL), per_node == 1 ? "da " : "db lw dw ");
        const struct shmemi_moen *o = &objects[0];
        const struct shmemi_moen_mirror *m = &o->mirror;
        uint64_t own = 1ull << me / per_node, others = (1ull << npes / per_node) - 1 - own,
                 mates = per_node == 1 ? 1ull << (me ^ 1) : 0;
        CHECK(m->far == (paths ? others & ~mates : 0), "far is 0x%llx", m->far);
        uint64_t rows = (uint64_t)(npes / per_node) * 100, room = rows * (512 + 16 + 12 * 2 + 4);
        CHECK(!paths || (m->scales - m->x >= rows * 512 && m->topk_weights - m->topk_idx >= rows * 16 &&
                         m->staged - m->chosen >= 8 * 7 && m->x > o->back_weights),
              "parts of the mirror");
        CHECK(objects[per_node == 1 ? 0 : 2].mirror.far == (per_node == 1 ? m->far : 0),
              "within a node all is mapped");
        bytes[per_node - 1] = info.heap_bytes;
        CHECK(info.heap_bytes > (int64_t)room, "%lld bytes", (long long)info.heap_bytes);
        CHECK(shmemx_moe_gpu_destroy(moe) == 0, "%s", shmemx_last_error());
        free(d.routing);
    }
    printf("PE %d: %lld bytes with one level, %lld with two\n", me, (long long)bytes[0], (long long)bytes[1]);
}

/* Nodes as they are: three of two. */
static void test_real_nodes(void)
{
    shmemx_moe_gpu_config_t c = config_for(0);
    shmemx_moe_gpu_info_t info = {0};
    shmemx_moe_gpu_t *moe = NULL;
    CHECK(shmemx_moe_gpu_create(&c, &moe) == 0 && shmemx_moe_gpu_info(moe, &info) == 0 && info.nodes == 3 &&
              info.pes_per_node == 2,
          "%d nodes of %d: %s", info.nodes, info.pes_per_node, shmemx_last_error());
    CHECK(shmemx_moe_gpu_destroy(moe) == 0, "%s", shmemx_last_error());
    shmemx_log_errors(0);
    c = config_for(3);
    REFUSED(shmemx_moe_gpu_create(&c, &moe), ARGUMENT, "would be one node (pes_per_node is 3)");
    /* PEs 0, 1 and 2: a node has two of them, the next one */
    shmem_team_t team = SHMEM_TEAM_INVALID;
    CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, 3, NULL, 0, &team) == 0, "split");
    c = config_for(0);
    c.team = team;
    if (me < 2)
        REFUSED(shmemx_moe_gpu_create(&c, &moe), ARGUMENT,
                "pes_per_node is 2, must be the same on all nodes");
    else
        REFUSED(shmemx_moe_gpu_create(&c, &moe), MISMATCH, "PE 0 could not take part");
    if (team != SHMEM_TEAM_INVALID)
        shmem_team_destroy(team);
    /* PEs 1 to 4: one of a node, two of the next, one of the last */
    team = SHMEM_TEAM_INVALID;
    CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, 1, 1, 4, NULL, 0, &team) == 0, "split");
    c.team = team;
    if (me == 2 || me == 3)
        REFUSED(shmemx_moe_gpu_create(&c, &moe), ARGUMENT, "the ranks of a node must follow each other");
    else
        REFUSED(shmemx_moe_gpu_create(&c, &moe), MISMATCH, "PE 2 could not take part");
    if (team != SHMEM_TEAM_INVALID)
        shmem_team_destroy(team);
    shmemx_log_errors(1);
}

int main(int argc, char **argv)
{
    if (!on_the_fake_driver())
        return check_done();
    start();
    on_launch(note);
    paths = argc > 1 && strcmp(argv[1], "paths") == 0;
    if (paths || (argc > 1 && strcmp(argv[1], "nodes") == 0)) {
        test_real_nodes();
        test_calls(2);
        test_mirror();
        shmem_finalize();
        return check_done();
    }
    test_create();
    test_one_level();
    test_team();
    test_calls(3);
    test_calls(2);
    /* an object that outlives its job */
    shmemx_moe_gpu_config_t c = config_for(2);
    shmemx_moe_gpu_t *moe = NULL;
    CHECK(shmemx_moe_gpu_create(&c, &moe) == 0, "%s", shmemx_last_error());
    shmem_finalize();
    CHECK(shmemx_moe_gpu_destroy(moe) == 0, "%s", shmemx_last_error());
    return check_done();
}
