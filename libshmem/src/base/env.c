/* The environment: one parser a kind, one row a variable (environment.def). And the clock. */
#include "base.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

struct shmemi_env shmemi_env;

double shmemi_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The table need not have a row of every kind. */
#define PARSER __attribute__((unused)) static

static const char *skip_space(const char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    return s;
}

/* "1536", "64M", "3.1m", ".5G": OpenSHMEM's rule, also that what follows the multiplier (as in
 * "2GB", "2GiB") is ignored. A fraction of a byte is rounded up. */
PARSER bool parse_SIZE(const char *s, size_t *out)
{
    s = skip_space(s);
    if (!isdigit((unsigned char)*s) && *s != '.')
        return false;
    if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X'))
        return false; /* strtod would take it */
    char *end;
    errno = 0;
    double number = strtod(s, &end);
    if (end == s || errno != 0 || !isfinite(number))
        return false;
    static const char suffix[] = "kmgt";
    double scale = 1;
    if (*end && !isspace((unsigned char)*end)) {
        const char *at = strchr(suffix, tolower((unsigned char)*end));
        if (at == NULL)
            return false;
        for (const char *p = suffix; p <= at; p++)
            scale *= 1024;
    } else if (*skip_space(end)) {
        return false;
    }
    double bytes = ceil(number * scale);
    if (bytes >= 0x1p63)
        return false;
    *out = (size_t)bytes;
    return true;
}

PARSER bool parse_SECONDS(const char *s, double *out)
{
    s = skip_space(s);
    if (!isdigit((unsigned char)*s) && *s != '.')
        return false;
    char *end;
    double seconds = strtod(s, &end);
    if (end == s || *skip_space(end) || !isfinite(seconds) || seconds > 1e9)
        return false;
    *out = seconds;
    return true;
}

PARSER bool parse_BOOL(const char *s, bool *out)
{
    static const struct {
        const char *word;
        bool value;
    } words[] = {{"0", false},   {"1", true},  {"no", false},    {"yes", true},
                 {"off", false}, {"on", true}, {"false", false}, {"true", true}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(s, words[i].word) == 0) {
            *out = words[i].value;
            return true;
        }
    return false;
}

/* The specification's own switches: any value is on; but those that mean off are not. */
PARSER bool parse_ANY(const char *s, bool *out)
{
    if (!parse_BOOL(s, out))
        *out = true;
    return true;
}

PARSER bool parse_INT(const char *s, long *out)
{
    char *end;
    errno = 0;
    long number = strtol(s, &end, 10);
    if (end == s || *skip_space(end) || errno != 0)
        return false;
    *out = number;
    return true;
}

/* A copy: the environment's own storage moves when the program calls setenv. */
PARSER bool parse_STRING(const char *s, const char **out)
{
    *out = strdup(s);
    return *out != NULL;
}

PARSER bool parse_SECRET(const char *s, const char **out)
{
    return parse_STRING(s, out);
}

PARSER const char kind_SIZE[] = "bytes, with a suffix K, M, G or T if wanted (64M)";
PARSER const char kind_SECONDS[] = "seconds, not negative (2.5)";
PARSER const char kind_BOOL[] = "0, 1, no, yes, off or on";
PARSER const char kind_ANY[] = "anything; 0, no or off is off";
PARSER const char kind_INT[] = "a whole number";
PARSER const char kind_STRING[] = "text";
PARSER const char kind_SECRET[] = "text";

PARSER void free_STRING(const char **s)
{
    free((char *)*s);
    *s = NULL;
}
PARSER void free_SECRET(const char **s)
{
    free_STRING(s);
}
PARSER void free_SIZE(size_t *s)
{
    (void)s;
}
PARSER void free_SECONDS(double *s)
{
    (void)s;
}
PARSER void free_BOOL(bool *s)
{
    (void)s;
}
PARSER void free_ANY(bool *s)
{
    (void)s;
}
PARSER void free_INT(long *s)
{
    (void)s;
}

static void release(struct shmemi_env *env)
{
#define SHMEM_ENV(name, kind, dflt, text) free_##kind(&env->name);
#include "environment.def"
#undef SHMEM_ENV
}

/* An empty variable counts as unset: `SHMEM_DEBUG= prog` is how a shell clears one. Four had SMA_ in front before OpenSHMEM
 * 1.4, which the specification keeps. */
static const char *lookup(const char *name)
{
    static const char *const old[] = {"VERSION", "INFO", "SYMMETRIC_SIZE", "DEBUG"};
    char variable[64];
    snprintf(variable, sizeof variable, "SHMEM_%s", name);
    const char *value = getenv(variable);
    for (size_t i = 0; (!value || !*value) && i < sizeof old / sizeof *old; i++)
        if (strcmp(name, old[i]) == 0) {
            snprintf(variable, sizeof variable, "SMA_%s", name);
            value = getenv(variable);
        }
    return value && *value ? value : NULL;
}

int shmemi_env_read(const char *call)
{
    struct shmemi_env fresh;
    memset(&fresh, 0, sizeof fresh);
    const char *value;
#define SHMEM_ENV(name, kind, dflt, text)                                                                    \
    value = lookup(#name);                                                                                   \
    if (value == NULL)                                                                                       \
        value = dflt;                                                                                        \
    if (!parse_##kind(value, &fresh.name)) {                                                                 \
        release(&fresh);                                                                                     \
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,                                                        \
                           "environment variable SHMEM_" #name "=\"%.100s\" is not understood; wanted: %s",  \
                           value, kind_##kind);                                                              \
    }
#include "environment.def"
#undef SHMEM_ENV
    release(&shmemi_env);
    shmemi_env = fresh;
    return SHMEMX_SUCCESS;
}
