/* A profiling tool in the program itself: it defines two calls, sees the program's, and reaches the library's by their names
 * with a p. Linked with the shared library, as a user's program is. */
#include <pshmem.h>

#include "pes.h"

static int puts_seen, barriers_seen, level_seen = -1;

void shmem_long_put(long *dest, const long *source, size_t n, int pe)
{
    puts_seen++;
    pshmem_long_put(dest, source, n, pe);
}

void shmem_barrier_all(void)
{
    barriers_seen++;
    pshmem_barrier_all();
}

void shmem_pcontrol(int level, ...)
{
    level_seen = level;
    pshmem_pcontrol(level);
}

int main(void)
{
    pes_begin();
    long *row = pes_alloc(sizeof *row * (size_t)npes), value = 10 + me;
    for (int pe = 0; pe < npes; pe++)
        shmem_put(row + me, &value, 1, pe); /* the generic name too */
    shmem_pcontrol(2);
    shmem_barrier_all();
    for (int pe = 0; pe < npes; pe++)
        CHECK(row[pe] == 10 + pe, "from PE %d: %ld", pe, row[pe]);
    CHECK(puts_seen == npes && barriers_seen == 1 && level_seen == 2, "seen: %d puts, %d barriers, level %d",
          puts_seen, barriers_seen, level_seen);
    pshmem_barrier_all();
    CHECK(barriers_seen == 1, "the library's own name was counted");
    return pes_end();
}
