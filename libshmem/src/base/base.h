/* What every file of libshmem may use: errors, log, environment, lazy libraries.
 * Layer: base. Includes nothing from above. */
#ifndef SHMEMI_BASE_H
#define SHMEMI_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shmemx_errors.h" /* SHMEMX_SUCCESS = 0, all others negative */

#include "shmemx_types.h" /* SHMEMX_API */

#define SHMEMI_LIKELY(x) __builtin_expect(!!(x), 1)
#define SHMEMI_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define SHMEMI_INLINE static inline __attribute__((always_inline))
#define SHMEMI_COLD __attribute__((cold, noinline))
#define SHMEMI_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define SHMEMI_CACHE_LINE 64

/* Logs one line, "libshmem: PE 3: <call>: <text>", keeps it as the thread's last error
 * (shmemx_last_error) and returns `code`. The place that detects an error calls this once, with the
 * exact cause and the values; callers above only pass the code on. `call` is the public function's name. */
SHMEMI_COLD int shmemi_fail(int code, const char *call, const char *fmt, ...) SHMEMI_PRINTF(3, 4);
/* Public, declared for users in shmemx.h. The texts are static; an unknown code gives "unknown error code"
 * and "UNKNOWN". error_info walks errors.def by index and gives ARGUMENT past the end (any out may be NULL).
 * last_error is the text of this thread's last failure ("PE 3: <call>: <text>"), "" when there was none; it
 * stays until the thread's next failure. */
const char *shmemx_strerror(int code);
const char *shmemx_error_name(int code);
int shmemx_error_info(int index, int *value, const char **name, const char **python_base);
const char *shmemx_last_error(void);
/* Makes `text` this thread's last error: that of a failure which another thread has logged for it. */
void shmemi_adopt_error(const char *text);
/* Errors reach standard error unless switched off; Python does so, since it raises them instead. */
void shmemx_log_errors(int on);
/* "libshmem: PE 3: <text>" for the user, whatever SHMEM_DEBUG says. */
SHMEMI_COLD void shmemi_warn(const char *fmt, ...) SHMEMI_PRINTF(1, 2);
/* The same, only with SHMEM_DEBUG=1. */
SHMEMI_COLD void shmemi_debug(const char *fmt, ...) SHMEMI_PRINTF(1, 2);
/* The number shown in messages; -1 before it is known. */
void shmemi_log_set_pe(int pe);

/* Parsed environment, one member a row of environment.def. */
struct shmemi_env {
#define SHMEMI_ENV_SIZE size_t
#define SHMEMI_ENV_SECONDS double
#define SHMEMI_ENV_BOOL bool
#define SHMEMI_ENV_ANY bool
#define SHMEMI_ENV_INT long
#define SHMEMI_ENV_STRING const char *
#define SHMEMI_ENV_SECRET const char *
#define SHMEM_ENV(name, kind, dflt, text) SHMEMI_ENV_##kind name;
#include "environment.def"
#undef SHMEM_ENV
};
extern struct shmemi_env shmemi_env;
/* Reads all variables anew; a malformed value is SHMEMX_ERR_ARGUMENT with the variable's name in the message. */
int shmemi_env_read(const char *call);

/* Opens the first library of a NULL-terminated list that is there; NULL when none is, and then
 * *why (static storage a thread) says what was tried. */
void *shmemi_dl_open(const char *const *names, const char **why);
/* Looks for a library of which a process must have one copy, the one that MPI has or would open: first that in the
 * process, then the launcher's, one in a wheel beside ours, the system's, one beside the mpirun in PATH. `places`,
 * NULL-terminated, are folders below the launcher's lib (""), or where they start with "../" relative to the folder of
 * this library. `take` binds what it needs of a library; false = not this one. */
bool shmemi_dl_search(const char *file, const char *const *places, bool (*take)(void *handle));

/* The file of another OpenSHMEM library that the program is linked with, NULL = none. */
SHMEMI_COLD const char *shmemi_foreign_library(void);

/* Seconds on the monotonic clock. */
double shmemi_now(void);

#endif
