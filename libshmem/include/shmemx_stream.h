/* Calls that a GPU stream orders: each returns at once, and happens after what the stream holds already and before what
 * comes later. `stream` is a CUstream (cudaStream_t), NULL = the default stream. All can be captured in a CUDA graph.
 *
 * Addresses that must be symmetric are of the GPU heap (shmemx_malloc(size, SHMEMX_MEM_DEVICE)); the other side of a put
 * or a get may be any memory that the device reaches. PE numbers are the world's. Return 0 or a negative SHMEMX_ERR_*
 * for what can be seen now (arguments, launch); a wait that finds no end in SHMEM_TIMEOUT, or a PE out of range in a
 * kernel, is reported by the next shmemx_stream_check and by every call here after it.
 */
#ifndef SHMEMX_STREAM_H
#define SHMEMX_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include "shmem.h"

#ifdef __cplusplus
extern "C" {
#endif

/* dest [nbytes] on PE pe = source: complete at the target when what comes later in the stream begins. */
SHMEMX_API int shmemx_put_on_stream(void *dest, const void *source, size_t nbytes, int pe, void *stream);
/* dest = source [nbytes] of PE pe. */
SHMEMX_API int shmemx_get_on_stream(void *dest, const void *source, size_t nbytes, int pe, void *stream);
/* As put, then the 64-bit word sig_addr of PE pe is set, by the stream itself if the driver can, or added to, by a
 * kernel (SHMEM_SIGNAL_SET, _ADD). */
SHMEMX_API int shmemx_put_signal_on_stream(void *dest, const void *source, size_t nbytes, uint64_t *sig_addr,
                                           uint64_t signal, int sig_op, int pe, void *stream);
/* What comes later waits until this PE's word compares true (SHMEM_CMP_*, unsigned). */
SHMEMX_API int shmemx_signal_wait_on_stream(uint64_t *sig_addr, int cmp, uint64_t value, void *stream);
/* What comes later sees the library's own pending copies (put_nbi from the host) complete. */
SHMEMX_API int shmemx_quiet_on_stream(void *stream);
/* Collective over the team, in the order of each PE's stream: everybody's stream has arrived. One collective of a team at
 * a time: two streams of one PE must not be in collectives of the same team at once. */
SHMEMX_API int shmemx_barrier_on_stream(shmem_team_t team, void *stream);
/* As the host's collectives, on GPU memory; sizes in bytes, in elements for reduce. dest == source is allowed for
 * broadcast, reduce and scan. */
SHMEMX_API int shmemx_broadcast_on_stream(shmem_team_t team, void *dest, const void *source, size_t nbytes,
                                          int root, void *stream);
SHMEMX_API int shmemx_fcollect_on_stream(shmem_team_t team, void *dest, const void *source, size_t nbytes,
                                         void *stream);
SHMEMX_API int shmemx_alltoall_on_stream(shmem_team_t team, void *dest, const void *source, size_t nbytes,
                                         void *stream);
/* Bytes may differ between members; dest_nbytes is the room at dest, SIZE_MAX = to the end of the heap. A member with
 * too little room gets nothing, and shmemx_stream_check says so there; the others get theirs. */
SHMEMX_API int shmemx_collect_on_stream(shmem_team_t team, void *dest, size_t dest_nbytes, const void *source,
                                        size_t nbytes, void *stream);
/* Strides in elements of elem_size bytes. */
SHMEMX_API int shmemx_alltoalls_on_stream(shmem_team_t team, void *dest, const void *source, ptrdiff_t dst,
                                          ptrdiff_t sst, size_t elem_size, size_t nelems, void *stream);
/* type and op as for shmemx_reduce (no long double, no product of complex numbers); operands taken in the order of the members. */
SHMEMX_API int shmemx_reduce_on_stream(shmem_team_t team, int op, int type, void *dest, const void *source,
                                       size_t nelems, void *stream);
/* type and exclusive as for shmemx_scan (no long double); operands taken in the order of the members. */
SHMEMX_API int shmemx_scan_on_stream(shmem_team_t team, int exclusive, int type, void *dest,
                                     const void *source, size_t nelems, void *stream);
/* Has a kernel or a stream-ordered call of this PE reported an error? 0, or its code with the text in
 * shmemx_last_error; the report is then cleared. Does not wait for the stream. */
SHMEMX_API int shmemx_stream_check(void);

/* Makes the queue pairs that kernels post to themselves (SHMEM_GPU_NIC=ibgda) work again after an error, between all pairs of
 * members of the team. Collective over the team; no kernel of theirs that communicates may run meanwhile. For an error
 * whose cause is gone: a wrong address or key, memory that was freed, a link that was down.
 *
 * First ask shmemx_stream_check, which says what the error was. Of what kernels have posted from one member to another since
 * a quiet of theirs to that PE last returned true, each operation may have happened or be lost, in the order of each
 * queue pair; fetches have returned 0. Nothing of it happens after this call; all PEs outside of the team keep what they
 * have. On return every member's kernels may post to every other member.
 *
 * Returns 0, also where kernels reach the members in other ways and nothing was to do, or on every member the same kind of
 * error: PEER_DEAD, for a PE that has ended stays so, and other errors where a NIC refuses; the queue pairs then fail as
 * before. TEAM: no team of this PE. */
SHMEMX_API int shmemx_gpu_nic_recover(shmem_team_t team);

/* What kernels need, to be copied into a module's symbol shmem_device_state: struct shmemx_device_state of
 * device/state.h, `bytes` its size as the caller knows it. Opens the GPU heap if need be: the first call is collective.
 */
SHMEMX_API int shmemx_device_state(void *state, size_t bytes);
/* The number by which kernels know a team (enum shmem::team of shmem_device.h), the same on all members until it is
 * destroyed; or a negative error. */
SHMEMX_API int shmemx_team_device(shmem_team_t team);

/* The CPU's part of what `pyshmem doctor --gpu` and `pyshmem bench --gpu-nic` time; no job is needed. A kernel plays the
 * other part on words that both see, such as pinned host memory. All keep their processor busy.
 *
 * echo: waits until *in is first (acquire) and stores that to *out (release), then first + 1, and so on, n numbers in
 * all. TIMEOUT if one has not come timeout_ns after the one before.
 * messages: the same with data, from 1 on: once i is in *in, in[16], in[32] .. in[16 * words] hold i too, or are counted in
 * *old; then i is stored to out[16] .. out[16 * words], and released to *out.
 * add: adds 1 to *word n times, atomically for CPUs. */
SHMEMX_API int shmemx_gpu_echo(const uint64_t *in, uint64_t *out, uint64_t first, uint64_t n,
                               uint64_t timeout_ns);
SHMEMX_API int shmemx_gpu_messages(const uint64_t *in, uint64_t *out, uint64_t n, unsigned words,
                                   uint64_t *old, uint64_t timeout_ns);
SHMEMX_API void shmemx_gpu_add(uint64_t *word, uint64_t n);

#ifdef __cplusplus
}
#endif
#endif
