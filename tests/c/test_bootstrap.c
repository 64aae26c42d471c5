/* Bootstrap: exchanges over whatever started us, and everything that may go wrong over the TCP star.
 * pes: 1 2 4 8
 *
 * It runs under mpirun of any MPI, too. One process under `launch` also plays the scenes: each forks a few
 * processes, which meet by a unique id or by torchrun's variables and leave a note for the parent. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "bootstrap.h"
#include "check.h"

enum { ACTORS = 8, PATIENCE = 40 }; /* the most processes of a scene; seconds before one is killed */

static void doze(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

/* ---- exchanges ---- */

static uint8_t content(int rank, unsigned salt, size_t i)
{
    return (uint8_t)((unsigned)rank * 37u + salt * 11u + (unsigned)i * 7u + (unsigned)(i >> 8));
}

static void exchange(struct shmemi_bootstrap *b, size_t n, unsigned salt)
{
    uint8_t *mine = malloc(n), *all = malloc(n * (size_t)b->size);
    for (size_t i = 0; i < n; i++)
        mine[i] = content(b->rank, salt, i);
    int status = b->allgather(b, mine, all, n);
    if (CHECK(status == 0, "%s", shmemx_last_error()))
        for (int rank = 0; rank < b->size; rank++) {
            size_t wrong = 0;
            for (size_t i = 0; i < n; i++)
                wrong += all[(size_t)rank * n + i] != content(rank, salt, i);
            CHECK(wrong == 0, "%zu of %zu bytes from PE %d are wrong", wrong, n, rank);
        }
    free(mine);
    free(all);
}

static void exchanges(struct shmemi_bootstrap *b)
{
    static const size_t sizes[] = {1, 3, 769, 4096, 300 << 10};
    for (unsigned round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            exchange(b, sizes[i], round * 16 + (unsigned)i);
        CHECK(b->barrier(b) == 0, "%s", shmemx_last_error());
    }
}

static void ordinary(void) /* what started this process, three times over */
{
    for (int again = 0; again < 3; again++) {
        struct shmemi_bootstrap b;
        if (!CHECK(shmemi_bootstrap_open(&b, NULL) == 0, "%s", shmemx_last_error()))
            return;
        check_pe = b.rank;
        CHECK(b.rank >= 0 && b.rank < b.size, "%d of %d", b.rank, b.size);
        CHECK(b.launched == (strcmp(b.name, "single") != 0 && strcmp(b.name, "uid") != 0), "%s", b.name);
        if (b.rank == 0 && again == 0)
            check_say("%s: %s", b.name, b.detail);
        char report[2048];
        shmemi_bootstrap_report(report, sizeof report);
        CHECK(strstr(report, "chosen: PE") != NULL, "%s", report);
        exchanges(&b);
        CHECK(b.barrier(&b) == 0, "%s", shmemx_last_error());
        b.close(&b);
    }
}

/* ---- scenes ---- */

/* What the actors of a scene and the parent share. */
static struct stage {
    unsigned char uid[2][SHMEMI_UID_BYTES];
    atomic_int ready, port;
    struct {
        int status;
        double took;
        char text[1024];
    } note[ACTORS];
} *stage;

static void wait_ready(int n)
{
    while (atomic_load(&stage->ready) < n)
        doze(0.002);
}

static void note(int actor, int status, double since)
{
    stage->note[actor].status = status;
    stage->note[actor].took = shmemi_now() - since;
    snprintf(stage->note[actor].text, sizeof stage->note[actor].text, "%s", shmemx_last_error());
}

/* Runs `act` in n processes; each must end with 0. */
static void play(const char *name, int n, void (*act)(int actor))
{
    pid_t pids[ACTORS];
    memset(stage, 0, sizeof *stage);
    for (int i = 0; i < n; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            check_pe = i;
            check_passed = 1;
            check_failed = 0;
            alarm(PATIENCE);
            shmemx_log_errors(0);
            act(i);
            fflush(NULL);
            exit(check_failed != 0);
        }
    }
    for (int i = 0; i < n; i++) {
        int how = -1;
        while (waitpid(pids[i], &how, 0) < 0 && errno == EINTR)
            continue;
        CHECK(WIFEXITED(how) && WEXITSTATUS(how) == 0, "scene %s: process %d ended with %#x", name, i, how);
    }
}

static int open_uid(struct shmemi_bootstrap *b, int rank, int size, int which)
{
    struct shmemi_bootstrap_request request = {rank, size, stage->uid[which]};
    return shmemi_bootstrap_open(b, &request);
}

/* The maker fills the id, the others wait for it. */
static void share_uid(bool maker)
{
    if (maker) {
        for (int i = 0; i < 2; i++)
            CHECK(shmemi_bootstrap_uid(stage->uid[i]) == 0, "%s", shmemx_last_error());
        atomic_fetch_add(&stage->ready, 1);
    }
    wait_ready(1);
}

static void set_timeout(const char *seconds)
{
    setenv("SHMEM_TIMEOUT", seconds, 1);
    CHECK(shmemi_env_read("test") == 0, "%s", shmemx_last_error());
}

static void by_uid(int actor) /* the maker is not rank 0 */
{
    struct shmemi_bootstrap b[2];
    share_uid(actor == 2);
    for (int which = 0; which < 2; which++)
        CHECK(open_uid(&b[which], actor, 4, which) == 0, "%s", shmemx_last_error());
    for (int which = 0; which < 2; which++) {
        CHECK(strcmp(b[which].name, "uid") == 0 && b[which].rank == actor && b[which].size == 4, "%s",
              b[which].name);
        CHECK(!b[which].launched, "a unique id has no launcher");
        exchanges(&b[which]);
    }
    for (int which = 0; which < 2; which++)
        b[which].close(&b[which]);
}

static void by_stranger(int actor) /* the maker is no PE of the job */
{
    share_uid(actor == 3);
    if (actor < 3) {
        struct shmemi_bootstrap b;
        CHECK(open_uid(&b, actor, 3, 0) == 0, "%s", shmemx_last_error());
        exchanges(&b);
        b.close(&b);
        atomic_fetch_add(&stage->ready, 1);
    }
    wait_ready(4);
}

/* Everybody leaves at once after a barrier, the hub's process first of all: none may miss the answer. */
static void hasty(int actor)
{
    struct shmemi_bootstrap b;
    share_uid(actor == 0);
    CHECK(open_uid(&b, actor, 4, 0) == 0, "%s", shmemx_last_error());
    exchange(&b, 200 << 10, 5);
    CHECK(b.barrier(&b) == 0, "%s", shmemx_last_error());
    if (check_failed == 0)
        _exit(0);
}

static void missing(int actor)
{
    struct shmemi_bootstrap b;
    set_timeout("1");
    share_uid(actor == 0);
    double since = shmemi_now();
    note(actor, open_uid(&b, actor * 2, 4, 0), since); /* 0 and 2 of 4 */
}

static void missing_in_barrier(int actor)
{
    struct shmemi_bootstrap b;
    set_timeout("1");
    share_uid(actor == 0);
    CHECK(open_uid(&b, actor, 3, 0) == 0, "%s", shmemx_last_error());
    double since = shmemi_now();
    if (actor != 1)
        note(actor, b.barrier(&b), since);
    else
        doze(2.5);
    b.close(&b);
}

static void duplicate(int actor)
{
    struct shmemi_bootstrap b;
    share_uid(actor == 0);
    double since = shmemi_now();
    note(actor, open_uid(&b, actor > 1 ? 1 : actor, 4, 0), since); /* 0, 1, 1 */
}

static void other_size(int actor)
{
    struct shmemi_bootstrap b;
    share_uid(actor == 0);
    double since = shmemi_now();
    note(actor, open_uid(&b, actor, actor == 1 ? 3 : 4, 0), since);
}

static void other_bytes(int actor)
{
    struct shmemi_bootstrap b;
    char mine[64] = {0}, all[192];
    share_uid(actor == 0);
    CHECK(open_uid(&b, actor, 3, 0) == 0, "%s", shmemx_last_error());
    double since = shmemi_now();
    note(actor, b.allgather(&b, mine, all, actor == 2 ? 32 : 64), since);
    CHECK(b.barrier(&b) < 0, "a broken bootstrap went on");
    b.close(&b);
}

static void dies(int actor)
{
    struct shmemi_bootstrap b;
    share_uid(actor == 0);
    CHECK(open_uid(&b, actor, 3, 0) == 0, "%s", shmemx_last_error());
    if (actor == 1) {
        doze(0.2);
        _exit(0);
    }
    double since = shmemi_now();
    note(actor, b.barrier(&b), since);
    b.close(&b);
}

static void hub_dies(int actor)
{
    struct shmemi_bootstrap b;
    share_uid(actor == 0);
    CHECK(open_uid(&b, actor, 3, 0) == 0, "%s", shmemx_last_error());
    if (actor == 0) {
        doze(0.2);
        _exit(0);
    }
    double since = shmemi_now();
    note(actor, b.barrier(&b), since);
    b.close(&b);
}

static void aborts(int actor)
{
    struct shmemi_bootstrap b;
    share_uid(actor == 0);
    CHECK(open_uid(&b, actor, 3, 0) == 0, "%s", shmemx_last_error());
    double since = shmemi_now();
    if (actor == 2)
        b.abort(&b, 17);
    note(actor, b.barrier(&b), since);
    b.close(&b);
}

static void bad_ids(int actor)
{
    struct shmemi_bootstrap b;
    share_uid(actor == 0);
    CHECK(open_uid(&b, 0, 1, 0) == 0, "%s", shmemx_last_error());
    b.close(&b);
    doze(0.2); /* the hub ends */
    double since = shmemi_now();
    CHECK(open_uid(&b, 0, 1, 0) == SHMEMX_ERR_BOOTSTRAP, "a used id: %s", shmemx_last_error());
    CHECK(shmemi_now() - since < 5, "%g s", shmemi_now() - since);
    CHECK(open_uid(&b, 3, 2, 1) == SHMEMX_ERR_ARGUMENT && strstr(shmemx_last_error(), "rank 3 of 2"), "%s",
          shmemx_last_error());
    for (int at = 0; at < 100; at += 9) {
        stage->uid[1][at] ^= 4;
        CHECK(open_uid(&b, 0, 1, 1) == SHMEMX_ERR_ARGUMENT, "byte %d: %s", at, shmemx_last_error());
        stage->uid[1][at] ^= 4;
    }
    memset(stage->uid[0], 0, SHMEMI_UID_BYTES);
    CHECK(open_uid(&b, 0, 1, 0) == SHMEMX_ERR_ARGUMENT, "zeroes: %s", shmemx_last_error());
    CHECK(open_uid(&b, 0, 1, 1) == 0, "still good: %s", shmemx_last_error());
    b.close(&b);
}

/* ---- by torchrun's variables ---- */

static void set_env(int rank, int size, int port, const char *run)
{
    char text[32];
    snprintf(text, sizeof text, "%d", rank);
    setenv("RANK", text, 1);
    snprintf(text, sizeof text, "%d", size);
    setenv("WORLD_SIZE", text, 1);
    snprintf(text, sizeof text, "%d", port);
    setenv("MASTER_PORT", text, 1);
    setenv("MASTER_ADDR", "localhost", 1);
    setenv("TORCHELASTIC_RUN_ID", run, 1);
}

/* A silent listener, like torchrun's store; its port becomes stage->port. */
static int occupy(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 8) == 0 &&
              getsockname(fd, (struct sockaddr *)&a, &n) == 0,
          "errno %d", errno);
    atomic_store(&stage->port, ntohs(a.sin_port));
    atomic_fetch_add(&stage->ready, 1);
    return fd;
}

static void two_jobs(int actor) /* of three PEs on one MASTER_PORT, which is taken */
{
    int fd = -1;
    if (actor == 0)
        fd = occupy();
    wait_ready(1);
    set_env(actor / 2, 3, atomic_load(&stage->port), actor % 2 ? "first" : "second");
    for (int again = 0; again < 2; again++) {
        struct shmemi_bootstrap b;
        if (!CHECK(shmemi_bootstrap_open(&b, NULL) == 0, "%s", shmemx_last_error()))
            return;
        CHECK(strcmp(b.name, "env") == 0 && b.rank == actor / 2 && b.size == 3, "%s", b.name);
        int job = actor % 2, all[3];
        CHECK(b.allgather(&b, &job, all, sizeof job) == 0, "%s", shmemx_last_error());
        CHECK(all[0] == job && all[1] == job && all[2] == job, "two jobs were mixed: %d %d %d", all[0],
              all[1], all[2]);
        exchanges(&b);
        CHECK(b.barrier(&b) == 0, "%s", shmemx_last_error());
        b.close(&b);
    }
    if (fd >= 0)
        close(fd);
}

static void wrong_secret(int actor)
{
    struct shmemi_bootstrap b;
    set_timeout("1");
    if (actor == 0)
        close(occupy()); /* a port that is free, more or less */
    wait_ready(1);
    set_env(actor, 2, atomic_load(&stage->port), "run");
    setenv("SHMEM_JOB_SECRET", actor ? "guess" : "right", 1);
    CHECK(shmemi_env_read("test") == 0, "%s", shmemx_last_error());
    double since = shmemi_now();
    note(actor, shmemi_bootstrap_open(&b, NULL), since);
}

static void no_rank_0(int actor)
{
    struct shmemi_bootstrap b;
    set_timeout("1");
    close(occupy());
    set_env(1, 2, atomic_load(&stage->port), "run");
    double since = shmemi_now();
    note(actor, shmemi_bootstrap_open(&b, NULL), since);
}

static int dial(int port)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
        return fd;
    close(fd);
    return -1;
}

/* The last actor sends junk of many kinds to the hub, before and while the others meet. */
static void junk(int actor)
{
    if (actor == 0)
        close(occupy());
    wait_ready(1);
    int port = atomic_load(&stage->port);
    if (actor < 3) {
        set_env(actor, 3, port, "run");
        if (actor == 2)
            wait_ready(2); /* the hub is up and has had its first junk */
        struct shmemi_bootstrap b;
        if (CHECK(shmemi_bootstrap_open(&b, NULL) == 0, "%s", shmemx_last_error())) {
            exchanges(&b);
            b.close(&b);
        }
        return;
    }
    /* What a hello begins with, cut and followed by nonsense: the most that a stranger gets to say. */
    char bytes[256];
    uint64_t state = 88172645463325252u;
    int reached = 0, open[64];
    double until = shmemi_now() + 20;
    while (reached < 48 && shmemi_now() < until) {
        int fd = dial(port);
        if (fd < 0) {
            doze(0.002);
            continue;
        }
        for (size_t i = 0; i < sizeof bytes; i++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes[i] = (char)state;
        }
        size_t n = (size_t)(reached * 5);
        if (reached % 3 == 0)
            memcpy(bytes, "shmem\1s\n", 8);
        if (reached % 4 != 3) /* the fourth kind stays silent */
            send(fd, bytes, n < sizeof bytes ? n : sizeof bytes, MSG_NOSIGNAL);
        open[reached++] = fd;
        if (reached % 5 == 0)
            shutdown(fd, SHUT_WR);
    }
    CHECK(reached == 48, "only %d connections reached the hub", reached);
    atomic_fetch_add(&stage->ready, 1);
    doze(0.3);
    for (int i = 0; i < reached; i++)
        close(open[i]);
}

static void bad_variables(int actor)
{
    (void)actor;
    static const char *const cases[][3] = {{"RANK", "5", "0 to 1"},
                                           {"RANK", "-1", "0 to 1"},
                                           {"RANK", "x", "\"x\""},
                                           {"WORLD_SIZE", "0", "WORLD_SIZE"},
                                           {"MASTER_PORT", "99999", "99999"},
                                           {"MASTER_PORT", "1x", "\"1x\""}};
    struct shmemi_bootstrap b;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        set_env(0, 2, 4711, "run");
        setenv(cases[i][0], cases[i][1], 1);
        CHECK(shmemi_bootstrap_open(&b, NULL) == SHMEMX_ERR_BOOTSTRAP &&
                  strstr(shmemx_last_error(), cases[i][2]),
              "%s=%s: %s", cases[i][0], cases[i][1], shmemx_last_error());
    }
    unsetenv("RANK");
    CHECK(shmemi_bootstrap_open(&b, NULL) == 0 && strcmp(b.name, "single") == 0 && !b.launched, "%s",
          shmemx_last_error());
    exchanges(&b);
    b.close(&b);
    static const char *const ways[][2] = {
        {"pmix", "PMIX_RANK"}, {"pmi", "PMI_FD"}, {"env", "RANK"}, {"uid", "unique id"}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        setenv("SHMEM_BOOTSTRAP", ways[i][0], 1);
        CHECK(shmemi_env_read("test") == 0, "%s", shmemx_last_error());
        CHECK(shmemi_bootstrap_open(&b, NULL) == SHMEMX_ERR_BOOTSTRAP &&
                  strstr(shmemx_last_error(), ways[i][1]),
              "%s", shmemx_last_error());
    }
    setenv("SHMEM_BOOTSTRAP", "carrier-pigeon", 1);
    CHECK(shmemi_env_read("test") == 0, "%s", shmemx_last_error());
    CHECK(shmemi_bootstrap_open(&b, NULL) == SHMEMX_ERR_ARGUMENT &&
              strstr(shmemx_last_error(), "carrier-pigeon"),
          "%s", shmemx_last_error());
}

static void variables(int actor)
{
    (void)actor;
    static const struct {
        const char *text;
        size_t bytes; /* SIZE_MAX: an error */
    } sizes[] = {{"4096", 4096},    {"64M", 64u << 20}, {"2g", (size_t)2 << 30}, {"20m", 20971520},
                 {"3.1M", 3250586}, {".5k", 512},       {"1T", (size_t)1 << 40}, {"1GiB", 1u << 30},
                 {"", 1u << 30},    {" 7 ", 7},         {"M", SIZE_MAX},         {"-1", SIZE_MAX},
                 {"1x", SIZE_MAX},  {"0x10", SIZE_MAX}, {"1e30", SIZE_MAX},      {"nan", SIZE_MAX},
                 {"inf", SIZE_MAX}, {"many", SIZE_MAX}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        setenv("SHMEM_SYMMETRIC_SIZE", sizes[i].text, 1);
        int status = shmemi_env_read("test");
        if (sizes[i].bytes == SIZE_MAX)
            CHECK(status == SHMEMX_ERR_ARGUMENT && strstr(shmemx_last_error(), "SHMEM_SYMMETRIC_SIZE"),
                  "\"%s\": %s", sizes[i].text, shmemx_last_error());
        else
            CHECK(status == 0 && shmemi_env.SYMMETRIC_SIZE == sizes[i].bytes, "\"%s\": %zu", sizes[i].text,
                  shmemi_env.SYMMETRIC_SIZE);
    }
    CHECK(shmemi_env.SYMMETRIC_SIZE == 7, "a bad value changed the old one: %zu", shmemi_env.SYMMETRIC_SIZE);
    unsetenv("SHMEM_SYMMETRIC_SIZE");
    static const char *const words[] = {"0", "off", "No", "1", "ON", "yes", "maybe"}; /* the others are on */
    for (size_t i = 0; i < 7; i++) {
        setenv("SHMEM_INFO", words[i], 1);
        CHECK(shmemi_env_read("test") == 0 && shmemi_env.INFO == (i >= 3), "%s", words[i]);
    }
    unsetenv("SHMEM_INFO");
    setenv("SHMEM_SYMMETRIC_GLOBALS", "maybe", 1);
    CHECK(shmemi_env_read("test") == SHMEMX_ERR_ARGUMENT && strstr(shmemx_last_error(), "maybe"), "%s",
          shmemx_last_error());
    unsetenv("SHMEM_SYMMETRIC_GLOBALS");
    setenv("SHMEM_TIMEOUT", "-1", 1);
    CHECK(shmemi_env_read("test") == SHMEMX_ERR_ARGUMENT, "%s", shmemx_last_error());
    set_timeout("2.5");
    CHECK(shmemi_env.TIMEOUT == 2.5, "%g", shmemi_env.TIMEOUT);
    int value, count = 0;
    const char *name, *python;
    for (; shmemx_error_info(count, &value, &name, &python) == 0; count++)
        CHECK(strcmp(shmemx_error_name(value), name) == 0 && shmemx_strerror(value)[0] && value <= 0, "%d",
              value);
    CHECK(count > 10 && shmemx_error_info(-1, NULL, NULL, NULL) == SHMEMX_ERR_ARGUMENT, "%d", count);
    CHECK(strcmp(shmemx_error_name(77), "UNKNOWN") == 0, "%s", shmemx_error_name(77));
    const char *why = NULL;
    CHECK(shmemi_dl_open((const char *const[]){"libno-such.so.1", "libnor-this.so", NULL}, &why) == NULL &&
              strstr(why, "libno-such.so.1") && strstr(why, "libnor-this.so"),
          "%s", why);
}

/* All noted `status` within `most` seconds, with `text` in the message. */
static void all_noted(const char *scene, const int *actors, int n, int status, double most, const char *text)
{
    for (int i = 0; i < n; i++) {
        int a = actors[i];
        CHECK(stage->note[a].status == status && stage->note[a].took < most &&
                  strstr(stage->note[a].text, text),
              "scene %s, process %d: %s after %.2f s: %s", scene, a, shmemx_error_name(stage->note[a].status),
              stage->note[a].took, stage->note[a].text);
    }
}

static void scenes(void)
{
    static const int first_two[] = {0, 1}, all[] = {0, 1, 2}, not_1[] = {0, 2}, not_0[] = {1, 2},
                     only_0[] = {0}, only_1[] = {1};
    play("by_uid", 4, by_uid);
    play("by_stranger", 4, by_stranger);
    for (int i = 0; i < 10; i++)
        play("hasty", 4, hasty);
    play("missing", 2, missing);
    all_noted("missing", first_two, 2, SHMEMX_ERR_TIMEOUT, 4, "PE 1, 3 of 4 did not arrive");
    play("missing_in_barrier", 3, missing_in_barrier);
    all_noted("missing_in_barrier", not_1, 2, SHMEMX_ERR_TIMEOUT, 4, "PE 1 of 3 did not enter the barrier");
    play("duplicate", 3, duplicate);
    all_noted("duplicate", all, 3, SHMEMX_ERR_BOOTSTRAP, 4, "two processes are started as PE 1 of 4");
    play("other_size", 2, other_size);
    all_noted("other_size", first_two, 2, SHMEMX_ERR_MISMATCH, 4, "others with");
    play("other_bytes", 3, other_bytes);
    all_noted("other_bytes", all, 3, SHMEMX_ERR_MISMATCH, 4, "of 32");
    play("dies", 3, dies);
    all_noted("dies", not_1, 2, SHMEMX_ERR_PEER_DEAD, 4, "PE 1 of 3 left");
    play("hub_dies", 3, hub_dies);
    all_noted("hub_dies", not_0, 2, SHMEMX_ERR_PEER_DEAD, 4, "the process (PE 0) with the job's hub");
    play("aborts", 3, aborts);
    all_noted("aborts", first_two, 2, SHMEMX_ERR_PEER_DEAD, 4, "PE 2 of 3 aborted the job with status 17");
    play("bad_ids", 1, bad_ids);
    play("two_jobs", 6, two_jobs);
    play("wrong_secret", 2, wrong_secret);
    all_noted("wrong_secret", only_0, 1, SHMEMX_ERR_TIMEOUT, 4, "PE 1 of 2 did not arrive");
    all_noted("wrong_secret", only_1, 1, SHMEMX_ERR_TIMEOUT, 4, "another job's");
    play("no_rank_0", 1, no_rank_0);
    all_noted("no_rank_0", only_0, 1, SHMEMX_ERR_TIMEOUT, 4, "refused");
    play("junk", 4, junk);
    play("bad_variables", 1, bad_variables);
    play("variables", 1, variables);
}

int main(void)
{
    stage = mmap(NULL, sizeof *stage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (stage == MAP_FAILED)
        return 2;
    /* Before any thread: the scenes fork. */
    const char *size = getenv("WORLD_SIZE");
    if (size && strcmp(size, "1") == 0)
        scenes();
    CHECK(shmemi_env_read("test") == 0, "%s", shmemx_last_error());
    ordinary();
    return check_done();
}
