/* Which way of starting: SHMEM_BOOTSTRAP names one, or auto takes the first that is present. */
#include "bootstrap.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { WHY_BYTES = 240, WAYS = 5 };
static const char *const way_names[WAYS] = {"uid", "pmix", "pmi", "env", "single"}; /* the order of auto */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char report[WAYS][WHY_BYTES]; /* of the last open */
static bool opened_once;

/* 1 = opened, 0 = not present, negative = failed. */
static int try_way(int way, struct shmemi_bootstrap *b, const struct shmemi_bootstrap_request *req, char *why)
{
    switch (way) {
    case 0:
        if (req == NULL || req->uid == NULL) {
            snprintf(why, WHY_BYTES, "the program gave no unique id");
            return 0;
        }
        return shmemi_bootstrap_tcp(b, req);
    case 1:
        return shmemi_bootstrap_pmix(b, why, WHY_BYTES);
    case 2:
        return shmemi_bootstrap_pmi(b, why, WHY_BYTES);
    case 3:
        return shmemi_bootstrap_env(b, why, WHY_BYTES);
    default:
        return shmemi_bootstrap_single(b);
    }
}

static void note(int way, const char *text)
{
    pthread_mutex_lock(&lock);
    snprintf(report[way], WHY_BYTES, "%s", text);
    pthread_mutex_unlock(&lock);
}

int shmemi_bootstrap_open(struct shmemi_bootstrap *b, const struct shmemi_bootstrap_request *req)
{
    static const char call[] = "shmem_init";
    if (shmemi_env.BOOTSTRAP == NULL) {
        int status = shmemi_env_read(call);
        if (status != SHMEMX_SUCCESS)
            return status;
    }
    const char *wanted = shmemi_env.BOOTSTRAP;
    int only = -1;
    for (int way = 0; way < WAYS; way++)
        if (strcmp(wanted, way_names[way]) == 0)
            only = way;
    if (only < 0 && strcmp(wanted, "auto") != 0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "SHMEM_BOOTSTRAP=\"%.40s\" is none of auto, pmix, pmi, env, uid, single", wanted);
    if (req && req->uid && only < 0)
        only = 0; /* a program that brings an id means it, whatever launched it */
    bool given = strcmp(wanted, "auto") != 0;
    opened_once = true;
    for (int way = 0; way < WAYS; way++)
        note(way, only >= 0 && way != only
                      ? given ? "not wanted (SHMEM_BOOTSTRAP)" : "not wanted (a unique id was given)"
                      : "not reached");
    for (int way = only < 0 ? 0 : only; way < WAYS; way++) {
        char why[WHY_BYTES] = "";
        memset(b, 0, sizeof *b);
        int status = try_way(way, b, req, why);
        if (status > 0) {
            char text[WHY_BYTES];
            snprintf(text, sizeof text, "chosen: PE %d of %d, %s", b->rank, b->size, b->detail);
            note(way, text);
            shmemi_debug("bootstrap %s: PE %d of %d, %s", b->name, b->rank, b->size, b->detail);
            return SHMEMX_SUCCESS;
        }
        if (status < 0) {
            char text[WHY_BYTES];
            snprintf(text, sizeof text, "failed: %.200s", shmemx_last_error());
            note(way, text);
            return status;
        }
        note(way, why);
        shmemi_debug("bootstrap %s: %s", way_names[way], why);
        if (only >= 0)
            return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call, "SHMEM_BOOTSTRAP=%s: %s", wanted, why);
    }
    return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call, "no way to start"); /* single always opens */
}

void shmemi_bootstrap_report(char *text, size_t n)
{
    size_t used = 0;
    if (n == 0)
        return;
    text[0] = 0;
    pthread_mutex_lock(&lock);
    for (int way = 0; way < WAYS && used < n; way++)
        used += (size_t)snprintf(text + used, n - used, "%s: %s\n", way_names[way],
                                 opened_once ? report[way] : "not tried yet");
    pthread_mutex_unlock(&lock);
}
