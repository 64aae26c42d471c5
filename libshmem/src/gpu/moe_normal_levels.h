/* MoE for large batches between nodes: two levels, each of which is a call between a team's ranks (moe_normal_args.h). For
 * moe_gpu_nodes.c and the tests on CPU threads. Plain C.
 *
 * N nodes of P PEs each, the ranks numbered node by node. A dispatch is one between the N PEs of one number in their nodes,
 * which sends a token once to each node that has one of its experts; what it brings is the tokens of a second dispatch,
 * within the node. A combine is the same backwards. */
#ifndef SHMEMI_GPU_MOE_NORMAL_LEVELS_H
#define SHMEMI_GPU_MOE_NORMAL_LEVELS_H

#include "moe_normal_shape.h"

struct shmemi_moen_levels {
    unsigned nodes, each; /* N, P */
    struct shmemi_moen between, within;
    struct shmemi_moen_result stage;  /* what `between` brings: up to N * max_tokens rows */
    shmemi_moen_u64 sum, sum_weights; /* of these rows, in a combine: BF16 [..][hidden], float [..][K] */
};

/* The levels of `whole`, which has sizes, but no addresses, seen from node `node`; from `end` on. Its mirror.far is of nodes: that
 * of `between`. Teams and stage.host are the caller's to set. */
static inline shmemi_moen_u64 shmemi_moen_lay_out_levels(struct shmemi_moen_levels *l,
                                                         const struct shmemi_moen *whole, unsigned node,
                                                         unsigned groups, shmemi_moen_u64 end)
{
    unsigned staged = l->nodes * whole->max_tokens, ranks = l->nodes * l->each;
    unsigned extra = whole->experts % ranks,
             before = node * l->each; /* ranks with one expert more; ranks before */
    unsigned more = extra < before ? 0 : extra - before < l->each ? extra - before : l->each;
    l->between = l->within = *whole;
    l->between.most = 0;
    l->between.each = l->each;
    l->between.capacity = staged;
    l->within.experts = l->each * (whole->experts / ranks) + more; /* of this node; ids come as its own */
    l->within.sources = l->nodes;
    l->within.max_tokens = staged;
    l->within.max_nodes = 0;
    l->within.mirror.far = 0; /* a node's memory is mapped by all of its PEs */
    end = shmemi_moen_lay_out(&l->between, l->nodes, groups, end);
    end = shmemi_moen_lay_out_result(&l->stage, &l->between, l->nodes, groups, end);
    end = shmemi_moen_lay_out(&l->within, l->each, groups, end);
    l->sum = shmemi_moen_take(&end, (shmemi_moen_u64)staged * whole->hidden * 2);
    l->sum_weights = shmemi_moen_take(&end, (shmemi_moen_u64)staged * whole->topk * 4);
    return end;
}

/* A routing of both levels, at `at`: that within the node first, whose size does not depend on the tokens; then the ids and
 * weights of what came from all nodes, which weighted combines want when the stage holds other rows; then that between
 * the nodes. */
struct shmemi_moen_way {
    shmemi_moen_u64 within, choices, between, end;
};
static inline shmemi_moen_u64 shmemi_moen_choices_bytes(const struct shmemi_moen_levels *l)
{
    return l->stage.source_token - l->stage.topk_idx; /* ids and weights lie side by side */
}
static inline struct shmemi_moen_way shmemi_moen_way_at(const struct shmemi_moen_levels *l,
                                                        shmemi_moen_u64 at, shmemi_moen_u64 tokens)
{
    struct shmemi_moen_way w;
    w.within = at;
    w.choices = w.within + shmemi_moen_routing_size(&l->within, l->each, l->within.max_tokens);
    w.between = w.choices + shmemi_moen_choices_bytes(l);
    w.end = w.between + shmemi_moen_routing_size(&l->between, l->nodes, tokens);
    return w;
}

/* The steps of a dispatch `a`, which has all but what shmemi_moen_shape_dispatch sets: between the nodes, then, if it is not
 * cached, the layout of what came (and its choices are to be copied into the routing), then within the node. */
static inline struct shmemi_moen_dispatch shmemi_moen_dispatch_between(const struct shmemi_moen_levels *l,
                                                                       const struct shmemi_moen_way *w,
                                                                       const struct shmemi_moen_dispatch *a)
{
    struct shmemi_moen_dispatch d = *a;
    d.result = l->stage;
    d.routing = w->between;
    d.worst_case = 0;
    d.ones = 1; /* combine multiplies by what has come */
    return d;
}
static inline struct shmemi_moen_layout shmemi_moen_layout_within(const struct shmemi_moen_levels *l,
                                                                  const struct shmemi_moen_way *w)
{
    struct shmemi_moen_layout a = {l->stage.topk_idx, w->within, 0, 0, 0, l->stage.per_source, 0, 1};
    return a;
}
static inline struct shmemi_moen_dispatch shmemi_moen_dispatch_within(const struct shmemi_moen_levels *l,
                                                                      const struct shmemi_moen_way *w,
                                                                      const struct shmemi_moen_dispatch *a)
{
    struct shmemi_moen_dispatch d = *a;
    int bf16 = a->format == SHMEMI_MOEN_BF16;
    d.routing = w->within;
    d.tokens = SHMEMI_MOEN_ROUTED;
    d.x = l->stage.x;
    d.x_stride = bf16 ? 2 * l->within.hidden : l->within.hidden;
    d.format = bf16 ? SHMEMI_MOEN_BF16 : SHMEMI_MOEN_BYTES; /* quantized once, at the source */
    d.x_scales = a->groups ? l->stage.scales : 0;
    d.x_scales_row = shmemi_moen_up(4 * a->groups, 16);
    d.x_scales_column = 4;
    d.bulk_scales = a->groups != 0;
    d.idx = a->cached ? 0 : l->stage.topk_idx;
    d.weights = a->cached ? 0 : l->stage.topk_weights;
    d.wide = 1;
    d.numbers = l->stage.source_token;
    return d;
}

/* The steps of a combine, likewise: within the node, into `sum`, then between the nodes. */
static inline struct shmemi_moen_combine shmemi_moen_combine_within(const struct shmemi_moen_levels *l,
                                                                    const struct shmemi_moen_way *w,
                                                                    const struct shmemi_moen_combine *a)
{
    struct shmemi_moen_combine c = *a;
    c.routing = w->within;
    c.tokens = SHMEMI_MOEN_ROUTED;
    c.out_weights = a->weights ? l->sum_weights : 0;
    c.idx = w->choices;
    c.wide = 1;
    c.topk_weights = a->topk_weights ? w->choices + (l->stage.topk_weights - l->stage.topk_idx) : 0;
    c.bias[0] = c.bias[1] = 0;
    c.out = l->sum;
    c.out_stride = 2 * l->within.hidden;
    return c;
}
static inline struct shmemi_moen_combine shmemi_moen_combine_between(const struct shmemi_moen_levels *l,
                                                                     const struct shmemi_moen_way *w,
                                                                     const struct shmemi_moen_combine *a)
{
    struct shmemi_moen_combine c = *a;
    c.routing = w->between;
    c.y = l->sum;
    c.y_stride = 2 * l->within.hidden;
    c.weights = a->weights ? l->sum_weights : 0;
    c.topk_weights = 0; /* multiplied already */
    return c;
}

#endif
