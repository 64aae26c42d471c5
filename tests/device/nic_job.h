/* A job of processes whose "kernels" are CPU threads: what kernels know of it, with the PEs of other nodes unmapped, so that
 * the device API takes the path of SHMEM_GPU_NIC. For the tests of those paths. The memory is the host heap, or, with
 * NIC_JOB_MEMORY=gpu in the environment, the GPU heap on tests/c/fake_cuda.c, whose memory CPU threads reach. With
 * NIC_JOB_LATE_US=N the proxy's transport takes its time: nic_late.h. With NIC_JOB_BEYOND=N the test's memory in the host heap
 * lies behind N bytes that nobody touches. */
#ifndef NIC_JOB_H
#define NIC_JOB_H

#include "device/nic_state.h"
#include "device/state.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Device teams of every job: those of shmem_device.h, the even PEs, and all PEs in reverse order, by a table and without
 * packet slots (in the GPU heap: all PEs once more). In the host heap the PEs of the own number in all nodes, too, if all
 * nodes have as many. */
enum { NIC_JOB_EVEN = 2, NIC_JOB_REVERSED = 3, NIC_JOB_COLUMN = 4, NIC_JOB_TEAMS = 5 };

/* shmemx_init and what it says, with the log off; finalize. (C++ that names the struct shmemx_device_state cannot include
 * shmemx.h, which has a function of that name.) */
int nic_job_init(void);
const char *nic_job_last_error(void);
const char *nic_job_error_name(int code);
void nic_job_finalize(void);
void nic_job_log(int on);

/* Collective, after nic_job_init. `bytes` of symmetric memory for the test, in *memory, zeroed. */
struct shmemx_device_state *nic_job_open(unsigned long bytes, void **memory, double timeout);
/* Collective, instead: the error where no path can be opened, 0 = it was opened, and is closed again. */
int nic_job_refused(void);
/* The kernels have ended: what they posted is done with. Then a barrier of all PEs. */
void nic_job_meet(void);
/* The first error of a path since it was last asked, 0 = none. */
int nic_job_error(char *text, unsigned long n);
/* Path ibgda: this PE's memory is no longer for its peers' NICs, as if it were freed. */
void nic_job_unregister(void);
const struct shmemx_device_error *nic_job_note(void);
void nic_job_forget_note(void);
/* Collective over PEs 0 to n - 1: their queue pairs anew. Others return 0. */
int nic_job_recover(int n);
/* From now on this PE's transport to that one fails with this error in every put, or, with 0, works again. */
void nic_job_break(int pe, int error);
/* One line for each way that kernels take. */
void nic_job_ways(char *text, unsigned long n);
/* shmemx_info's text. */
void nic_job_info(char *text, unsigned long n);
/* Collective: more symmetric memory, of the heap that kernels use, zeroed; given back at the end. */
void *nic_job_more(unsigned long bytes);
/* Collective: the same where it must fail; this PE's software NIC, if `broken`, registers nothing meanwhile. The error. */
int nic_job_no_more(unsigned long bytes, int broken, char *text, unsigned long n);
/* Bytes of that heap. */
unsigned long nic_job_heap(void);
void nic_job_give(void *memory);
void nic_job_close(void);

#ifdef __cplusplus
}
#endif
#endif
