/* Inside the GPU heap: the two ways in which the processes of a node share it, behind one table.
 *
 * A way fills the device segment (transport.h) and keeps it true. All work of allocation is heap_gpu.c's. */
#ifndef SHMEMI_HEAP_GPU_H
#define SHMEMI_HEAP_GPU_H

#include "alloc.h"
#include "heap.h"

struct shmemi_sharing {
    const char *name; /* the word of SHMEM_DEVICE_SHARING */
    /* Local: this PE's part, with base and stride (the room of a copy) in the segment. The device is open. */
    int (*open)(const char *call);
    /* Collective, after all have opened: rooms are equal, and everybody can reach everybody. */
    int (*meet)(const char *call);
    /* Collective: at least `bytes` more in every copy, mapped everywhere (the segment's `bytes` says how much), or an
     * error everywhere. */
    int (*grow)(const char *call, size_t bytes);
    /* Gives back what is free at the end of the heap; all PEs do the same. */
    void (*trim)(struct shmemi_alloc *a);
    /* Local: closes what belongs to others, which must be so on all PEs before one closes. NULL = they do not care. */
    void (*leave)(void);
    /* Local; frees all, also after a failure of any of the above. */
    void (*close)(void);
};
extern const struct shmemi_sharing shmemi_sharing_vmm, shmemi_sharing_ipc;

static inline struct shmemi_segment *shmemi_gpu_segment(void)
{
    return &shmemi_world.segments[SHMEMI_SEGMENT_DEVICE];
}

/* MISMATCH: PE `pe` has another room than this one. */
SHMEMI_COLD int shmemi_other_room(const char *call, int pe, size_t theirs, size_t grain);

#endif
