/* Checks for the C tests: CHECK(condition, format, values...) counts, prints what failed and goes on;
 * check_done() sums up and is main's return value. A line is one write, so that the output of several
 * processes does not mix; set check_pe in each of them and its number stands before every line. */
#ifndef CHECK_H
#define CHECK_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { CHECK_SHOWN = 20, CHECK_LINE = 1024 }; /* failures printed, the rest is counted; bytes of a line */

static int check_pe __attribute__((unused)) = -1; /* -1 = one process */
static unsigned long check_passed, check_failed;

/* Prints one line, with the PE before it. */
static inline void check_vsay(const char *prefix, const char *fmt, va_list args)
{
    char line[CHECK_LINE];
    int n = check_pe < 0 ? 0 : snprintf(line, sizeof line, "PE %d: ", check_pe);
    n += snprintf(line + n, sizeof line - (size_t)n, "%.600s", prefix);
    int text = vsnprintf(line + n, sizeof line - (size_t)n, fmt, args);
    n += text > 0 ? text : 0;
    if (n > CHECK_LINE - 2)
        n = CHECK_LINE - 2;
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, (size_t)n) < 0)
        return; /* nowhere to say it; the exit status still tells */
}

static inline __attribute__((format(printf, 1, 2))) void check_say(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    check_vsay("", fmt, args);
    va_end(args);
}

static inline bool check_pass(void)
{
    check_passed++;
    return true;
}

static inline __attribute__((format(printf, 4, 5), cold)) bool
check_fail(const char *file, int line, const char *condition, const char *fmt, ...)
{
    if (check_failed++ < CHECK_SHOWN) {
        char prefix[600];
        snprintf(prefix, sizeof prefix, "%s:%d: FAILED %s: ", file, line, condition);
        va_list args;
        va_start(args, fmt);
        check_vsay(prefix, fmt, args);
        va_end(args);
    }
    return false;
}

/* True where the condition holds; the values are evaluated only where it does not. */
#define CHECK(condition, ...)                                                                                \
    ((condition) ? check_pass() : check_fail(__FILE__, __LINE__, #condition, __VA_ARGS__))

/* 0 if all checks passed, else 1; also 1 if none was made. */
static inline int check_done(void)
{
    if (check_failed || !check_passed) {
        check_say("%lu of %lu checks failed", check_failed, check_passed + check_failed);
        return 1;
    }
    return 0;
}

#endif
