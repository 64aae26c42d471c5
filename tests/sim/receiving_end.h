/* A queue pair that a kernel posts to, connected to one with receives, of two software NICs that are driven step by step: for
 * programs in C++, which cannot include engine.h. */
#ifndef SIM_RECEIVING_END_H
#define SIM_RECEIVING_END_H

#include "device/ibgda_state.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What has come by a receive; opcode -1: nothing. */
struct receiving_arrival {
    int opcode;
    unsigned bytes, imm, counter;
};

/* Fills the queue pair; its memory, of `bytes` bytes each, here and there. */
void receiving_open(struct shmemx_ibgda_qp *q, unsigned char **here, const unsigned char **there,
                    unsigned long *bytes);
/* At the other end, for no bytes: what comes is written by its sender. */
void receiving_post(void);
void receiving_run(void);
struct receiving_arrival receiving_next(void);
unsigned receiving_violations(void);
void receiving_close(void);

#ifdef __cplusplus
}
#endif
#endif
