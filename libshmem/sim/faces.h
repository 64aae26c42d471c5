/* What the faces share: libibverbs' objects, with ours behind them. */
#ifndef SIM_FACES_H
#define SIM_FACES_H

#include <infiniband/mlx5dv.h>
#include <infiniband/verbs.h>

#include "engine.h"

#define SIM_EXPORT __attribute__((visibility("default")))

struct face_context {
    struct ibv_context base;
    struct sim_nic *nic;
};

struct face_pd {
    struct ibv_pd base;
    uint32_t number;
};

struct face_ah {
    struct ibv_ah base;
    struct mlx5_wqe_av av;
};

struct face_channel {
    struct ibv_comp_channel base;
    int write;
};

struct face_qp;
struct face_cq {
    struct ibv_cq base;
    struct sim_cq *cq;
    unsigned char *buffer;
    _Atomic uint32_t *record; /* [consumer index, arm] */
    uint32_t consumed;
    pthread_mutex_t lock;
    struct face_qp *qps; /* whose completions come here */
};

struct face_qp {
    struct ibv_qp base;
    struct sim_qp *qp;
    struct face_qp *next_sent, *next_received; /* in their CQs */
    unsigned char *sq, *rq;
    _Atomic uint32_t *record;
    size_t bytes;                                                 /* of the memory that begins at sq */
    unsigned blocks, receives, stride, inline_bytes, most_blocks; /* of a WQE */
    uint16_t head, receive_head;
    _Atomic uint16_t tail, receive_tail; /* set by polling */
    uint64_t *ids, *receive_ids;         /* wr_id by block and by receive */
    pthread_mutex_t lock;
    bool all; /* signalled */
};

static inline struct sim_nic *face_nic(struct ibv_context *context)
{
    return ((struct face_context *)context)->nic;
}

/* queues.c */
int face_poll(struct ibv_cq *base, int entries, struct ibv_wc *wc);
int face_notify(struct ibv_cq *base, int solicited);
/* post.c */
extern const struct ibv_context_ops face_ops;
/* verbs.c: a GID's entry; false = there is none. */
bool face_gid(const struct sim_nic *nic, unsigned index, union ibv_gid *gid, uint32_t *type);
uint16_t face_lid(const struct ibv_ah_attr *a);
struct mlx5_wqe_av face_av(const struct ibv_ah_attr *a);

#endif
