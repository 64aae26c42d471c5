/* Faults of the calling process's software NIC, for tests: SHMEM_SIM_FAULTS while a job runs. */
#ifndef TESTS_SIM_FAULTS_H
#define TESTS_SIM_FAULTS_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stdlib.h>

/* From now on, counted from here; "" = none. false: no software NIC is open, or it has no such fault. */
static inline bool set_sim_faults(const char *text)
{
    void *nic = dlopen(getenv("SHMEM_IBVERBS_LIB"), RTLD_NOW | RTLD_NOLOAD);
    int (*set)(const char *) = NULL;
    if (nic)
        *(void **)&set = dlsym(nic, "shmem_sim_faults");
    return set && set(text) == 0;
}

#endif
