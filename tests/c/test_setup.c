/* init and finalize: counted, repeated, with every thread level; what the library says about itself. */
#include <dirent.h>

#include "pes.h"

static int initialized(void)
{
    int is = -1;
    shmem_query_initialized(&is);
    return is;
}

static void test_before(void)
{
    char text[8192];
    size_t n = shmemx_info(text, sizeof text);
    CHECK(n > 0 && n < sizeof text && strlen(text) == n, "info before init: %zu bytes, said %zu",
          strlen(text), n);
    CHECK(initialized() == 0, "initialized before init: %d", initialized());
    CHECK(strcmp(shmemx_bootstrap_name(), "") == 0, "bootstrap before init: %s", shmemx_bootstrap_name());
    char small[5] = "abcd";
    CHECK(shmemx_info(small, 3) == n && strlen(small) == 2 && small[4] == 0, "cut to 2 characters: %s",
          small);
    CHECK(shmemx_info(NULL, 0) == n, "the length alone");
}

/* The job works: everybody hears from everybody. */
static void use(const char *when)
{
    long *row = shmem_calloc((size_t)npes, sizeof *row);
    CHECK(row != NULL, "%s: %s", when, shmemx_last_error());
    if (row == NULL)
        return;
    for (int pe = 0; pe < npes; pe++)
        shmem_long_p(row + me, 10 + me, pe);
    shmem_barrier_all();
    for (int pe = 0; pe < npes; pe++)
        CHECK(row[pe] == 10 + pe, "%s: PE %d wrote %ld", when, pe, row[pe]);
    shmem_barrier_all();
    /* not freed: finalize takes it, and the next init starts with an empty heap */
}

static void test_queries(void)
{
    const char *rank = getenv("RANK"), *size = getenv("WORLD_SIZE");
    if (rank && size) {
        CHECK(atoi(rank) == me, "PE %d, started as %s", me, rank);
        CHECK(atoi(size) == npes, "%d PEs, started as %s", npes, size);
        CHECK(shmemx_bootstrap_name()[0] != 0, "no bootstrap's name");
    }
    for (int pe = 0; pe < npes; pe++)
        CHECK(shmem_pe_accessible(pe) == 1, "PE %d", pe);
    CHECK(shmem_pe_accessible(npes) == 0 && shmem_pe_accessible(-1) == 0, "a PE that is not there");
    int major = -1, minor = -1;
    shmem_info_get_version(&major, &minor);
    CHECK(major == SHMEM_MAJOR_VERSION && minor == SHMEM_MINOR_VERSION, "version %d.%d", major, minor);
    CHECK(major == _SHMEM_MAJOR_VERSION && minor == _SHMEM_MINOR_VERSION, "version %d.%d", major, minor);
    char name[SHMEM_MAX_NAME_LEN];
    memset(name, 'x', sizeof name);
    shmem_info_get_name(name);
    CHECK(memchr(name, 0, sizeof name) && strstr(name, SHMEM_VENDOR_STRING) == name, "name %.40s", name);
    char text[8192];
    size_t n = shmemx_info(text, sizeof text);
    CHECK(n < sizeof text && strstr(text, "libshmem"), "info: %s", text);
    CHECK(strstr(text, "SHMEM_SYMMETRIC_SIZE") != NULL, "the variables are not in: %s", text);
    shmem_pcontrol(1);
    shmem_pcontrol(0, 5, "more");
}

static void test_levels(void)
{
    for (int level = SHMEM_THREAD_SINGLE; level <= SHMEM_THREAD_MULTIPLE; level++) {
        int provided = -1, queried = -1;
        CHECK(shmem_init_thread(level, &provided) == 0, "level %d: %s", level, shmemx_last_error());
        shmem_query_thread(&queried);
        CHECK(provided == SHMEM_THREAD_MULTIPLE && queried == provided, "level %d: provided %d, queried %d",
              level, provided, queried);
        use("a thread level");
        shmem_finalize();
    }
}

static void test_nesting(void)
{
    shmem_init();
    int provided = -1;
    CHECK(shmem_init_thread(SHMEM_THREAD_MULTIPLE, &provided) == 0, "a second init: %s", shmemx_last_error());
    CHECK(provided == SHMEM_THREAD_MULTIPLE, "a second init provides %d", provided);
    CHECK(shmemx_init() == 0, "a third init: %s", shmemx_last_error());
    use("three inits");
    shmem_finalize();
    CHECK(initialized() == 1, "finalized once of three times");
    use("two inits");
    CHECK(shmemx_finalize() == 0, "%s", shmemx_last_error());
    CHECK(initialized() == 1, "finalized twice of three times");
    use("one init");
    shmem_finalize();
    CHECK(initialized() == 0, "finalized three times of three");
}

static int open_files(void)
{
    int n = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (folder && readdir(folder))
        n++;
    if (folder)
        closedir(folder);
    return n;
}

/* Mappings of the library's shared memory. */
static int mappings(void)
{
    int n = 0;
    char line[4352];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        n += strstr(line, "memfd:") != NULL;
    if (maps)
        fclose(maps);
    return n;
}

static void test_again(void)
{
    for (int i = 0; i < 5; i++) {
        CHECK(shmemx_init() == 0, "time %d: %s", i, shmemx_last_error());
        CHECK(shmem_my_pe() == me && shmem_n_pes() == npes, "time %d: PE %d of %d", i, shmem_my_pe(),
              shmem_n_pes());
        size_t total = 0, used = 0, largest = 0;
        CHECK(shmemx_heap_info(SHMEMX_MEM_HOST, &total, &used, &largest) == 0, "%s", shmemx_last_error());
        CHECK(used == 0, "time %d: %zu bytes are in use already", i, used);
        if (i % 2)
            dawdle();
        use("again");
        CHECK(shmemx_finalize() == 0, "time %d: %s", i, shmemx_last_error());
    }
}

/* What init took, finalize gave back; `files` was counted before the first init. Connections of the bootstrap
 * may close a little later. */
static void test_nothing_kept(int files)
{
    for (const double until = seconds() + 5; open_files() > files && seconds() < until;)
        doze(10000);
    CHECK(open_files() <= files, "%d open files after the last finalize, %d before init", open_files(),
          files);
    CHECK(mappings() == 0, "%d mappings of shared memory after the last finalize", mappings());
}

static void test_errors(void)
{
    int value, codes = 0;
    const char *name, *base;
    for (; shmemx_error_info(codes, &value, &name, &base) == 0; codes++) {
        CHECK(strcmp(shmemx_error_name(value), name) == 0, "row %d is %s, its name %s", codes, name,
              shmemx_error_name(value));
        CHECK(shmemx_strerror(value)[0] != 0, "no text for %s", name);
    }
    CHECK(codes >= 16, "%d errors", codes);
    CHECK(shmemx_error_info(-1, &value, &name, &base) == SHMEMX_ERR_ARGUMENT, "row -1");
    CHECK(strcmp(shmemx_strerror(SHMEMX_ERR_PE), shmemx_strerror(SHMEMX_ERR_TEAM)) != 0,
          "two errors, one text");
    CHECK(strstr(shmemx_strerror(12345), "unknown") && strstr(shmemx_strerror(-12345), "unknown"), "%s",
          shmemx_strerror(12345));
}

int main(void)
{
    shmemx_info(NULL, 0); /* looks for a GPU driver, which keeps descriptors of its own once asked */
    const int files = open_files();
    test_before();
    test_errors();
    CHECK(shmemx_init() == 0, "%s", shmemx_last_error());
    me = check_pe = shmem_my_pe();
    npes = shmem_n_pes();
    own_state = (uint64_t)me;
    CHECK(initialized() == 1, "not initialized after init");
    CHECK(npes >= 1 && me >= 0 && me < npes, "PE %d of %d", me, npes);
    use("the first time");
    test_queries();
    shmem_finalize();
    CHECK(initialized() == 0, "initialized after finalize");
    test_levels();
    test_nesting();
    test_again();
    test_nothing_kept(files);
    return check_done();
}
