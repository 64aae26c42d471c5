// The symmetric memory of test_nic.cpp and how its kernels run. For one source file.
#ifndef NIC_SCENE_H
#define NIC_SCENE_H

#include "nic_check.h"

#include <cstring>

using namespace shmem;
using uchar = unsigned char;

static uchar *memory; // symmetric
static constexpr std::size_t half = 1 << 18, memory_bytes = 4 * half;

static uchar pattern(std::size_t i, unsigned salt, int pe)
{
    return static_cast<uchar>(i * 131 + (i >> 8) * 7 + salt * 29 + static_cast<unsigned>(pe) * 59 + 1);
}
template <class T> static T *at(std::size_t offset)
{
    return reinterpret_cast<T *>(memory + offset);
}
template <class Kernel> static void run(unsigned blocks, unsigned threads, Kernel kernel)
{
    host::launch(*state, blocks, threads, 16384 + 128, kernel);
}
/* A kernel on all PEs, and all have done what it posted. */
template <class Kernel> static void step(unsigned blocks, unsigned threads, Kernel kernel)
{
    run(blocks, threads, kernel);
    nic_job_meet();
}
static int next_pe()
{
    return (my_pe() + 1) % n_pes();
}

#endif
