/* What the files of ibgda share. */
#ifndef SHMEMI_IBGDA_STATE_H
#define SHMEMI_IBGDA_STATE_H

#include "device/mlx5.h"
#include "ibgda.h"
#include "mlx5_lib.h"
#include "verbs.h"

enum {
    IBGDA_CARD_VERSION = 1,
    IBGDA_LINE = 64,
    IBGDA_PAGE = 4096,     /* of the NIC's */
    IBGDA_GPU_PAGE = 65536 /* of a GPU's memory, for NICs */
};

/* What a peer must know, followed by the numbers of this PE's queue pairs, uint32_t[npes][qps]. */
struct ibgda_card {
    uint32_t version, psn, qps;
    uint16_t lid;
    uint8_t mtu, reads; /* enum ibv_mtu; reads and atomics under way that it takes, a power of 2 */
    uint8_t gid[16];
    char port[24];
};

/* One queue pair's objects. */
struct ibgda_qp {
    struct mlx5dv_devx_umem *umem; /* send queue, completion queue, records */
    struct mlx5dv_devx_uar *uar;   /* its own, or another's */
    bool shares_uar;
    uint64_t uar_seen; /* where kernels find the register */
    struct mlx5dv_devx_obj *cq, *qp;
    uint32_t cqn, qpn, peer_qpn;
};

struct ibgda_chunk {
    uint64_t offset;
    size_t n;
    struct ibv_mr *mr;
    struct verbs_key *keys; /* [npes] */
};

/* Memory for queues or for kernels' counts. */
struct ibgda_memory {
    char *base;
    size_t bytes;
    enum { IBGDA_NO_MEMORY, IBGDA_PRIVATE, IBGDA_PINNED, IBGDA_ON_GPU } kind;
};

struct shmemi_ibgda {
    const struct shmemi_verbs_lib *lib;
    const struct shmemi_mlx5_lib *dv;
    const struct shmemi_job *job;
    int segment;
    bool gpu; /* kernels run on a GPU */
    struct verbs_port port;
    struct ibv_pd *pd;
    uint32_t pdn, eqn, psn;
    unsigned qps, depth, log_depth, most_log_depth;
    int reads;                /* under way to this PE, by each queue pair */
    bool free_running;        /* the device's clock of completion entries */
    struct ibgda_qp *qp;      /* [npes][qps]; this PE's own are connected to themselves */
    bool *connected;          /* [npes] */
    struct ibgda_card *cards; /* [npes] of those that are connected */
    /* queues: for each queue pair queue_bytes(): send queue, completion queue, records; answers: one after the other */
    struct ibgda_memory queues, answers;
    struct ibgda_memory counts, tables; /* kernels' alone */
    bool queues_on_gpu;
    int queues_fd; /* dmabuf of `queues`, -1 = none */
    struct ibv_mr *answers_mr;
    struct ibgda_chunk *chunk;
    int chunks;
    unsigned room; /* chunks that the tables hold */
};
extern struct shmemi_ibgda shmemi_ibgda;

/* ---- ibgda.c ------------------------------------------------------------------------------------------- */
/* Where the slots of queue pair i begin in `counts`: behind all queue pairs. */
size_t shmemi_ibgda_slots_at(size_t i);

/* ---- ibgda_objects.c ----------------------------------------------------------------------------------- */
/* Has the device what kernels want of it? 0 = no, `why` goes on after its name. */
int shmemi_ibgda_capable(struct ibv_context *context, char *why, size_t n);
/* Numbers of the protection domain and of an event queue. */
int shmemi_ibgda_domain(const char *call);
/* Makes queue pair number i, in its part of `queues`, which has its first values. */
int shmemi_ibgda_make(const char *call, size_t i);
/* To the peer's queue pair: from reset to ready to send, by the peer's card and peer_qpn. */
int shmemi_ibgda_join(const char *call, size_t i, int pe);
/* Back to reset, from any state: it forgets all, and writes no entries any more. */
int shmemi_ibgda_reset(const char *call, size_t i, int pe);
void shmemi_ibgda_drop(size_t i);
/* Of one queue pair, in `queues`. */
size_t shmemi_ibgda_queue_bytes(void);
size_t shmemi_ibgda_cq_at(void);
size_t shmemi_ibgda_records_at(void);

/* ---- ibgda_memory.c ------------------------------------------------------------------------------------ */
/* kind: of struct ibgda_memory. Zeroed. */
int shmemi_ibgda_get(const char *call, struct ibgda_memory *m, int kind, size_t bytes);
void shmemi_ibgda_give(struct ibgda_memory *m);
int shmemi_ibgda_read(const char *call, const struct ibgda_memory *m, size_t at, void *to, size_t n);
int shmemi_ibgda_write(const char *call, const struct ibgda_memory *m, size_t at, const void *from, size_t n);
/* Memory for queues and answers, by SHMEM_IBGDA_MEMORY; registered. */
int shmemi_ibgda_memory_open(const char *call);
void shmemi_ibgda_memory_close(void);
size_t shmemi_ibgda_answer_bytes(void);

#endif
