/* What kernels know of the job, kept in the GPU heap's first bytes and in pinned host memory; and the library's own
 * kernels. Layer: above the heap, below stream.c. */
#ifndef SHMEMI_GPU_STATE_H
#define SHMEMI_GPU_STATE_H

#include "device/state.h"
#include "gpu/gpu_kernels.h"
#include "team.h"

/* Bytes at the start of each PE's GPU heap: team table, member tables, sync words, packet slots. */
size_t shmemi_gpu_internal_bytes(int npes);
/* After the heap is mapped (its internal bytes are zero): writes the teams that exist. */
int shmemi_gpu_state_open(const char *call);
void shmemi_gpu_state_close(void);
bool shmemi_gpu_state_is_open(void);
const struct shmemx_device_state *shmemi_gpu_state(void);
/* A team was made in `slot` (collective over its members), or is gone. No-op without a GPU heap. */
int shmemi_gpu_team_made(const char *call, int slot, struct shmemi_team *t);
void shmemi_gpu_team_gone(int slot);

/* lines.c: is SHMEM_DEVICE_LINES one of its words? */
int shmemi_gpu_lines_settings(const char *call);
/* Collective, with the devices open: all PEs take one form of packets. */
int shmemi_gpu_lines_agree(const char *call);
bool shmemi_gpu_lines_whole(void);
/* For people. */
const char *shmemi_gpu_lines_text(char *text, size_t n);

/* Largest message of the packet path for a team, 0 = none (no slots, or stores of 128 bytes do not arrive whole). */
size_t shmemi_gpu_packet_bytes(int slot);
/* Where in each PE's heap the stage of quantized collectives is, and how large: words and slots, zero at first. */
size_t shmemi_gpu_stage(uint64_t *offset);
/* The first error that kernels of this PE reported since it was last asked: 0, or logged. */
int shmemi_gpu_mailbox(const char *call);

#endif
