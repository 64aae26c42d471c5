/* Which stages of this PE are taken. */
#include <pthread.h>

#include "quant.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool taken[SHMEMI_STAGES];

static uint64_t offset_of(int stage)
{
    return shmemi_world.internal_bytes - (size_t)(SHMEMI_STAGES - stage) * SHMEMI_STAGE_BYTES;
}

int shmemi_stage_take(const char *call, uint64_t *offset)
{
    int found = -1;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < SHMEMI_STAGES && found < 0; ++i)
        if (!taken[i]) {
            taken[i] = true;
            found = i;
        }
    pthread_mutex_unlock(&lock);
    if (found < 0)
        return shmemi_fail(SHMEMX_ERR_LIMIT, call,
                           "%d quantized collectives of this PE are under way, the most that can be",
                           SHMEMI_STAGES);
    *offset = offset_of(found);
    return SHMEMX_SUCCESS;
}

void shmemi_stage_give(uint64_t offset)
{
    pthread_mutex_lock(&lock);
    taken[(offset - offset_of(0)) / SHMEMI_STAGE_BYTES] = false;
    pthread_mutex_unlock(&lock);
}
