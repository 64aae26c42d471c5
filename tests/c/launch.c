/* Starts N processes with torchrun's variables on this machine: the C tests' own mpirun.
 *
 *     launch -n N [-t SECONDS] [-k] PROG ARGS...
 *
 * The exit status is that of the first process that failed (128 + signal if one killed it), 124 after the
 * deadline, 125 for a mistake in the call. When one fails the others get 5 s to notice before they are
 * killed; with -k (keep going) they may end by themselves.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PROCESSES = 1024, BAD_CALL = 125, TIMED_OUT = 124 };
static const double grace = 5; /* seconds for the others after the first failure */

extern char **environ;
static pid_t pids[MAX_PROCESSES]; /* 0 = has ended */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int usage(const char *wrong)
{
    fprintf(stderr, "launch: %s\nusage: launch -n N [-t SECONDS] [-k] PROG ARGS...\n", wrong);
    return BAD_CALL;
}

/* Another launcher above us must not look like ours to the processes. */
static void clean_environment(void)
{
    static const char *const foreign[] = {"PMIX_", "PMI_", "OMPI_", "PRTE_", "TORCHELASTIC_", "HYDI_"};
    for (char **e = environ; *e;) {
        bool drop = false;
        for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
            drop |= strncmp(*e, foreign[i], strlen(foreign[i])) == 0;
        if (!drop) {
            e++;
            continue;
        }
        char name[256];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(*e, "="), *e);
        if (unsetenv(name) != 0)
            e++;
    }
}

/* A port that is free now. The bootstrap looks at the next ones too if another takes it meanwhile. */
static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) != 0) {
        perror("launch: no free port");
        exit(BAD_CALL);
    }
    close(fd);
    return ntohs(a.sin_port);
}

static void set_number(const char *name, long value)
{
    char text[32];
    snprintf(text, sizeof text, "%ld", value);
    setenv(name, text, 1);
}

static void kill_all(int n)
{
    for (int i = 0; i < n; i++)
        if (pids[i] > 0) {
            kill(-pids[i], SIGKILL); /* its group: what it started goes too */
            kill(pids[i], SIGKILL);
        }
}

static void start(int rank, pid_t parent, const sigset_t *mask, char **argv)
{
    pid_t pid = fork();
    if (pid < 0) {
        perror("launch: fork");
        kill_all(rank);
        exit(BAD_CALL);
    }
    if (pid > 0) {
        setpgid(pid, pid); /* here and in the child: whoever comes first */
        pids[rank] = pid;
        return;
    }
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a killed launcher leaves nothing behind */
    if (getppid() != parent)
        _exit(BAD_CALL);
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0) {
        dup2(null, STDIN_FILENO); /* a process outside the terminal's group may not read from it */
        close(null);
    }
    sigprocmask(SIG_SETMASK, mask, NULL);
    set_number("RANK", rank);
    set_number("LOCAL_RANK", rank);
    execvp(argv[0], argv);
    fprintf(stderr, "launch: cannot start %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

static void print_running(int n, double seconds)
{
    fprintf(stderr, "launch: after %g s still running: rank", seconds);
    const char *separator = " ";
    for (int i = 0; i < n; i++)
        if (pids[i] > 0) {
            fprintf(stderr, "%s%d", separator, i);
            separator = ", ";
        }
    fprintf(stderr, "\n");
}

int main(int argc, char **argv)
{
    long n = 0;
    double limit = 120;
    bool keep_going = false;
    char *end;
    int option;
    while ((option = getopt(argc, argv, "+n:t:k")) != -1)
        switch (option) {
        case 'n':
            n = strtol(optarg, &end, 10);
            if (*end || n < 1 || n > MAX_PROCESSES)
                return usage("-n wants a number from 1 to 1024");
            break;
        case 't':
            limit = strtod(optarg, &end);
            if (*end || !(limit > 0 && limit < 1e6))
                return usage("-t wants a positive number of seconds");
            break;
        case 'k':
            keep_going = true;
            break;
        default:
            return usage("unknown option");
        }
    if (n == 0)
        return usage("-n is missing");
    if (optind >= argc)
        return usage("the program is missing");

    clean_environment();
    uint64_t id;
    if (getrandom(&id, sizeof id, 0) != sizeof id) {
        perror("launch: getrandom");
        return BAD_CALL;
    }
    char text[32];
    snprintf(text, sizeof text, "launch-%016llx", (unsigned long long)id);
    setenv("TORCHELASTIC_RUN_ID", text, 1);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    set_number("MASTER_PORT", free_port());
    set_number("WORLD_SIZE", n);
    set_number("LOCAL_WORLD_SIZE", n);

    sigset_t caught, before;
    sigemptyset(&caught);
    sigaddset(&caught, SIGCHLD);
    sigaddset(&caught, SIGINT);
    sigaddset(&caught, SIGTERM);
    sigaddset(&caught, SIGHUP);
    sigprocmask(SIG_BLOCK, &caught, &before);
    int events = signalfd(-1, &caught, SFD_CLOEXEC | SFD_NONBLOCK);
    if (events < 0) {
        perror("launch: signalfd");
        return BAD_CALL;
    }
    pid_t self = getpid();
    for (int rank = 0; rank < n; rank++)
        start(rank, self, &before, argv + optind);

    int status = 0, left = (int)n;
    double deadline = now() + limit;
    bool killed = false;
    while (left > 0) {
        double wait = deadline - now();
        if (wait <= 0) {
            if (killed) {
                print_running((int)n, limit); /* not even SIGKILL ended them */
                return TIMED_OUT;
            }
            if (status == 0) {
                print_running((int)n, limit);
                status = TIMED_OUT;
            }
            kill_all((int)n);
            killed = true;
            deadline = now() + grace;
            continue;
        }
        struct pollfd p = {.fd = events, .events = POLLIN};
        poll(&p, 1, wait > 1 ? 1000 : (int)(wait * 1000) + 1);
        struct signalfd_siginfo signal;
        while (read(events, &signal, sizeof signal) == sizeof signal)
            if (signal.ssi_signo != SIGCHLD && !killed) {
                status = 128 + (int)signal.ssi_signo;
                kill_all((int)n);
                killed = true;
                deadline = now() + grace;
            }
        for (int i = 0; i < n; i++) {
            int how;
            if (pids[i] <= 0 || waitpid(pids[i], &how, WNOHANG) <= 0)
                continue;
            kill(-pids[i], SIGKILL); /* what the ended one left in its group */
            pids[i] = 0;
            left--;
            int code = WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
            if (code == 0 || status != 0)
                continue;
            status = code;
            if (WIFSIGNALED(how))
                fprintf(stderr, "launch: rank %d was killed by signal %d\n", i, WTERMSIG(how));
            else
                fprintf(stderr, "launch: rank %d ended with status %d\n", i, code);
            if (!keep_going && now() + grace < deadline)
                deadline = now() + grace;
        }
    }
    return status;
}
