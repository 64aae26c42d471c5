/* Checks shared by the stream-ordered calls. Layer: API. */
#ifndef SHMEMI_STREAM_H
#define SHMEMI_STREAM_H

#include "base/gpu.h"
#include "gpu/gpu_state.h"
#include "heap.h"
#include "shmemx_stream.h"

/* Initialized, with a GPU heap, and no kernel has reported an error. */
int shmemi_stream_ready(const char *call);
/* UNSUPPORTED where a member's GPU memory is on another host: streams have mapped memory alone. */
int shmemi_stream_reaches(const char *call, const int *pes, int n);
/* As shmemi_locate, in the GPU heap only. */
int shmemi_stream_locate(const char *call, const char *what, const void *addr, size_t n,
                         struct shmemi_place *p);

#endif
