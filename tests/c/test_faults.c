/* Jobs that go wrong: a PE that never comes, dies, leaves or ends the job. The others must end soon, with a
 * message that says who is missing and on what, and nothing may be left behind.
 *
 * pes: 1
 *
 * Without an argument this program is the driver: it starts jobs of itself with ./launch, one for each row of
 * `cases`. With an argument it is a PE of such a job and does what the argument names. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "pes.h"

enum { MISSING = 1 }; /* the PE that makes the trouble */

/* ---- the PEs ------------------------------------------------------------------------------------------- */

static long *words; /* 64 symmetric words */

static void wait_in(const char *call)
{
    long value = 1;
    if (strcmp(call, "barrier") == 0)
        shmem_barrier_all();
    else if (strcmp(call, "sync") == 0)
        shmem_sync_all();
    else if (strcmp(call, "broadcast") == 0)
        shmem_long_broadcast(SHMEM_TEAM_WORLD, words, words + 8, 1, MISSING);
    else if (strcmp(call, "reduce") == 0)
        shmem_long_sum_reduce(SHMEM_TEAM_WORLD, words, words + 8, 1);
    else if (strcmp(call, "reduce_nb") == 0) {
        shmemx_request_t r;
        shmemx_long_sum_reduce_nb(SHMEM_TEAM_WORLD, words, words + 8, 1, &r);
        int rc = shmemx_request_wait(&r);
        CHECK(rc == SHMEMX_ERR_TIMEOUT || rc == SHMEMX_ERR_PEER_DEAD, "wait gave %d", rc);
        /* what is started after it fails at once, and so ends an end of the job that the others do not join */
        shmemx_sync_nb(SHMEM_TEAM_WORLD, &r);
        CHECK(shmemx_request_wait(&r) == rc && strstr(shmemx_last_error(), "no longer in step"), "%s",
              shmemx_last_error());
        shmemx_sync_nb(SHMEM_TEAM_WORLD, &r);
        int end =
            rc == SHMEMX_ERR_PEER_DEAD ? shmemx_finalize() : rc; /* else there is an absent one to end */
        CHECK(end == rc, "finalize gave %d", end);
        fprintf(stderr, "%s", check_done() ? "" : "codes are right\n");
        if (rc == SHMEMX_ERR_PEER_DEAD)
            _exit(1);
    } else if (strcmp(call, "fcollect") == 0)
        shmem_long_fcollect(SHMEM_TEAM_WORLD, words, words + 32, 1);
    else if (strcmp(call, "alltoall") == 0)
        shmem_long_alltoall(SHMEM_TEAM_WORLD, words, words + 32, 1);
    else if (strcmp(call, "wait_until") == 0)
        shmem_long_wait_until(words, SHMEM_CMP_EQ, 5);
    else if (strcmp(call, "wait_until_any") == 0)
        shmem_long_wait_until_any(words, 4, NULL, SHMEM_CMP_EQ, 5);
    else if (strcmp(call, "signal_wait_until") == 0)
        shmem_signal_wait_until((uint64_t *)words, SHMEM_CMP_NE, 0);
    else if (strcmp(call, "lock") == 0)
        shmem_set_lock(words + 1); /* held by MISSING */
    else if (strcmp(call, "malloc") == 0)
        shmem_free(shmem_malloc(8));
    else if (strcmp(call, "split") == 0)
        shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, npes, NULL, 0, (shmem_team_t[]){0});
    else if (strcmp(call, "finalize") == 0)
        shmem_finalize();
    else if (strcmp(call, "get") == 0) /* no wait at all: works on a dead PE's memory, then meets it */
        shmem_long_get(&value, words, 1, MISSING), shmem_barrier_all();
    else if (strcmp(call, "compute") == 0)
        for (;;)
            pause();
    /* the calls that return an error code come back: end as a program does that looks at it */
    fprintf(stderr, "came back: %s\n", shmemx_last_error());
    shmem_global_exit(1);
}

static void disappear(const char *how)
{
    if (strcmp(how, "absent") == 0)
        for (;;)
            pause();
    doze(100000); /* let the others wait first */
    if (strcmp(how, "killed") == 0)
        raise(SIGKILL);
    else if (strcmp(how, "crashed") == 0)
        raise(SIGSEGV);
    else if (strcmp(how, "exit") == 0)
        exit(0);
    else if (strcmp(how, "_exit") == 0)
        _exit(0);
    else if (strcmp(how, "global_exit") == 0)
        shmem_global_exit(7);
}

static void say_heap(void)
{
    size_t total = 0, used = 0, largest = 0;
    shmemx_heap_info(SHMEMX_MEM_HOST, &total, &used, &largest);
    if (me == 0)
        fprintf(stderr, "heap %zu.\n", total);
    char *p = shmem_malloc(largest);
    p[0] = p[largest - 1] = 1; /* it is really there */
    shmem_free(p);
}

/* The calls that return a code give the error to the program, and the program decides. */
static void codes(void)
{
    if (me == MISSING)
        shmem_set_lock(words + 1);
    shmem_barrier_all();
    if (me == MISSING)
        for (;;)
            pause();
    size_t result;
    long want = 5;
    const int rows[] = {
        shmemx_wait_until(SHMEMX_INT64, SHMEMX_ALL, words, 1, NULL, NULL, SHMEM_CMP_EQ, &want, 0, &result),
        shmemx_set_lock(words + 1), shmemx_barrier(SHMEM_TEAM_WORLD)};
    for (size_t i = 0; i < 3; i++)
        CHECK(rows[i] == SHMEMX_ERR_TIMEOUT, "row %zu gave %d (%s)", i, rows[i], shmemx_last_error());
    CHECK(strstr(shmemx_last_error(), "PE 1") != NULL, "%s", shmemx_last_error());
    fprintf(stderr, "%s", check_done() ? "" : "codes are right\n");
    if (me == 0)
        doze(500000); /* PE 2's turn to say it */
    shmem_global_exit(0);
}

/* A forked child is no PE: whatever it does, the job goes on. */
static void fork_child(void)
{
    pid_t child = fork();
    if (child == 0) {
        shmem_finalize();
#ifdef __SANITIZE_ADDRESS__
        _exit(0); /* the search for leaks in a fork of a program with threads may not end */
#endif
        exit(0);
    }
    int how;
    waitpid(child, &how, 0);
    shmem_barrier_all();
    child = fork();
    if (child == 0)
        raise(SIGKILL);
    waitpid(child, &how, 0);
    shmem_barrier_all();
    shmem_finalize();
}

static int pe_main(const char *how, const char *call)
{
    shmem_init();
    me = check_pe = shmem_my_pe();
    npes = shmem_n_pes();
    words = pes_alloc(64 * sizeof *words);
    fprintf(stderr, "pid %d\n", (int)getpid());
    if (strcmp(how, "heap") == 0) {
        say_heap();
    } else if (strcmp(how, "codes") == 0) {
        codes();
    } else if (strcmp(how, "fork") == 0) {
        fork_child();
        return 0;
    } else if (strcmp(how, "all") == 0) {
        shmem_barrier_all();
        disappear(call);
    } else if (strcmp(how, "fine") != 0) {
        if (me == MISSING)
            shmem_set_lock(words + 1);
        shmemx_request_t
            r; /* the first of a team waits for all members at once, later ones for each by its number */
        if (strcmp(call, "reduce_nb") == 0 && shmemx_sync_nb(SHMEM_TEAM_WORLD, &r) == 0)
            shmemx_request_wait(&r);
        shmem_barrier_all();
        if (me == MISSING) {
            disappear(how);
            return 0; /* "return": without finalize */
        }
        wait_in(call);
    }
    shmem_finalize();
    return 0;
}

/* A status: any but 0 and the launcher's own (124: it had to kill them, 125, 126). Of a PE that dies and one
 * that sees it die, the launcher may learn in any order. */
enum { FAILS = -1 };

/* ---- the driver ---------------------------------------------------------------------------------------- */

struct result {
    int status;
    double seconds;
    char text[1 << 16];
};

static char launch_path[PATH_MAX], self_path[PATH_MAX];

/* Names that our jobs might leave: what holds "shmem" in /dev/shm and /tmp, and Unix sockets likewise. No job here uses the
 * software NIC: its sockets are those of tests that run beside this one. */
struct names {
    size_t n;
    char name[64][128];
};

static void add_name(struct names *all, const char *name)
{
    if (strstr(name, "shmem") && !strstr(name, "libshmem_sim") && all->n < 64)
        snprintf(all->name[all->n++], sizeof all->name[0], "%.127s", name);
}

static void collect_names(struct names *all)
{
    static const char *const folders[] = {"/dev/shm", "/tmp", "/var/tmp"};
    all->n = 0;
    for (size_t i = 0; i < 3; i++) {
        DIR *folder = opendir(folders[i]);
        for (struct dirent *e; folder && (e = readdir(folder));)
            add_name(all, e->d_name);
        if (folder)
            closedir(folder);
    }
    FILE *sockets = fopen("/proc/net/unix", "r");
    char line[512];
    while (sockets && fgets(line, sizeof line, sockets)) {
        line[strcspn(line, "\n")] = 0;
        char *path = strrchr(line, ' ');
        if (path)
            add_name(all, path + 1);
    }
    if (sockets)
        fclose(sockets);
}

static bool has_name(const struct names *all, const char *name)
{
    for (size_t i = 0; i < all->n; i++)
        if (strcmp(all->name[i], name) == 0)
            return true;
    return false;
}

/* What is there now and was not before must go by itself: other jobs' names do, leavings do not. */
static void check_nothing_left(const char *what, const struct names *before)
{
    struct names first, now;
    collect_names(&first);
    const double until = seconds() + 5;
    for (;;) {
        const char *left = NULL;
        collect_names(&now);
        for (size_t i = 0; i < first.n; i++)
            if (!has_name(before, first.name[i]) && has_name(&now, first.name[i]))
                left = first.name[i];
        if (left == NULL || seconds() > until) {
            CHECK(left == NULL, "%s: left behind: %s", what, left);
            return;
        }
        doze(50000);
    }
}

/* Every process of the job said "pid N": it is gone, not even a zombie of ours. */
static void check_no_process(const char *what, const char *text, double patience)
{
    const double until = seconds() + patience;
    for (const char *at = text; (at = strstr(at, "pid ")) != NULL; at++) {
        int pid = atoi(at + 4);
        bool gone = false;
        while (!(gone = kill(pid, 0) != 0 && errno == ESRCH) && seconds() < until) {
            while (waitpid(-1, NULL, WNOHANG) > 0)
                ; /* orphans come to us (subreaper) */
            doze(10000);
        }
        CHECK(gone, "%s: process %d is still there", what, pid);
        if (!gone)
            kill(pid, SIGKILL);
    }
}

/* Starts argv, its output into a pipe; returns the read end. */
static int spawn(char *const argv[], pid_t *pid)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0 || (*pid = fork()) < 0) {
        perror("spawn");
        exit(1);
    }
    if (*pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        execv(argv[0], argv);
        _exit(126);
    }
    close(ends[1]);
    return ends[0];
}

/* Reads until every process of the job has closed its end, or the text has `until` (if any) `times` times. */
static void read_output(int fd, struct result *r, size_t *n, const char *until, int times, double limit)
{
    const double deadline = seconds() + limit;
    while (*n < sizeof r->text - 1 && seconds() < deadline) {
        int found = 0;
        for (const char *at = r->text; until && (at = strstr(at, until)) != NULL; at++)
            found++;
        if (until && found >= times)
            return;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 100) <= 0)
            continue;
        ssize_t got = read(fd, r->text + *n, sizeof r->text - 1 - *n);
        if (got <= 0)
            return;
        *n += (size_t)got;
        r->text[*n] = 0;
    }
}

static void run_job(struct result *r, int n_pes, const char *how, const char *call)
{
    char number[16];
    snprintf(number, sizeof number, "%d", n_pes);
    /* -k: the launcher does not help, the PEs must find out themselves */
    char *argv[] = {launch_path, "-k", "-t", "30", "-n", number, self_path, (char *)how, (char *)call, NULL};
    const double start = seconds();
    memset(r, 0, sizeof *r);
    pid_t pid;
    size_t n = 0;
    int fd = spawn(argv, &pid), status;
    read_output(fd, r, &n, NULL, 0, 60);
    close(fd);
    waitpid(pid, &status, 0);
    r->status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    r->seconds = seconds() - start;
}

static void check_job(const char *what, const struct result *r, int status, double least, double most)
{
    bool right =
        status == FAILS ? r->status != 0 && (r->status < 124 || r->status > 126) : r->status == status;
    CHECK(right, "%s: status %d, not %d; output:\n%.600s", what, r->status, status, r->text);
    CHECK(r->seconds >= least && r->seconds <= most, "%s: took %.2f s, not %g to %g; output:\n%.600s", what,
          r->seconds, least, most, r->text);
}

static void check_text(const char *what, const struct result *r, const char *text)
{
    CHECK(strstr(r->text, text) != NULL, "%s: \"%s\" is not in the output:\n%.800s", what, text, r->text);
}

static const struct {
    const char *how, *call;
    int status;
    const char *texts[3]; /* all in the output */
} cases[] = {
    /* never arrives: the others end at the deadline, and the watcher ends the absent one */
    {"absent", "barrier", 1, {"PE 1", "SHMEM_TIMEOUT", "barrier"}},
    {"absent", "sync", 1, {"PE 1", "SHMEM_TIMEOUT", "sync"}},
    {"absent", "broadcast", 1, {"PE 1", "SHMEM_TIMEOUT", "broadcast"}},
    {"absent", "reduce", 1, {"PE 1", "SHMEM_TIMEOUT", "reduce"}},
    {"absent", "reduce_nb", 1, {"PE 1", "shmemx_reduce_nb: this PE waits for PE 1", "codes are right"}},
    {"absent", "fcollect", 1, {"PE 1", "SHMEM_TIMEOUT", "fcollect"}},
    {"absent", "alltoall", 1, {"PE 1", "SHMEM_TIMEOUT", "alltoall"}},
    {"absent", "wait_until", 1, {"SHMEM_TIMEOUT", "wait_until", "address 0x"}},
    {"absent", "wait_until_any", 1, {"SHMEM_TIMEOUT", "wait_until", "address 0x"}},
    {"absent", "signal_wait_until", 1, {"SHMEM_TIMEOUT", "signal_wait_until", "address 0x"}},
    {"absent", "lock", 1, {"SHMEM_TIMEOUT", "shmem_set_lock", "0x"}},
    {"absent", "malloc", 1, {"PE 1", "SHMEM_TIMEOUT", "malloc"}},
    {"absent", "split", 1, {"PE 1", "SHMEM_TIMEOUT", "split"}},
    {"absent", "finalize", 1, {"PE 1", "SHMEM_TIMEOUT", "finalize"}},
    /* dies: they end at once, without any deadline */
    {"killed", "barrier", FAILS, {"PE 1", "barrier", "ended without shmem_finalize"}},
    {"killed", "broadcast", FAILS, {"PE 1", "broadcast", "ended without shmem_finalize"}},
    {"killed", "reduce", FAILS, {"PE 1", "reduce", "ended without shmem_finalize"}},
    {"killed", "reduce_nb", FAILS, {"PE 1", "shmemx_reduce_nb: PE 1", "codes are right"}},
    {"killed", "wait_until", FAILS, {"PE 1", "wait_until", "ended without shmem_finalize"}},
    {"killed", "wait_until_any", FAILS, {"PE 1", "wait_until", "ended without shmem_finalize"}},
    {"killed", "signal_wait_until", FAILS, {"PE 1", "signal_wait_until", "ended without shmem_finalize"}},
    {"killed", "lock", FAILS, {"PE 1", "shmem_set_lock", "ended without shmem_finalize"}},
    {"killed", "malloc", FAILS, {"PE 1", "malloc", "ended without shmem_finalize"}},
    {"killed", "finalize", FAILS, {"PE 1", "finalize", "ended without shmem_finalize"}},
    {"killed", "get", FAILS, {"PE 1", "barrier", "ended without shmem_finalize"}},
    {"crashed", "barrier", FAILS, {"PE 1", "barrier", "ended without shmem_finalize"}},
    {"return", "barrier", 1, {"PE 1", "barrier", "ended without shmem_finalize"}},
    {"exit", "wait_until", 1, {"PE 1", "wait_until", "ended without shmem_finalize"}},
    {"_exit", "reduce", 1, {"PE 1", "reduce", "ended without shmem_finalize"}},
    /* ends the job: all go, with its status, whatever they do */
    {"global_exit", "barrier", 7, {"pid", "pid", "pid"}},
    {"global_exit", "wait_until", 7, {"pid", "pid", "pid"}},
    {"global_exit", "compute", 7, {"pid", "pid", "pid"}},
    {"all", "killed", 137, {"pid", "pid", "pid"}},
    {"all", "exit", 0, {"pid", "pid", "pid"}},
    {"all", "global_exit", 7, {"pid", "pid", "pid"}},
    {"fork", "", 0, {"pid", "pid", "pid"}},
    {"fine", "", 0, {"pid", "pid", "pid"}},
};

static void test_cases(void)
{
    static struct result r;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const bool absent = strcmp(cases[i].how, "absent") == 0;
        char what[64];
        snprintf(what, sizeof what, "%s/%s", cases[i].how, cases[i].call);
        struct names before;
        collect_names(&before);
        setenv("SHMEM_TIMEOUT", absent ? "1" : "0", 1);
        run_job(&r, 3, cases[i].how, cases[i].call);
        check_job(what, &r, cases[i].status, absent ? 1 : 0, absent ? 5 : 3);
        for (int k = 0; k < 3; k++)
            check_text(what, &r, cases[i].texts[k]);
        if (strcmp(cases[i].how, "global_exit") == 0) /* the PE that ends the job is not blamed for its end */
            CHECK(strstr(r.text, "ended without") == NULL, "%s:\n%.600s", what, r.text);
        check_no_process(what, r.text, 0.5);
        check_nothing_left(what, &before);
    }
    setenv("SHMEM_TIMEOUT", "1", 1);
    run_job(&r, 3, "codes", "");
    check_job("codes", &r, 0, 2, 10);
    check_text("codes", &r, "codes are right");
}

/* SHMEM_SYMMETRIC_SIZE: what is understood gives that heap, the rest an error that names the variable. */
static void test_sizes(void)
{
    static const struct {
        const char *value, *heap; /* NULL: refused */
    } rows[] = {{"64M", "heap 67108864."},
                {"2G", "heap 2147483648."},
                {"1.5G", "heap 1610612736."},
                {"64m", "heap 67108864."},
                {"4194304", "heap 4194304."},
                {" 8192K", "heap 8388608."},
                {"", "heap 1073741824."},
                {"1GiB", "heap 1073741824."},
                {"lots", NULL},
                {"-64M", NULL},
                {"64Q", NULL},
                {"0x4000000", NULL},
                {"64 M", NULL},
                {"M", NULL},
                {"nan", NULL},
                {"9999999T", NULL},
                {"100T", NULL},
                {"0", "heap 2097152."}};
    static struct result r;
    setenv("SHMEM_TIMEOUT", "10", 1);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        setenv("SHMEM_SYMMETRIC_SIZE", rows[i].value, 1);
        run_job(&r, 2, "heap", "");
        check_job(rows[i].value, &r, rows[i].heap ? 0 : FAILS, 0, 8);
        check_text(rows[i].value, &r, rows[i].heap ? rows[i].heap : "SHMEM_SYMMETRIC_SIZE");
    }
    setenv("SHMEM_SYMMETRIC_SIZE", "64M", 1);
    static const char *const others[][2] = {{"SHMEM_TIMEOUT", "soon"},
                                            {"SHMEM_TIMEOUT", "-1"},
                                            {"SHMEM_SYMMETRIC_GLOBALS", "maybe"},
                                            {"SHMEM_BOOTSTRAP", "pigeon"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        setenv(others[i][0], others[i][1], 1);
        run_job(&r, 2, "fine", "");
        check_job(others[i][1], &r, FAILS, 0, 8);
        check_text(others[i][0], &r, others[i][0]);
        check_text(others[i][0], &r, others[i][1]);
        unsetenv(others[i][0]);
    }
}

/* A launcher that ties its processes to itself in no way, killed: they find out and end. */
static void test_launcher_killed(const char *call)
{
    static struct result r;
    struct names before;
    enum { N = 3 };
    collect_names(&before);
    memset(&r, 0, sizeof r);
    setenv("SHMEM_TIMEOUT", "0", 1);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    char port[16];
    snprintf(port, sizeof port, "%d", 20000 + (int)(getpid() % 20000));
    setenv("MASTER_PORT", port, 1);
    setenv("WORLD_SIZE", "3", 1);
    int ends[2];
    pid_t launcher;
    if (pipe2(ends, O_CLOEXEC) != 0 || (launcher = fork()) < 0) {
        perror("fork");
        exit(1);
    }
    if (launcher == 0) {
        for (int i = 0; i < N; i++) {
            char rank[4];
            snprintf(rank, sizeof rank, "%d", i);
            setenv("RANK", rank, 1);
            if (fork() == 0) {
                dup2(ends[1], STDERR_FILENO);
                execl(self_path, self_path, "absent", call, NULL);
                _exit(126);
            }
        }
        for (;;)
            pause();
    }
    close(ends[1]);
    size_t n = 0;
    read_output(ends[0], &r, &n, "pid ", N, 20);
    doze(200000);
    kill(launcher, SIGKILL);
    waitpid(launcher, NULL, 0);
    const double start = seconds();
    check_no_process("launcher killed", r.text, 5);
    CHECK(seconds() - start < 4, "the PEs took %.1f s to end after their launcher", seconds() - start);
    read_output(ends[0], &r, &n, NULL, 0, 1);
    close(ends[0]);
    check_text("launcher killed", &r, "launcher");
    check_nothing_left("launcher killed", &before);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        return pe_main(argv[1], argc > 2 ? argv[2] : "");
    ssize_t n = readlink("/proc/self/exe", self_path, sizeof self_path - 1);
    char *slash = n > 0 ? strrchr(self_path, '/') : NULL;
    if (slash == NULL)
        return 1;
    snprintf(launch_path, sizeof launch_path, "%.*s/launch", (int)(slash - self_path), self_path);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    setenv("SHMEM_SYMMETRIC_SIZE", "64M", 1);
    test_cases();
    test_sizes();
    test_launcher_killed("compute");
    test_launcher_killed("barrier");
    return check_done();
}
