/* What the provider has told its kernel (fake_uverbs.c), and the pages that it believes to be doorbells. */
#ifndef FAKE_UVERBS_H
#define FAKE_UVERBS_H

#include <stddef.h>
#include <stdint.h>

enum { FAKE_QPN = 0xa1b2, FAKE_UARS = 64 };

struct fake_uar {
    unsigned char *pages;
    size_t n;
};

struct fake_uverbs {
    unsigned char *sq;   /* of the queue pair created last: the ring of send blocks, */
    unsigned depth;      /* its length in blocks of 64 bytes, */
    uint32_t *record;    /* and the doorbell record: [0] receive, [1] send */
    unsigned char *cq;   /* of the completion queue created last */
    unsigned cqes;       /* entries of 64 bytes */
    uint32_t *cq_record; /* [0] consumer index, [1] arm */
    struct fake_uar uar[FAKE_UARS];
    int uars;
};
extern struct fake_uverbs fake_uverbs;

#endif
