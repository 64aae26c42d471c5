/* Queue pairs of kernels, where rdma-core's headers were not there at build time (libibverbs-dev, rdma-core-devel). */
#include <stdio.h>

#include "ibgda.h"

int shmemi_ibgda_probe(char *why, size_t n)
{
    snprintf(why, n, "built without: no <infiniband/verbs.h> (libibverbs-dev)");
    return 0;
}

int shmemi_ibgda_open(const char *call, const struct shmemi_job *job, int segment)
{
    (void)job, (void)segment;
    char why[100];
    (void)shmemi_ibgda_probe(why, sizeof why);
    return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call, "ibgda: %s", why);
}

bool shmemi_ibgda_is_open(void)
{
    return false;
}

int shmemi_ibgda_card(void *card, size_t room)
{
    (void)card, (void)room;
    return SHMEMX_ERR_UNSUPPORTED;
}

size_t shmemi_ibgda_card_bytes(int npes)
{
    (void)npes;
    return 0;
}

int shmemi_ibgda_connect(const char *call, int pe, const void *card, size_t n)
{
    (void)call, (void)pe, (void)card, (void)n;
    return SHMEMX_ERR_UNSUPPORTED;
}

int shmemi_ibgda_expose(uint64_t offset, size_t n, void *key, size_t room)
{
    (void)offset, (void)n, (void)key, (void)room;
    return SHMEMX_ERR_UNSUPPORTED;
}

int shmemi_ibgda_learn(int pe, uint64_t offset, size_t n, const void *key, size_t key_bytes)
{
    (void)pe, (void)offset, (void)n, (void)key, (void)key_bytes;
    return SHMEMX_ERR_UNSUPPORTED;
}

uint64_t shmemi_ibgda_forget(uint64_t end)
{
    return end;
}

void shmemi_ibgda_drain(void) {}

bool shmemi_ibgda_settle(const char *call, int pe, struct shmemi_wait *w)
{
    (void)call, (void)pe, (void)w;
    return true;
}

uint32_t shmemi_ibgda_draw_psn(void)
{
    return 0;
}

int shmemi_ibgda_renew(const char *call, int pe, uint32_t psn)
{
    (void)call, (void)pe, (void)psn;
    return SHMEMX_ERR_UNSUPPORTED;
}

int shmemi_ibgda_view(const char *call, struct shmemx_device_nic *view, struct shmemx_device_ways *ways)
{
    (void)call, (void)view, (void)ways;
    return SHMEMX_ERR_UNSUPPORTED;
}

void shmemi_ibgda_close(void) {}
