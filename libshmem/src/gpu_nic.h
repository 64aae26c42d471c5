/* How this PE's kernels reach the PEs whose memory they cannot load and store: SHMEM_GPU_NIC. Chooses a path for every PE,
 * keeps struct shmemx_device_nic in the kernels' memory, starts and ends what the paths need. Layer: above the routes, below
 * gpu/gpu_state.c. */
#ifndef SHMEMI_GPU_NIC_H
#define SHMEMI_GPU_NIC_H

#include "device/nic_state.h"
#include "device/state.h"
#include "proxy.h"

struct shmemi_team;

/* Is SHMEM_GPU_NIC one of its words, and are the numbers right? */
int shmemi_gpu_nic_settings(const char *call);
/* Collective: all PEs have the same word. */
int shmemi_gpu_nic_agree(const char *call);
/* Local. SHMEMX_NIC_* for a PE and the segment that kernels' commands are about; negative = it cannot be reached, and
 * `why` says what is missing. */
int shmemi_gpu_nic_choice(int pe, int segment, char *why, size_t n);
/* Local, whether paths are open or not: do kernels reach that PE's GPU memory by a NIC's path alone? Of a team's members all say
 * that there is such a PE, or none: those that are mapped are mapped by each other. */
bool shmemi_gpu_nic_far(int pe);
/* Bytes of kernels' memory that it may want. */
size_t shmemi_gpu_nic_bytes(int npes);
/* Local, with the segment's routes open. state->nic gets the address of struct shmemx_device_nic, which `device`, 64-byte
 * aligned, has room for, and state->ways what belongs to it; nic 0 = every PE is mapped. After an error nothing is left. */
int shmemi_gpu_nic_open(const char *call, const struct shmemi_kernel_memory *m, char *device,
                        struct shmemx_device_state *state);
/* Bits 1 << SHMEMX_NIC_*: the paths that are open. */
unsigned shmemi_gpu_nic_used(void);
/* Members of a team, by their world numbers, that are not mapped. */
unsigned shmemi_gpu_nic_unmapped(const int *pes, int n);
/* Waits until what kernels have posted to the host is done with. */
void shmemi_gpu_nic_drain(void);
void shmemi_gpu_nic_close(void);
/* Collective: the segment has grown or shrunk; kernels reach all of it afterwards. None may run meanwhile. */
int shmemi_gpu_nic_resize(const char *call);
/* The first error of a path since it was last asked: its code, with the cause in `text`; 0 = none. */
int shmemi_gpu_nic_error(char *text, size_t n);
/* The host has what kernels had to say: their waits are waits again. */
void shmemi_gpu_nic_go_on(void);
/* One line for PEs in a row that kernels reach in one way, for shmemx_info; "" without a GPU heap. */
void shmemi_gpu_nic_table(char *text, size_t n);

/* ---- gpu_nic_ibgda.c ---- */
/* Collective. Opens it on all PEs or on none: then only = true makes that an error. */
int shmemi_gpu_nic_ibgda_open(const char *call, int segment, bool only);
/* Why it did not open, in this PE's view; "" = it did, or nobody has tried. */
const char *shmemi_gpu_nic_ibgda_lacks(void);
/* Has the segment another size than what is registered? The same on all PEs. */
bool shmemi_gpu_nic_ibgda_stale(void);
/* Collective: registers what is new, gives up what is gone; what kernels see, in *view. */
int shmemi_gpu_nic_ibgda_resize(const char *call, struct shmemx_device_nic *view,
                                struct shmemx_device_ways *ways);
/* Collective over the team: the queue pairs between its members anew. None of their kernels may run meanwhile. */
int shmemi_gpu_nic_ibgda_recover(const char *call, struct shmemi_team *t);
void shmemi_gpu_nic_ibgda_close(void);

#endif
