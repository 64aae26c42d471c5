/* Teams over several nodes: who stands for whom, and the mirrors of notes.
 *
 * A PE with number i on its node is served on another node of m PEs by the one with number i modulo m: that one's memory
 * holds the mirror of its notes for all PEs there. So a note crosses to each node once, and the PEs of a node share the
 * receiving evenly. */
#include <stdlib.h>
#include <string.h>

#include "team.h"

/* On `node`, not that of `pe`: the number of the PE that holds the mirror of pe's notes, and which of its mirrors it is. */
static void mirror_of(int pe, int node, int *holder, int *which)
{
    const struct shmemi_node *n = &shmemi_node;
    *holder = n->index_of[pe] % n->node_npes[node];
    *which = 0;
    for (int other = 0; other < pe; ++other)
        *which += n->node_of[other] != node && n->index_of[other] % n->node_npes[node] == *holder;
}

int shmemi_mirrors(void)
{
    const struct shmemi_node *n = &shmemi_node;
    int most = 0;
    for (int node = 0; node < n->nodes; ++node) {
        int held = 0; /* by the first PE of the node, which has the most */
        for (int other = 0; other < n->nodes; ++other)
            held += other == node ? 0 : (n->node_npes[other] + n->node_npes[node] - 1) / n->node_npes[node];
        most = held > most ? held : most;
    }
    return most;
}

static uint64_t notes_offset(int mirror, int slot)
{
    return (uint64_t)mirror * SHMEMI_NOTES_BYTES + (uint64_t)slot * SHMEMI_NOTES * SHMEMI_NOTE_BYTES;
}

/* Sorts the members by nodes. */
static void sort_members(struct shmemi_team *t)
{
    int *place = t->rank + t->n; /* [nodes of the job] place in t->nodes, -1 = no members */
    for (int i = 0; i < shmemi_node.nodes; ++i)
        place[i] = -1;
    for (int i = 0; i < t->n; ++i) {
        int *at = &place[shmemi_node.node_of[t->pes[i]]];
        if (*at < 0)
            *at = t->nnodes++;
        t->node[i] = *at;
        t->rank[i] = t->nodes[*at].n++;
    }
    int *members = place + shmemi_node.nodes; /* [n] all nodes' members */
    for (int i = 0; i < t->nnodes; ++i) {
        t->nodes[i].members = members;
        members += t->nodes[i].n;
    }
    for (int i = 0; i < t->n; ++i)
        t->nodes[t->node[i]].members[t->rank[i]] = i;
    t->home = t->node[t->me];
}

int shmemi_team_place(const char *call, struct shmemi_team *t, int slot)
{
    const struct shmemi_node *job = &shmemi_node;
    t->nnodes = 0;
    t->nodes = calloc((size_t)job->nodes, sizeof *t->nodes);
    t->node = calloc((size_t)t->n, sizeof *t->node);
    t->rank =
        calloc((size_t)t->n * 2 + (size_t)job->nodes, sizeof *t->rank); /* and what sort_members keeps */
    t->notes = malloc(sizeof *t->notes * (size_t)t->n);
    if (!t->nodes || !t->node || !t->rank || !t->notes) {
        shmemi_team_unplace(t);
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for a team of %d PEs", t->n);
    }
    sort_members(t);
    int holder, which;
    for (int i = 0; i < t->n; ++i) {
        int pe = t->pes[i];
        struct shmemi_place p = {SHMEMI_SEGMENT_HOST, notes_offset(0, slot)};
        if (t->node[i] != t->home) {
            mirror_of(pe, job->my_node, &holder, &which);
            pe = shmemi_node_pe(job->my_node, holder);
            p.offset = notes_offset(1 + which, slot);
        }
        t->notes[i] = shmemi_map(pe, p);
    }
    for (int i = 0; i < t->nnodes; ++i) {
        int there = job->node_of[t->pes[t->nodes[i].members[0]]];
        if (i == t->home)
            continue;
        mirror_of(job->me, there, &holder, &which);
        t->nodes[i].pe = shmemi_node_pe(there, holder);
        t->nodes[i].offset = notes_offset(1 + which, slot);
    }
    return SHMEMX_SUCCESS;
}

void shmemi_team_unplace(struct shmemi_team *t)
{
    free(t->nodes);
    free(t->node);
    free(t->rank);
    free(t->notes);
    t->nodes = NULL;
    t->node = t->rank = NULL;
    t->notes = NULL;
}

int shmemi_mirror(const struct shmemi_team *t, size_t n)
{
    const struct shmemi_note *note = shmemi_note_of(t, t->me, t->epoch);
    uint64_t at = t->epoch % SHMEMI_NOTES * SHMEMI_NOTE_BYTES;
    int rc = SHMEMX_SUCCESS;
    for (int i = 0; i < t->nnodes && rc == 0; ++i) {
        if (i == t->home)
            continue;
        const struct shmemi_team_node *to = &t->nodes[i];
        /* nbi: the note stays as it is until all members have finished this epoch */
        rc = shmemi_world.route[to->pe]->put_signal(
            to->pe, SHMEMI_SEGMENT_HOST, to->offset + at + offsetof(struct shmemi_note, tag), &note->tag,
            sizeof note->tag + n, SHMEMI_SEGMENT_HOST, to->offset + at + offsetof(struct shmemi_note, epoch),
            t->epoch, SHMEM_SIGNAL_SET, SHMEMI_NBI);
    }
    return rc;
}
