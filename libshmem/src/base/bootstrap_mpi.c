/* An id carried by MPI, where an initialized MPI has the only connection to the process manager: MPICH and its relatives,
 * whose handles are numbers that their common ABI fixes (libmpi.so.12). Nothing is linked: MPI's calls are looked up in the
 * process. */
#define _GNU_SOURCE
#include "bootstrap.h"

#include <dlfcn.h>
#include <string.h>

enum { MPICH_COMM_WORLD = 0x44000000, MPICH_BYTE = 0x4c00010d };

static void *symbol(const char *name)
{
    static const char *const libraries[] = {"libmpi.so.12", "libmpich.so.12", "libmpi.so", "libmpi.so.40"};
    void *found = dlsym(RTLD_DEFAULT, name);
    for (size_t i = 0; !found && i < sizeof libraries / sizeof *libraries; i++) {
        void *handle = dlopen(libraries[i], RTLD_LAZY | RTLD_NOLOAD);
        found = handle ? dlsym(handle, name) : NULL;
        if (handle)
            dlclose(handle); /* it was there before */
    }
    return found;
}

static bool says_yes(const char *name)
{
    int (*ask)(int *) = (int (*)(int *))symbol(name), flag = 0;
    return ask && ask(&flag) == 0 && flag;
}

bool shmemi_mpi_initialized(void)
{
    return says_yes("MPI_Initialized");
}

int shmemi_bootstrap_mpi(struct shmemi_bootstrap *b)
{
    const char *call = "shmem_init";
    int (*comm_rank)(int, int *) = (int (*)(int, int *))symbol("MPI_Comm_rank");
    int (*comm_size)(int, int *) = (int (*)(int, int *))symbol("MPI_Comm_size");
    int (*bcast)(void *, int, int, int, int) = (int (*)(void *, int, int, int, int))symbol("MPI_Bcast");
    Dl_info where = {0};
    bool known = comm_rank && comm_size && bcast && dladdr((void *)bcast, &where) &&
                 (strstr(where.dli_fname, "libmpi.so.12") || strstr(where.dli_fname, "libmpich.so.12"));
    if (!known || says_yes("MPI_Finalized"))
        return shmemi_fail(
            SHMEMX_ERR_BOOTSTRAP, call,
            "MPI has the connection to the process manager and cannot help: %s; call shmem_init while MPI is "
            "initialized, or hand over an id (shmemx_init_uid), as pyshmem.init(comm) does",
            known ? "it is finalized" : "it is no MPICH whose handles libshmem knows");
    int rank = 0, size = 1;
    struct {
        int32_t status;
        unsigned char uid[SHMEMI_UID_BYTES];
    } card = {0};
    if (comm_rank(MPICH_COMM_WORLD, &rank) != 0 || comm_size(MPICH_COMM_WORLD, &size) != 0)
        return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call, "MPI does not tell this process's rank");
    if (rank == 0)
        card.status = shmemi_bootstrap_uid(card.uid);
    if (bcast(&card, (int)sizeof card, MPICH_BYTE, 0, MPICH_COMM_WORLD) != 0)
        return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call, "MPI_Bcast of the job's id failed");
    if (card.status)
        return rank == 0 ? card.status
                         : shmemi_fail(card.status, call,
                                       "rank 0 could not make the job's id; its own message says why");
    const struct shmemi_bootstrap_request request = {rank, size, card.uid};
    return shmemi_bootstrap_tcp(b, &request);
}
