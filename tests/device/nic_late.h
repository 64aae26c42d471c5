/* A transport that owes nobody any haste, before another one: what a network may do to a proxy's operations. Puts, signals
 * and atomics take place up to so long after the call, in any order that fences allow, and read their source then; gets
 * without a wait write their destination then. quiet waits for all of it. */
#ifndef NIC_LATE_H
#define NIC_LATE_H

#ifdef __cplusplus
extern "C" {
#endif

/* Stands before this PE's transport to each PE of another node, microseconds at most. Ends with nic_late_close. */
void nic_late_open(unsigned most_us);
void nic_late_close(void);

#ifdef __cplusplus
}
#endif
#endif
