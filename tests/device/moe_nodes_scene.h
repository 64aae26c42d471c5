/* Ranks of MoE that make their launches one behind the other, as a stream does: for large batches on one level and between
 * nodes, on CPU threads. */
#ifndef MOE_NODES_SCENE_H
#define MOE_NODES_SCENE_H

#include "moe_normal_scene.h"

/* One rank's launches of a call. */
struct rank_of_nodes {
    const shmemx_device_state &state;
    const shmemi_moen &object;        // with one level
    const shmemi_moen_levels &levels; // nodes 0: there is one
    unsigned n;                       // ranks
    unsigned char *routing;
    unsigned tokens;

    shmemi_moen_way way() const
    {
        return shmemi_moen_way_at(&levels, address(routing), tokens);
    }
    template <class Kernel> void launch(unsigned blocks, unsigned threads, unsigned shared, Kernel kernel) const
    {
        shmem::host::launch(state, blocks, threads, shared, kernel);
    }
    void layout(const shmemi_moen &o, const shmemi_moen_layout &a, unsigned to) const
    {
        const unsigned threads = shmem::arch::warp_width;
        launch(to + 1, threads, shmemi_moen_layout_shared(threads, o.experts),
               [&] { normal::layout(o, a, shmem::host::shared()); });
    }
    // The routing, of ids in `a`.
    void layout(shmemi_moen_layout a) const
    {
        a.routing = levels.nodes != 0 ? way().between : address(routing);
        if (levels.nodes != 0)
            layout(levels.between, a, levels.nodes);
        else
            layout(object, a, n);
    }
    void dispatch(const shmemi_moen &o, unsigned ranks, shmemi_moen_dispatch d, const job_of_ranks::how &h) const
    {
        const unsigned shared = job_of_ranks::shape(d, o, ranks, h);
        launch(h.blocks, d.pipe.warps * shmem::arch::warp_width, shared,
               [&] { normal::dispatch(o, d, shmem::host::shared()); });
    }
    // staged: called when the rows for the node are here.
    template <class Staged>
    void dispatch(const shmemi_moen_dispatch &a, const job_of_ranks::how &h, Staged staged) const
    {
        const shmemi_moen_levels &l = levels;
        if (l.nodes == 0)
            return dispatch(object, n, a, h);
        const shmemi_moen_way w = way();
        dispatch(l.between, l.nodes, shmemi_moen_dispatch_between(&l, &w, &a), h);
        staged();
        if (!h.cached) {
            std::memcpy(pointer<char>(w.choices), pointer<char>(l.stage.topk_idx), shmemi_moen_choices_bytes(&l));
            layout(l.within, shmemi_moen_layout_within(&l, &w), l.each);
        }
        dispatch(l.within, l.each, shmemi_moen_dispatch_within(&l, &w, &a), h);
    }
    void combine(const shmemi_moen &o, unsigned ranks, shmemi_moen_combine c, const job_of_ranks::back &b) const
    {
        const unsigned shared = shmemi_moen_shape_combine(&c, &o, ranks, b.room, b.warps, b.blocks);
        launch(b.blocks, b.warps * shmem::arch::warp_width, shared,
               [&] { normal::combine(o, c, shmem::host::shared()); });
    }
    void combine(const shmemi_moen_combine &a, const job_of_ranks::back &b) const
    {
        const shmemi_moen_levels &l = levels;
        if (l.nodes == 0)
            return combine(object, n, a, b);
        const shmemi_moen_way w = way();
        combine(l.within, l.each, shmemi_moen_combine_within(&l, &w, &a), b);
        combine(l.between, l.nodes, shmemi_moen_combine_between(&l, &w, &a), b);
    }
};

// Each PE meets the others only in the kernels.
class job_of_nodes : public job_of_ranks
{
  public:
    job_of_nodes(scene &job_, sizes s_, unsigned nodes_)
        : job_of_ranks(job_, 0, s_, nodes_), whole(nodes_ == 1 ? ranks[0].object : ranks[0].levels.between)
    {
        whole.team = 0;
        whole.most = (s.experts + n - 1) / n;
        whole.each = 1;
    }

    shmemi_moen whole; // of which only the layout's tables are asked
    bool late = false; // PEs come when they like

    rank_of_nodes launches(unsigned me)
    {
        rank_side &r = ranks[me];
        return {job.states[me], r.object, r.levels, n, routing_of(r), r.tokens};
    }
    template <class Steps> void each_pe(Steps steps)
    {
        std::vector<std::thread> pes;
        for (unsigned me = 0; me < n; ++me)
            pes.emplace_back([this, me, &steps] {
                if (late)
                    std::this_thread::sleep_for(std::chrono::milliseconds(me * 7 % 11));
                steps(me);
            });
        for (std::thread &pe : pes)
            pe.join();
    }
    shmemi_moen_layout ids_of(unsigned me, bool wide)
    {
        rank_side &r = ranks[me];
        shmemi_moen_layout a = {};
        a.idx = wide ? address(r.idx.data()) : address(r.idx32.data());
        a.wide = wide;
        a.tokens = r.tokens;
        return a;
    }

    void layout(bool wide)
    {
        each_pe([&](unsigned me) {
            rank_side &r = ranks[me];
            std::vector<int> per_rank(n, -9), per_expert(s.experts, -9);
            std::vector<unsigned char> in_rank(r.tokens * n, 7);
            shmemi_moen_layout tables = ids_of(me, wide);
            tables.per_rank = address(per_rank.data());
            tables.per_expert = address(per_expert.data());
            tables.in_rank = address(in_rank.data());
            launches(me).layout(whole, tables, n);
            CHECK(per_rank == r.per_rank && per_expert == r.per_expert, "counts of rank %u", me);
            bool same = true;
            for (std::size_t i = 0; i < r.pos.size(); ++i)
                same = same && in_rank[i] == (r.pos[i] >= 0);
            CHECK(same, "ranks of rank %u's tokens", me);
            launches(me).layout(ids_of(me, wide));
        });
    }
    void run_dispatch(const how &h, std::vector<shmemi_moen_dispatch> &args) override
    {
        each_pe([&](unsigned me) {
            if (me != h.absent)
                launches(me).dispatch(args[me], h, [&] { check_stage(me, h); });
        });
    }
    // One copy a node, from the PE of the same number in each.
    void check_stage(unsigned me, const how &h)
    {
        const shmemi_moen_levels &l = ranks[me].levels;
        if (h.absent < n)
            return;
        int rows = 0;
        for (unsigned node = 0; node < nodes; ++node) {
            const rank_side &from = ranks[node * l.each + me % l.each];
            int mine = 0;
            for (unsigned t = 0; t < from.tokens; ++t) {
                bool here = false;
                for (unsigned j = me / l.each * l.each; j < (me / l.each + 1) * l.each; ++j)
                    here = here || from.pos[t * n + j] >= 0;
                mine += here;
            }
            CHECK(pointer<int>(l.stage.per_source)[node] == mine, "rank %u: %d rows from node %u, not %d", me,
                  pointer<int>(l.stage.per_source)[node], node, mine);
            rows += mine;
        }
        CHECK(*pointer<int>(l.stage.rows) == rows, "rank %u stages %d rows, not %d", me,
              *pointer<int>(l.stage.rows), rows);
    }
    void run_combine(const back &b, std::vector<shmemi_moen_combine> &args) override
    {
        each_pe([&](unsigned me) { launches(me).combine(args[me], b); });
    }
};

#endif
