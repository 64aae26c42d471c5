/* Face of libibverbs: the device, its port, domains, memory, addresses. The NIC is there while a context is open. */
#define _GNU_SOURCE
#include "faces.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

static struct ibv_device device = {.node_type = IBV_NODE_CA,
                                   .transport_type = IBV_TRANSPORT_IB,
                                   .name = "sim_0",
                                   .dev_name = "sim_0",
                                   .dev_path = "",
                                   .ibdev_path = ""};

static struct {
    pthread_mutex_t lock;
    struct sim_nic *nic;
    unsigned users;
} the = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- device and context -------------------------------------------------------------------------------- */

SIM_EXPORT struct ibv_device **ibv_get_device_list(int *count)
{
    struct ibv_device **list = calloc(2, sizeof *list);
    if (list)
        list[0] = &device;
    if (count)
        *count = list != NULL;
    return list;
}

SIM_EXPORT void ibv_free_device_list(struct ibv_device **list)
{
    free(list);
}

SIM_EXPORT const char *ibv_get_device_name(struct ibv_device *d)
{
    return d->name;
}

SIM_EXPORT struct ibv_context *ibv_open_device(struct ibv_device *d)
{
    struct face_context *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    pthread_mutex_lock(&the.lock);
    if (!the.nic)
        the.nic = sim_open(true);
    the.users += the.nic != NULL;
    c->nic = the.nic;
    pthread_mutex_unlock(&the.lock);
    if (!c->nic) {
        free(c);
        return NULL;
    }
    c->base = (struct ibv_context){
        .device = d, .ops = face_ops, .cmd_fd = -1, .async_fd = -1, .num_comp_vectors = 1};
    pthread_mutex_init(&c->base.mutex, NULL);
    return &c->base;
}

SIM_EXPORT int ibv_close_device(struct ibv_context *context)
{
    pthread_mutex_lock(&the.lock);
    if (--the.users == 0) {
        sim_close(the.nic);
        the.nic = NULL;
    }
    pthread_mutex_unlock(&the.lock);
    pthread_mutex_destroy(&context->mutex);
    free(context);
    return 0;
}

/* For tests and tools: the process's NIC, NULL = none is open. */
SIM_EXPORT struct sim_nic *shmem_sim_nic(void);
SIM_EXPORT struct sim_nic *shmem_sim_nic(void)
{
    pthread_mutex_lock(&the.lock);
    struct sim_nic *nic = the.nic;
    pthread_mutex_unlock(&the.lock);
    return nic;
}

/* Sets the faults of the process's NIC as SHMEM_SIM_FAULTS would, and counts from now on. 0, or EINVAL, ENODEV. */
SIM_EXPORT int shmem_sim_faults(const char *text);
SIM_EXPORT int shmem_sim_faults(const char *text)
{
    struct sim_faults f;
    struct sim_nic *nic = shmem_sim_nic();
    if (!nic || sim_faults_read(&f, text) != 0)
        return nic ? EINVAL : ENODEV;
    sim_lock(nic);
    nic->faults = f;
    nic->doorbells = nic->wqes = nic->requests = nic->unresolved = nic->keys_made = 0;
    nic->deaf = false;
    sim_unlock(nic);
    return 0;
}

/* Rules that the program has broken so far. */
SIM_EXPORT unsigned long long shmem_sim_violations(void);
SIM_EXPORT unsigned long long shmem_sim_violations(void)
{
    struct sim_nic *nic = shmem_sim_nic();
    return nic ? atomic_load_explicit(&nic->violations, memory_order_relaxed) : 0;
}

SIM_EXPORT int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *a)
{
    *a = (struct ibv_device_attr){.fw_ver = "1.0 (software)",
                                  .max_mr_size = ~0ull,
                                  .page_size_cap = 4096,
                                  .vendor_id = 0,
                                  .max_qp = 1 << 16,
                                  .max_qp_wr = 1 << SIM_LOG_MOST_DEPTH,
                                  .max_sge = 30,
                                  .max_cq = 1 << 16,
                                  .max_cqe = 1 << 22,
                                  .max_mr = SIM_KEYS - 2,
                                  .max_pd = 1 << 16,
                                  .max_qp_rd_atom = 16,
                                  .max_qp_init_rd_atom = 16,
                                  .atomic_cap =
                                      face_nic(context)->global_atomics ? IBV_ATOMIC_GLOB : IBV_ATOMIC_HCA,
                                  .max_ah = 1 << 16,
                                  .max_pkeys = 1,
                                  .phys_port_cnt = 1};
    return 0;
}

enum { GIDS_OF_ROCE = 4 };

/* Fills the part of the attributes that this exported function has always had. */
SIM_EXPORT int ibv_query_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *compat)
{
    struct ibv_port_attr *a = (struct ibv_port_attr *)compat;
    const struct sim_nic *nic = face_nic(context);
    if (port != 1)
        return EINVAL;
    a->state = IBV_PORT_ACTIVE;
    a->max_mtu = a->active_mtu = IBV_MTU_4096;
    a->gid_tbl_len = nic->roce ? GIDS_OF_ROCE : 1;
    a->port_cap_flags = 0;
    a->max_msg_sz = SHMEMX_MLX5_MOST_MESSAGE;
    a->bad_pkey_cntr = a->qkey_viol_cntr = 0;
    a->pkey_tbl_len = 1;
    a->lid = nic->roce ? 0 : nic->lid;
    a->sm_lid = nic->roce ? 0 : 1;
    a->lmc = 0;
    a->max_vl_num = 1;
    a->sm_sl = a->subnet_timeout = a->init_type_reply = 0;
    a->active_width = 2;   /* 4x */
    a->active_speed = 128; /* NDR */
    a->phys_state = 5;     /* link up */
    a->link_layer = nic->roce ? IBV_LINK_LAYER_ETHERNET : IBV_LINK_LAYER_INFINIBAND;
    a->flags = 0;
    return 0;
}

bool face_gid(const struct sim_nic *nic, unsigned index, union ibv_gid *gid, uint32_t *type)
{
    static const unsigned char local[14] = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x02, 0x53, 0x48, 0x4d};
    if (index >= (nic->roce ? GIDS_OF_ROCE : 1))
        return false;
    memcpy(gid->raw, nic->gid, sizeof gid->raw);
    if (index < 2)
        memcpy(gid->raw, local, sizeof local);
    *type = !nic->roce ? IBV_GID_TYPE_IB : index % 2 ? IBV_GID_TYPE_ROCE_V2 : IBV_GID_TYPE_ROCE_V1;
    return true;
}

SIM_EXPORT int ibv_query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid)
{
    uint32_t type;
    if (port == 1 && index >= 0 && face_gid(face_nic(context), (unsigned)index, gid, &type))
        return 0;
    errno = EINVAL;
    return -1;
}

SIM_EXPORT int _ibv_query_gid_ex(struct ibv_context *context, uint32_t port, uint32_t index,
                                 struct ibv_gid_entry *entry, uint32_t flags, size_t bytes)
{
    struct ibv_gid_entry e = {.gid_index = index, .port_num = port};
    if (flags || port != 1 || !face_gid(face_nic(context), index, &e.gid, &e.gid_type))
        return flags || port != 1 ? EINVAL : ENODATA;
    memcpy(entry, &e, bytes < sizeof e ? bytes : sizeof e);
    return 0;
}

SIM_EXPORT int ibv_query_pkey(struct ibv_context *context, uint8_t port, int index, __be16 *pkey)
{
    (void)context;
    if (port != 1 || index != 0)
        return -1;
    *pkey = 0xffff;
    return 0;
}

SIM_EXPORT const char *ibv_port_state_str(enum ibv_port_state state)
{
    return state == IBV_PORT_ACTIVE ? "PORT_ACTIVE" : "not active";
}

SIM_EXPORT const char *ibv_wc_status_str(enum ibv_wc_status status)
{
    static const char *const text[] = {
        [IBV_WC_SUCCESS] = "success",
        [IBV_WC_LOC_LEN_ERR] = "local length error",
        [IBV_WC_LOC_QP_OP_ERR] = "local QP operation error",
        [IBV_WC_LOC_EEC_OP_ERR] = "local EE context operation error",
        [IBV_WC_LOC_PROT_ERR] = "local protection error",
        [IBV_WC_WR_FLUSH_ERR] = "Work Request Flushed Error",
        [IBV_WC_MW_BIND_ERR] = "memory management operation error",
        [IBV_WC_BAD_RESP_ERR] = "bad response error",
        [IBV_WC_LOC_ACCESS_ERR] = "local access error",
        [IBV_WC_REM_INV_REQ_ERR] = "remote invalid request error",
        [IBV_WC_REM_ACCESS_ERR] = "remote access error",
        [IBV_WC_REM_OP_ERR] = "remote operation error",
        [IBV_WC_RETRY_EXC_ERR] = "transport retry counter exceeded",
        [IBV_WC_RNR_RETRY_EXC_ERR] = "RNR retry counter exceeded",
    };
    return (unsigned)status < sizeof text / sizeof *text && text[status] ? text[status] : "error";
}

/* ---- domains and memory -------------------------------------------------------------------------------- */

SIM_EXPORT struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
    struct sim_nic *nic = face_nic(context);
    struct face_pd *pd = calloc(1, sizeof *pd);
    if (!pd)
        return NULL;
    pd->base.context = context;
    sim_lock(nic);
    pd->base.handle = pd->number = nic->next_pd++ & 0xffffff;
    sim_unlock(nic);
    return &pd->base;
}

SIM_EXPORT int ibv_dealloc_pd(struct ibv_pd *pd)
{
    free(pd);
    return 0;
}

static struct ibv_mr *register_memory(struct ibv_pd *pd, void *address, size_t n, uint64_t iova, int access,
                                      bool gpu)
{
    struct sim_nic *nic = face_nic(pd->context);
    struct ibv_mr *mr = calloc(1, sizeof *mr);
    const unsigned remote = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;
    if (!mr)
        return NULL;
    if ((access & (int)remote) && !(access & IBV_ACCESS_LOCAL_WRITE)) {
        free(mr);
        errno = EINVAL;
        return NULL;
    }
    *mr = (struct ibv_mr){.context = pd->context, .pd = pd, .addr = address, .length = n};
    sim_lock(nic);
    mr->lkey = mr->rkey = sim_key_create(nic, ((struct face_pd *)pd)->number, iova, n, (uint32_t)access, gpu);
    sim_unlock(nic);
    if (mr->lkey)
        return mr;
    free(mr);
    errno = ENOMEM;
    return NULL;
}

SIM_EXPORT struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *address, size_t n, int access)
{
    bool gpu = sim_gpu_owns((uint64_t)(uintptr_t)address);
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)address & ~(page - 1);
    /* does nothing but to say whether all of it is mapped */
    if (!gpu && n && msync((void *)first, (uintptr_t)address + n - first, MS_ASYNC) != 0) {
        errno = EFAULT;
        return NULL;
    }
    return register_memory(pd, address, n, (uint64_t)(uintptr_t)address, access, gpu);
}

SIM_EXPORT struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *address, size_t n, uint64_t iova,
                                           unsigned access)
{
    if (iova != (uint64_t)(uintptr_t)address) {
        errno = EOPNOTSUPP;
        return NULL;
    }
    return ibv_reg_mr(pd, address, n, (int)access);
}

/* `iova` must be the memory's address in this process, for the NIC moves the bytes by that. */
SIM_EXPORT struct ibv_mr *ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t n, uint64_t iova,
                                            int fd, int access)
{
    (void)offset;
    if (fd < 0) {
        errno = EBADF;
        return NULL;
    }
    return register_memory(pd, NULL, n, iova, access, sim_gpu_owns(iova));
}

SIM_EXPORT int ibv_dereg_mr(struct ibv_mr *mr)
{
    struct sim_nic *nic = face_nic(mr->context);
    sim_lock(nic);
    bool known = sim_key_destroy(nic, mr->lkey);
    sim_unlock(nic);
    free(mr);
    return known ? 0 : EINVAL;
}

/* ---- addresses ----------------------------------------------------------------------------------------- */

uint16_t face_lid(const struct ibv_ah_attr *a)
{
    return a->is_global ? (uint16_t)(a->grh.dgid.raw[14] << 8 | a->grh.dgid.raw[15]) : a->dlid;
}

struct mlx5_wqe_av face_av(const struct ibv_ah_attr *a)
{
    struct mlx5_wqe_av av = {.stat_rate_sl = (uint8_t)(a->static_rate << 4 | a->sl),
                             .fl_mlid = a->src_path_bits & 0x7f,
                             .rlid = __builtin_bswap16(face_lid(a))};
    if (a->is_global) {
        /* of RoCE v2 that is the place of the UDP source port, one of the dynamic ones */
        av.rlid = __builtin_bswap16(0xc000 | (a->grh.flow_label & 0x3fff));
        av.tclass = a->grh.traffic_class;
        av.hop_limit = a->grh.hop_limit;
        av.grh_gid_fl = __builtin_bswap32(1u << 30 | (uint32_t)a->grh.sgid_index << 20 | a->grh.flow_label);
        memcpy(av.rgid, a->grh.dgid.raw, sizeof av.rgid);
        memcpy(av.rmac, (const uint8_t[]){0x02, 0x53, 0x48, 0x4d, a->grh.dgid.raw[14], a->grh.dgid.raw[15]},
               sizeof av.rmac);
    }
    return av;
}

SIM_EXPORT struct ibv_ah *ibv_create_ah(struct ibv_pd *pd, struct ibv_ah_attr *a)
{
    struct face_ah *ah = calloc(1, sizeof *ah);
    if (!ah)
        return NULL;
    ah->base.context = pd->context;
    ah->base.pd = pd;
    ah->av = face_av(a);
    return &ah->base;
}

SIM_EXPORT int ibv_destroy_ah(struct ibv_ah *ah)
{
    free(ah);
    return 0;
}
