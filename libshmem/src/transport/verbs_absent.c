/* Transport verbs, where rdma-core's headers were not there at build time (libibverbs-dev,
 * rdma-core-devel). */
#include <stdio.h>

#include "transport.h"

static int verbs_probe(char *why, size_t n)
{
    snprintf(why, n, "built without: no <infiniband/verbs.h> (libibverbs-dev)");
    return 0;
}

const struct shmemi_transport shmemi_transport_verbs = {.name = "verbs", .probe = verbs_probe};
