// What the programs over a NIC's path share: the job's state, and checks that are counted. For one source file each.
#ifndef NIC_CHECK_H
#define NIC_CHECK_H

#include "nic_job.h"

#include "shmem_device.h"
#include "shmemx_errors.h"

#include <atomic>
#include <cstdio>

static shmemx_device_state *state;
static std::atomic<unsigned long> failures{0}, passed{0};

/* A failed one is printed, the first 20 of a PE. */
#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        if (condition) {                                                                                     \
            passed.fetch_add(1, std::memory_order_relaxed);                                                  \
        } else if (failures.fetch_add(1) < 20) {                                                             \
            std::fprintf(stderr, "%s:%d: FAILED %s: PE %d: ", __FILE__, __LINE__, #condition, state->me);    \
            std::fprintf(stderr, __VA_ARGS__);                                                               \
            std::fputc('\n', stderr);                                                                        \
        }                                                                                                    \
    } while (0)

#endif
