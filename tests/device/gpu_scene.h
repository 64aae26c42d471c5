/* A job for the GPU programs of this folder: one process, one PE a GPU, no libshmem host side. Each GPU's
 * copy of the heap is mapped by every GPU at base + pe * stride (CUDA VMM), as the library does between
 * processes. */
#ifndef GPU_SCENE_H
#define GPU_SCENE_H

#include "shmem_device.h"

#include <cuda.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define CUDA(call)                                                                                           \
    do {                                                                                                     \
        auto rc_ = (call);                                                                                   \
        if (rc_ != decltype(rc_)(0)) {                                                                       \
            std::fprintf(stderr, "%s:%d: %s: error %d\n", __FILE__, __LINE__, #call, static_cast<int>(rc_)); \
            std::exit(1);                                                                                    \
        }                                                                                                    \
    } while (0)

/* A function of the driver, by name: linking needs no libcuda.so, which build machines lack. */
template <class Function> Function driver(const char *name)
{
    static void *library = dlopen("libcuda.so.1", RTLD_NOW);
    void *found = library == nullptr ? nullptr : dlsym(library, name);
    if (found == nullptr) {
        std::fprintf(stderr, "libcuda.so.1 has no %s, or is not here\n", name);
        std::exit(1);
    }
    return reinterpret_cast<Function>(found);
}
#define DRIVER(function) driver<decltype(&function)>(#function)

struct gpu_scene {
    static constexpr size_t slot_bytes = 32768, team_bytes = 2 << 20;
    int n;
    size_t stride, user; // bytes of one copy; offset where tests may write
    char *base;
    std::vector<shmemx_device_state> states;
    std::vector<shmemx_device_error *> boxes;
    std::vector<cudaStream_t> streams;

    gpu_scene(int npes, size_t bytes, unsigned flags) : n(npes), states(npes), boxes(npes), streams(npes)
    {
        CUDA(DRIVER(cuInit)(0));
        std::vector<CUmemAccessDesc> access(n);
        size_t grain = 2 << 20;
        stride = (bytes + team_bytes + grain - 1) / grain * grain;
        user = team_bytes;
        for (int g = 0; g < n; ++g) {
            CUDA(cudaSetDevice(g));
            CUDA(cudaFree(nullptr)); // makes the context
            CUDA(cudaStreamCreateWithFlags(&streams[g], cudaStreamNonBlocking));
            access[g].location = {CU_MEM_LOCATION_TYPE_DEVICE, g};
            access[g].flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
        }
        CUdeviceptr at;
        CUDA(DRIVER(cuMemAddressReserve)(&at, stride * n, 0, 0, 0));
        base = reinterpret_cast<char *>(at);
        for (int g = 0; g < n; ++g) {
            CUmemAllocationProp prop = {};
            prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
            prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, g};
            CUmemGenericAllocationHandle memory;
            CUDA(DRIVER(cuMemCreate)(&memory, stride, &prop, 0));
            CUDA(DRIVER(cuMemMap)(at + g * stride, stride, 0, memory, 0));
        }
        CUDA(DRIVER(cuMemSetAccess)(at, stride * n, access.data(), n));
        for (int g = 0; g < n; ++g) {
            CUDA(cudaSetDevice(g));
            CUDA(cudaMemset(base + g * stride, 0, stride));
            CUDA(cudaHostAlloc(&boxes[g], sizeof *boxes[g], cudaHostAllocPortable | cudaHostAllocMapped));
            std::memset(boxes[g], 0, sizeof *boxes[g]);
            shmemx_device_team world = {};
            world.me = g;
            world.n = n;
            world.stride = 1;
            world.packets = 4096;
            world.slot_bytes = slot_bytes;
            shmemx_device_team *teams;
            CUDA(cudaMalloc(&teams, 3 * sizeof world)); // and the mailbox's claim
            CUDA(cudaMemset(teams, 0, 3 * sizeof world));
            CUDA(cudaMemcpy(teams, &world, sizeof world, cudaMemcpyHostToDevice));
            world.sync = team_bytes / 2;
            world.packets = team_bytes / 2 + 4096;
            CUDA(cudaMemcpy(teams + 1, &world, sizeof world, cudaMemcpyHostToDevice));
            shmemx_device_state &s = states[g];
            s = {};
            s.version = SHMEMX_DEVICE_STATE_VERSION;
            s.me = g;
            s.npes = n;
            s.heap = at;
            s.stride = stride;
            s.bytes = stride;
            s.mailbox = reinterpret_cast<unsigned long long>(boxes[g]);
            s.timeout_ns = 4'000'000'000;
            s.teams = reinterpret_cast<unsigned long long>(teams);
            s.nteams = 2;
            s.claim = reinterpret_cast<unsigned long long>(teams + 2);
            s.copy = at + g * stride;
            s.world_slot_bytes = slot_bytes;
            s.world_packets = 4096;
        }
        set_flags(flags);
    }
    void set_flags(unsigned flags)
    {
        for (int g = 0; g < n; ++g) {
            states[g].flags = flags;
            CUDA(cudaSetDevice(g));
            CUDA(cudaMemcpyToSymbol(shmem_device_state, &states[g], sizeof states[g]));
            CUDA(cudaDeviceSynchronize());
        }
    }
    /* PE g's copy of what tests may write, at an offset. */
    template <class T> T *at(int g, size_t offset) const
    {
        return reinterpret_cast<T *>(base + g * stride + user + offset);
    }
    /* start(g) launches on streams[g]; then waits for all. False, with the mailboxes printed, if something
     * went wrong. */
    template <class Start> bool run(Start start)
    {
        for (int g = 0; g < n; ++g) {
            CUDA(cudaSetDevice(g));
            start(g);
            CUDA(cudaGetLastError());
        }
        bool ok = true;
        for (int g = 0; g < n; ++g) {
            CUDA(cudaSetDevice(g));
            CUDA(cudaStreamSynchronize(streams[g]));
            if (boxes[g]->kind != 0) {
                const shmemx_device_error &e = *boxes[g];
                std::fprintf(stderr,
                             "PE %d: mailbox: kind %u call %u pe %d block %u thread %u address %#llx value "
                             "%llu expected %llu\n",
                             g, e.kind, e.call, e.pe, e.block, e.thread, e.address, e.value, e.expected);
                std::memset(boxes[g], 0, sizeof *boxes[g]);
                CUDA(cudaMemset(reinterpret_cast<void *>(states[g].claim), 0, sizeof(unsigned)));
                ok = false;
            }
        }
        return ok;
    }
};

#endif
