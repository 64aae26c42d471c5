/* libibverbs, opened when first wanted: the functions that transport verbs calls, by rdma-core's names
 * without "ibv_". What posts and polls goes through the device's own table (inline functions of verbs.h)
 * and needs nothing here. */
#ifndef SHMEMI_VERBS_LIB_H
#define SHMEMI_VERBS_LIB_H

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stddef.h>

/* query_port: the exported function fills the part of the attributes that it has always had. */
#define SHMEMI_VERBS_CALLS(X)                                                                                \
    X(struct ibv_device **, get_device_list, (int *count))                                                   \
    X(void, free_device_list, (struct ibv_device * *list))                                                   \
    X(const char *, get_device_name, (struct ibv_device * device))                                           \
    X(struct ibv_context *, open_device, (struct ibv_device * device))                                       \
    X(int, close_device, (struct ibv_context * context))                                                     \
    X(int, query_device, (struct ibv_context * context, struct ibv_device_attr * attr))                      \
    X(int, query_port, (struct ibv_context * context, uint8_t port, struct ibv_port_attr *attr))             \
    X(int, query_gid, (struct ibv_context * context, uint8_t port, int index, union ibv_gid *gid))           \
    X(int, query_pkey, (struct ibv_context * context, uint8_t port, int index, __be16 *pkey))                \
    X(const char *, port_state_str, (enum ibv_port_state state))                                             \
    X(const char *, wc_status_str, (enum ibv_wc_status status))                                              \
    X(struct ibv_pd *, alloc_pd, (struct ibv_context * context))                                             \
    X(int, dealloc_pd, (struct ibv_pd * pd))                                                                 \
    X(struct ibv_mr *, reg_mr, (struct ibv_pd * pd, void *addr, size_t n, int access))                       \
    X(int, dereg_mr, (struct ibv_mr * mr))                                                                   \
    X(struct ibv_comp_channel *, create_comp_channel, (struct ibv_context * context))                        \
    X(int, destroy_comp_channel, (struct ibv_comp_channel * channel))                                        \
    X(struct ibv_cq *, create_cq,                                                                            \
      (struct ibv_context * context, int entries, void *user, struct ibv_comp_channel *channel, int vector)) \
    X(int, destroy_cq, (struct ibv_cq * cq))                                                                 \
    X(int, get_cq_event, (struct ibv_comp_channel * channel, struct ibv_cq * *cq, void **user))              \
    X(void, ack_cq_events, (struct ibv_cq * cq, unsigned n))                                                 \
    X(struct ibv_ah *, create_ah, (struct ibv_pd * pd, struct ibv_ah_attr * attr))                           \
    X(int, destroy_ah, (struct ibv_ah * ah))                                                                 \
    X(struct ibv_qp *, create_qp, (struct ibv_pd * pd, struct ibv_qp_init_attr * attr))                      \
    X(int, modify_qp, (struct ibv_qp * qp, struct ibv_qp_attr * attr, int mask))                             \
    X(int, destroy_qp, (struct ibv_qp * qp))

struct shmemi_verbs_lib {
#define X(type, name, parameters) type(*name) parameters;
    SHMEMI_VERBS_CALLS(X)
#undef X
    /* NULL in libraries before rdma-core 32: sysfs says the type of a GID as well */
    int (*query_gid_entry)(struct ibv_context *context, uint32_t port, uint32_t index,
                           struct ibv_gid_entry *entry, uint32_t flags, size_t bytes);
    /* For a GPU's memory; NULL: rdma-core before 34. */
    struct ibv_mr *(*reg_dmabuf_mr)(struct ibv_pd *pd, uint64_t offset, size_t n, uint64_t iova, int fd,
                                    int access);
};

/* The file to open for a library of rdma-core, `usual` unless SHMEM_IBVERBS_LIB says otherwise. The text stays until the
 * thread's next call. */
const char *shmemi_verbs_file(const char *usual);

/* The library, NULL when it is not there: `why` says what was tried. It stays open. */
const struct shmemi_verbs_lib *shmemi_verbs_lib(char *why, size_t n);

#endif
