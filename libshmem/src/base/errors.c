/* Errors and the log: one table of codes, one line a failure, one text kept a thread. */
#include "base.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 1024 };

static const struct {
    int value;
    const char *name, *python, *text;
} table[] = {
#define SHMEMX_ERROR(name, value, python, text) {value, #name, python, text},
#include "errors.def"
#undef SHMEMX_ERROR
};
enum { ERRORS = sizeof table / sizeof *table };

static _Thread_local char last_error[LINE_BYTES];
static atomic_bool log_errors = true;
static atomic_int log_pe = -1;

static int find(int code)
{
    for (int i = 0; i < ERRORS; i++)
        if (table[i].value == code)
            return i;
    return -1;
}

SHMEMX_API const char *shmemx_strerror(int code)
{
    int i = find(code);
    return i < 0 ? "unknown error code" : table[i].text;
}

SHMEMX_API const char *shmemx_error_name(int code)
{
    int i = find(code);
    return i < 0 ? "UNKNOWN" : table[i].name;
}

SHMEMX_API int shmemx_error_info(int index, int *value, const char **name, const char **python_base)
{
    if (index < 0 || index >= ERRORS)
        return SHMEMX_ERR_ARGUMENT; /* the end of the iteration, not worth a message */
    if (value)
        *value = table[index].value;
    if (name)
        *name = table[index].name;
    if (python_base)
        *python_base = table[index].python;
    return SHMEMX_SUCCESS;
}

SHMEMX_API const char *shmemx_last_error(void)
{
    return last_error;
}

void shmemi_adopt_error(const char *text)
{
    snprintf(last_error, sizeof last_error, "%s", text);
}

SHMEMX_API void shmemx_log_errors(int on)
{
    atomic_store_explicit(&log_errors, on != 0, memory_order_relaxed);
}

void shmemi_log_set_pe(int pe)
{
    atomic_store_explicit(&log_pe, pe, memory_order_relaxed);
}

/* Fills `line` with "libshmem: PE 3: call: text\n"; returns its length without the final zero. */
static size_t format(char line[LINE_BYTES], const char *call, const char *fmt, va_list args)
{
    int pe = atomic_load_explicit(&log_pe, memory_order_relaxed);
    size_t n = (size_t)snprintf(line, LINE_BYTES, "libshmem: ");
    if (pe >= 0)
        n += (size_t)snprintf(line + n, LINE_BYTES - n, "PE %d: ", pe);
    if (call)
        n += (size_t)snprintf(line + n, LINE_BYTES - n, "%.64s: ", call);
    int text = vsnprintf(line + n, LINE_BYTES - n, fmt, args);
    n += text > 0 ? (size_t)text : 0;
    if (n > LINE_BYTES - 2)
        n = LINE_BYTES - 2; /* a longer text is cut, the line still ends */
    line[n++] = '\n';
    line[n] = 0;
    return n;
}

/* One write a line, so that lines of several PEs on one terminal do not mix. */
static void emit(const char *line, size_t n)
{
    while (n > 0) {
        ssize_t k = write(STDERR_FILENO, line, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return; /* nobody listens; there is no better place to complain */
        line += k;
        n -= (size_t)k;
    }
}

int shmemi_fail(int code, const char *call, const char *fmt, ...)
{
    int saved = errno;
    char line[LINE_BYTES];
    va_list args;
    va_start(args, fmt);
    size_t n = format(line, call, fmt, args);
    va_end(args);
    const char *text = line + strlen("libshmem: ");
    size_t bytes = n - strlen("libshmem: ") - 1;
    memcpy(last_error, text, bytes);
    last_error[bytes] = 0;
    if (atomic_load_explicit(&log_errors, memory_order_relaxed))
        emit(line, n);
    errno = saved;
    return code;
}

void shmemi_warn(const char *fmt, ...)
{
    int saved = errno;
    char line[LINE_BYTES];
    va_list args;
    va_start(args, fmt);
    emit(line, format(line, NULL, fmt, args));
    va_end(args);
    errno = saved;
}

void shmemi_debug(const char *fmt, ...)
{
    if (!shmemi_env.DEBUG)
        return;
    int saved = errno;
    char line[LINE_BYTES];
    va_list args;
    va_start(args, fmt);
    emit(line, format(line, NULL, fmt, args));
    va_end(args);
    errno = saved;
}
