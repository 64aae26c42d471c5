/* Queue pairs that kernels post to themselves (device/ibgda.h): what makes and connects them. mlx5 NICs alone, by DevX,
 * since a kernel must know the format of the queues and where they lie.
 *
 *   ibgda.c          opening, cards, connecting, what kernels see, closing
 *   ibgda_objects.c  a queue pair: its memory, its registers, its completion queue, the steps of its state
 *   ibgda_memory.c   keys of the heap, chunk by chunk; memory for queues; tables for kernels
 *   ibgda_settle.c   what the host does in a kernel's place: takes completion entries, begins a queue pair anew
 *   ibgda_error.c    what a kernel's note about a NIC says
 *   mlx5_lib.c       libmlx5
 *
 * In the order of the calls: probe; open; card, which peers get; connect for each PE that is to be reached; expose and learn
 * for each chunk of the heap; view. Later chunks: expose, learn, view. It is no row of transports.def: the host goes by
 * the transports; src/gpu_nic.c decides for kernels. One caller at a time.
 */
#ifndef SHMEMI_IBGDA_H
#define SHMEMI_IBGDA_H

#include "device/ibgda_state.h"
#include "device/nic_state.h"
#include "device/state.h"
#include "base/wait.h"
#include "transport.h"

/* Can it work here? 1 yes, `why` says by what; 0 no, `why` says what is missing and what to do. Local, leaves nothing open. */
int shmemi_ibgda_probe(char *why, size_t n);
/* Opens a port and makes SHMEM_IBGDA_QPS queue pairs to every other PE of the job. segment: the one that kernels use; if it is
 * the GPU's, queues and what kernels count lie where a GPU gets at them. Local. After an error nothing is left open. */
int shmemi_ibgda_open(const char *call, const struct shmemi_job *job, int segment);
bool shmemi_ibgda_is_open(void);
/* What peers must know: at most `room` bytes, returns how many; negative = error. */
int shmemi_ibgda_card(void *card, size_t room);
size_t shmemi_ibgda_card_bytes(int npes);
/* To a PE, whose card it is; not to this one. 0, or an error. May block for the network, not for the peer. */
int shmemi_ibgda_connect(const char *call, int pe, const void *card, size_t n);
/* As the slots of transport.h, for the segment that was opened. */
int shmemi_ibgda_expose(uint64_t offset, size_t n, void *key, size_t room);
int shmemi_ibgda_learn(int pe, uint64_t offset, size_t n, const void *key, size_t key_bytes);
/* Gives up the chunks that end behind `end`. Returns where the rest ends. */
uint64_t shmemi_ibgda_forget(uint64_t end);
/* Fills what kernels need of it, ibgda of *view, qp and qps of *ways, with all that was learned so far. No kernel that
 * posts may run meanwhile. What is in *ways stays; the other address may change. */
int shmemi_ibgda_view(const char *call, struct shmemx_device_nic *view, struct shmemx_device_ways *ways);
/* No kernel that posts runs any more: waits until the NIC is done with what they have posted, or cannot be. Logs the
 * latter, unless a kernel has seen it. */
void shmemi_ibgda_drain(void);
/* Queue pairs to a PE anew, whatever state they are in. Both ends do these, with no kernel that posts: settle, as drain;
 * then, when both have, renew, with what the peer's draw_psn has returned. They may be used when both ends have returned.
 * draw_psn: the number of the first packet of what is connected from now on; one that is still under way has another.
 * settle: *w is the wait for all of them, so that many which stand still take one deadline; NULL: only takes what is there;
 * false: the deadline is over.
 * renew: 0, or an error; then kernels find it failed as before. What was posted and is not complete is lost. */
bool shmemi_ibgda_settle(const char *call, int pe, struct shmemi_wait *w);
uint32_t shmemi_ibgda_draw_psn(void);
int shmemi_ibgda_renew(const char *call, int pe, uint32_t psn);
/* Nothing is posted any more. Frees all; peers may be gone already. */
void shmemi_ibgda_close(void);
/* The text of a note of kind SHMEMX_DEVICE_NIC. Returns the SHMEMX_ERR_* that it stands for. */
int shmemi_ibgda_explain(const struct shmemx_device_error *e, char *text, size_t n);

#endif
