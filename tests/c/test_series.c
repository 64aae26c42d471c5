/* Collectives back to back in random order over several teams, PEs late at random: what one leaves in the
 * library's buffers must never reach the next. Each has a dest of its own, as the standard wants, and between
 * two barriers there is no other synchronization.
 *
 * pes: 1 2 3 4 8 16 */
#include "pes.h"

enum { BURST = 24, BURSTS = 40, MOST = 2500 /* int64s a member */ };
enum op { SYNC, BARRIER, BROADCAST, COLLECT, FCOLLECT, ALLTOALL, ALLTOALLS, SUM, MAX, XOR, OPS };

static int64_t *dests[BURST], *source;
static shmem_team_t teams[SOME_TEAMS];

static int64_t item(int who, size_t i, unsigned salt)
{
    return (int64_t)mix(who, i, salt) - 1000000;
}

static void step(unsigned salt, int64_t *dest)
{
    const int op = (int)common_random(OPS);
    shmem_team_t team = teams[common_random(SOME_TEAMS)];
    const size_t magnitude = (size_t)1 << common_random(12), drawn = common_random(magnitude);
    const size_t n = drawn < MOST ? drawn : MOST;
    const size_t root_drawn = common_random(1000);
    if (team == SHMEM_TEAM_INVALID)
        return;
    const int mine = shmem_team_my_pe(team), members = shmem_team_n_pes(team),
              root = (int)root_drawn % members;
    size_t wrong = 0, at = 0;
    int rc = 0;
    for (size_t i = 0; i < n * (op == ALLTOALL || op == ALLTOALLS ? (size_t)members : 1); i++)
        source[i] = item(mine, i, salt);
    dawdle();
    switch (op) {
    case SYNC:
        rc = shmem_team_sync(team);
        break;
    case BARRIER:
        rc = shmemx_barrier(team);
        break;
    case BROADCAST:
        rc = shmem_int64_broadcast(team, dest, source, n, root);
        for (size_t i = 0; i < n; i++)
            wrong += dest[i] != item(root, i, salt);
        break;
    case COLLECT:
        rc = shmem_int64_collect(team, dest, source, n ? (n + (size_t)mine) % n : 0);
        for (int j = 0; j < members; j++)
            for (size_t i = 0; i < (n ? (n + (size_t)j) % n : 0); i++)
                wrong += dest[at++] != item(j, i, salt);
        break;
    case FCOLLECT:
        rc = shmem_int64_fcollect(team, dest, source, n);
        for (int j = 0; j < members; j++)
            for (size_t i = 0; i < n; i++)
                wrong += dest[at++] != item(j, i, salt);
        break;
    case ALLTOALL:
    case ALLTOALLS:
        rc = op == ALLTOALL ? shmem_int64_alltoall(team, dest, source, n)
                            : shmem_int64_alltoalls(team, dest, source, 1, 1, n);
        for (int j = 0; j < members; j++)
            for (size_t i = 0; i < n; i++)
                wrong += dest[at++] != item(j, (size_t)mine * n + i, salt);
        break;
    default:
        rc = op == SUM   ? shmem_int64_sum_reduce(team, dest, source, n)
             : op == MAX ? shmem_int64_max_reduce(team, dest, source, n)
                         : shmem_int64_xor_reduce(team, dest, source, n);
        for (size_t i = 0; i < n; i++) {
            int64_t want = item(0, i, salt);
            for (int j = 1; j < members; j++) {
                int64_t x = item(j, i, salt);
                want = op == SUM ? want + x : op == MAX ? (x > want ? x : want) : want ^ x;
            }
            wrong += dest[i] != want;
        }
    }
    memset(source, 0xab, 64); /* reusable on return: if it is still read, the next PE sees this */
    CHECK(rc == 0, "operation %d of burst step %u: %s", op, salt, shmemx_last_error());
    CHECK(wrong == 0, "operation %d over %d members, %zu elements, step %u: %zu are wrong", op, members, n,
          salt, wrong);
}

int main(void)
{
    pes_begin();
    size_t room = sizeof *source * MOST * (size_t)npes;
    source = pes_alloc(room);
    for (int i = 0; i < BURST; i++)
        dests[i] = pes_alloc(room);
    pes_teams(teams);
    unsigned salt = 0;
    for (int burst = 0; burst < BURSTS; burst++) {
        for (int i = 0; i < BURST; i++)
            step(++salt, dests[i]);
        shmem_barrier_all();
    }
    pes_teams_destroy(teams);
    return pes_end();
}
