/* Collectives that move data: every type, team and root; no element, one, odd numbers and a megabyte.
 *
 * pes: 1 2 3 4 8 16 */
#include "pes.h"

enum { MEGABYTE = 1 << 20, SLACK = 3, TYPED_MOST = 130 };

enum form { BROADCAST, COLLECT, FCOLLECT, ALLTOALL, ALLTOALLS, FORMS };
static const char *const form_names[] = {"broadcast", "collect", "fcollect", "alltoall", "alltoalls"};

struct kind {
    const char *name;
    size_t size;
    void (*make)(void *p, unsigned x);
    bool (*is)(const void *p, unsigned x);
    int (*call)(int form, shmem_team_t team, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst,
                size_t n, int root);
};

#define DEFINE(NAME, T, CORE)                                                                                \
    static void make_##NAME(void *p, unsigned x)                                                             \
    {                                                                                                        \
        *(T *)p = VALUE(T, x);                                                                               \
    }                                                                                                        \
    static bool is_##NAME(const void *p, unsigned x)                                                         \
    {                                                                                                        \
        return *(const T *)p == VALUE(T, x);                                                                 \
    }                                                                                                        \
    static int call_##NAME(int form, shmem_team_t team, void *dest, const void *source, ptrdiff_t dst,       \
                           ptrdiff_t sst, size_t n, int root)                                                \
    {                                                                                                        \
        return form == BROADCAST  ? shmem_##NAME##_broadcast(team, dest, source, n, root)                    \
               : form == COLLECT  ? shmem_##NAME##_collect(team, dest, source, n)                            \
               : form == FCOLLECT ? shmem_##NAME##_fcollect(team, dest, source, n)                           \
               : form == ALLTOALL ? shmem_##NAME##_alltoall(team, dest, source, n)                           \
                                  : shmem_##NAME##_alltoalls(team, dest, source, dst, sst, n);               \
    }
SHMEM_TYPES_RMA(DEFINE)

static int call_mem(int form, shmem_team_t team, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst,
                    size_t n, int root)
{
    return form == BROADCAST  ? shmem_broadcastmem(team, dest, source, n, root)
           : form == COLLECT  ? shmem_collectmem(team, dest, source, n)
           : form == FCOLLECT ? shmem_fcollectmem(team, dest, source, n)
           : form == ALLTOALL ? shmem_alltoallmem(team, dest, source, n)
                              : shmem_alltoallsmem(team, dest, source, dst, sst, n);
}

static const struct kind bytes = {"mem", 1, make_uchar, is_uchar, call_mem};
static const struct kind kinds[] = {
#define ROW(NAME, T, CORE) {#NAME, sizeof(T), make_##NAME, is_##NAME, call_##NAME},
    SHMEM_TYPES_RMA(ROW)};
enum { KINDS = sizeof kinds / sizeof *kinds };

static unsigned char *dest, *source;
static unsigned salt;
static const unsigned untouched = 77;

/* How many elements member `who` gives to a collect. */
static size_t share(int who, size_t n)
{
    return n == 0 ? 0 : who % 3 == 1 ? 0 : n - (size_t)who % n;
}

static void blank(const struct kind *k, size_t n)
{
    for (size_t i = 0; i < n + SLACK; i++)
        k->make(dest + i * k->size, untouched);
}

static bool dest_is(const struct kind *k, size_t at, int who, size_t i)
{
    return k->is(dest + at * k->size, mix(who, i, salt));
}

/* One collective and its check, by all members of the team. */
static void run(const struct kind *k, int form, shmem_team_t team, size_t n, int root, size_t dst, size_t sst)
{
    const int mine = shmem_team_my_pe(team), members = shmem_team_n_pes(team);
    const size_t given = form == COLLECT ? share(mine, n) : n;
    size_t out = n, in = given; /* elements of dest and source in all */
    if (form == ALLTOALL)
        out = in = n * (size_t)members;
    else if (form == ALLTOALLS)
        out = n * (size_t)members * dst, in = n * (size_t)members * sst;
    else if (form == FCOLLECT)
        out = n * (size_t)members;
    else if (form == COLLECT)
        for (int j = out = 0; j < members; j++)
            out += share(j, n);
    salt++;
    for (size_t i = 0; i < in; i++)
        k->make(source + i * k->size, mix(mine, i, salt));
    blank(k, out);
    shmem_team_sync(team);
    int rc = k->call(form, team, dest, source, (ptrdiff_t)dst, (ptrdiff_t)sst, given, root);
    CHECK(rc == 0, "%s %s: %s", k->name, form_names[form], shmemx_last_error());
    for (size_t i = 0; i < in; i++)
        k->make(source + i * k->size, untouched); /* reusable */
    size_t wrong = 0, first = SIZE_MAX, at = 0;
#define EXPECT(place, who, i)                                                                                \
    do {                                                                                                     \
        if (!dest_is(k, place, who, i) && wrong++ == 0)                                                      \
            first = place;                                                                                   \
    } while (0)
    for (int j = 0; j < members; j++) {
        if (form == BROADCAST && j == root)
            for (size_t i = 0; i < n; i++)
                EXPECT(i, root, i);
        else if (form == COLLECT || form == FCOLLECT)
            for (size_t i = 0; i < (form == COLLECT ? share(j, n) : n); i++, at++)
                EXPECT(at, j, i);
        else if (form == ALLTOALL)
            for (size_t i = 0; i < n; i++)
                EXPECT((size_t)j * n + i, j, (size_t)mine * n + i);
        else if (form == ALLTOALLS)
            for (size_t i = 0; i < n; i++)
                EXPECT(((size_t)j * n + i) * dst, j, ((size_t)mine * n + i) * sst);
    }
    for (size_t i = 0; form == ALLTOALLS && i < out; i++)
        if (i % dst != 0 && !k->is(dest + i * k->size, untouched) && wrong++ == 0)
            first = i;
    for (size_t i = out; i < out + SLACK; i++)
        if (!k->is(dest + i * k->size, untouched) && wrong++ == 0)
            first = i;
    CHECK(wrong == 0,
          "%s %s of %zu elements, root %d, strides %zu and %zu, member %d of %d: %zu wrong, first %zu of "
          "%zu",
          k->name, form_names[form], n, root, dst, sst, mine, members, wrong, first, out);
    shmem_team_sync(team);
}

static void test_types(void)
{
    static const size_t counts[] = {0, 1, 5, TYPED_MOST - 1};
    for (size_t k = 0; k < KINDS; k++)
        for (int form = 0; form < FORMS; form++)
            for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
                run(&kinds[k], form, SHMEM_TEAM_WORLD, counts[i], (int)(k + i) % npes, 1 + i % 2, 1 + k % 3);
}

static void test_team(shmem_team_t team)
{
    static const size_t counts[] = {0, 1, 2, 7, 8, 63, 64, 65, 1000, 4087, 4088, 4089, 30001};
    if (team == SHMEM_TEAM_INVALID)
        return;
    for (int form = 0; form < FORMS; form++)
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            if (form == ALLTOALLS && counts[i] > 4089)
                continue;
            run(&bytes, form, team, counts[i], (int)i % shmem_team_n_pes(team), 2, 3);
        }
    for (int root = 0; root < shmem_team_n_pes(team); root++)
        for (size_t i = 0; i < 5; i++) {
            static const size_t sizes[] = {1, 16, 4096, 5000, 100003};
            run(&bytes, BROADCAST, team, sizes[i], root, 1, 1);
        }
    for (size_t dst = 1; dst <= 4; dst++)
        for (size_t sst = 1; sst <= 4; sst++)
            run(&kinds[10], ALLTOALLS, team, 9, 0, dst, sst);
}

/* A megabyte a member. */
static void test_megabyte(shmem_team_t team)
{
    if (team == SHMEM_TEAM_INVALID)
        return;
    const int mine = shmem_team_my_pe(team), n = shmem_team_n_pes(team);
    const size_t words = MEGABYTE / 8, block = words / (size_t)n;
    uint64_t *to = (uint64_t *)dest, *from = (uint64_t *)source;
    for (int form = BROADCAST; form <= ALLTOALL; form++) {
        salt++;
        for (size_t i = 0; i < words; i++)
            from[i] = (uint64_t)salt << 48 | (uint64_t)mine << 40 | i;
        memset(to, 0, MEGABYTE);
        shmem_team_sync(team);
        size_t each = form == ALLTOALL ? block : words, wrong = 0;
        int root = n - 1, rc = call_mem(form, team, to, from, 1, 1, each * 8, root);
        CHECK(rc == 0, "%s: %s", form_names[form], shmemx_last_error());
        for (int j = 0; j < (form == BROADCAST ? 1 : n); j++)
            for (size_t i = 0; i < each; i++) {
                int who = form == BROADCAST ? root : j;
                uint64_t want = (uint64_t)salt << 48 | (uint64_t)who << 40 |
                                (form == ALLTOALL ? (size_t)mine * each + i : i);
                wrong += to[(size_t)j * each + i] != want;
            }
        CHECK(wrong == 0, "%s of a megabyte: %zu words are wrong", form_names[form], wrong);
        shmem_team_sync(team);
    }
}

/* dest == source: the root's data stays, the others' is replaced. */
static void test_in_place(void)
{
    static const size_t counts[] = {1, 100, 50000};
    for (size_t c = 0; c < 3; c++)
        for (int root = 0; root < npes; root++) {
            salt++;
            for (size_t i = 0; i < counts[c]; i++)
                dest[i] = (unsigned char)mix(me, i, salt);
            shmem_barrier_all();
            CHECK(shmem_broadcastmem(SHMEM_TEAM_WORLD, dest, dest, counts[c], root) == 0, "%s",
                  shmemx_last_error());
            size_t wrong = 0;
            for (size_t i = 0; i < counts[c]; i++)
                wrong += dest[i] != (unsigned char)mix(root, i, salt);
            CHECK(wrong == 0, "%zu of %zu bytes of a broadcast in place from %d", wrong, counts[c], root);
            shmem_barrier_all();
        }
}

int main(void)
{
    pes_begin();
    size_t room = (size_t)npes * MEGABYTE + 64;
    dest = pes_alloc(room);
    source = pes_alloc(room);
    shmem_team_t teams[SOME_TEAMS];
    pes_teams(teams);
    test_types();
    for (int i = 0; i < SOME_TEAMS; i++) {
        salt = 10000u * (unsigned)(i + 1); /* the same again on all PEs, in how many teams they were or not */
        test_team(teams[i]);
        shmem_barrier_all();
    }
    salt = 1;
    test_megabyte(SHMEM_TEAM_WORLD);
    test_megabyte(teams[2]);
    shmem_barrier_all();
    test_megabyte(teams[3]);
    salt = 100;
    shmem_barrier_all();
    test_in_place();
    pes_teams_destroy(teams);
    return pes_end();
}
