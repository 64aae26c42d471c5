/* UCX as far as we use it: the part of UCP's ABI that versions 1.12 and later share, bound at run time.
 *
 * Declared here because the wheel is built where UCX's headers are not, and a user of pip shall have the transport all
 * the same. UCP keeps this ABI stable: every struct says by its mask which members are there, and ones that came later
 * stand behind. tests/c/ucx_abi.c compares all of it with UCX's own headers where they are installed. */
#ifndef SHMEMI_TRANSPORT_UCX_H
#define SHMEMI_TRANSPORT_UCX_H

#include "base/base.h"

typedef int8_t ucx_status; /* ucs_status_t is a packed enum: one byte */
typedef void *ucx_request; /* NULL = done, the last 100 addresses = minus a status, else a request */

enum { UCX_API_MAJOR = 1, UCX_API_MINOR = 12 };
enum { UCX_OK = 0, UCX_INPROGRESS = 1, UCX_ERR_BUSY = -15, UCX_ERR_LAST = -100 };
enum {
    UCX_FEATURE_RMA = 2,
    UCX_FEATURE_AMO32 = 4,
    UCX_FEATURE_AMO64 = 8,
    UCX_FEATURE_WAKEUP = 16,
    UCX_FEATURE_AM = 64
};
enum { UCX_ATOMIC_ADD, UCX_ATOMIC_SWAP, UCX_ATOMIC_CSWAP, UCX_ATOMIC_AND, UCX_ATOMIC_OR, UCX_ATOMIC_XOR };
enum { UCX_THREAD_SERIALIZED = 1, UCX_CLOSE_FORCE = 1, UCX_AM_EAGER = 2, UCX_MEMORY_HOST = 0 };
enum { UCX_CONTIG_SHIFT = 3 }; /* datatype of n bytes side by side: n << 3 */

struct ucx_params {
    uint64_t mask, features;
    size_t request_size;
    void (*request_init)(void *), (*request_cleanup)(void *);
    uint64_t tag_sender_mask;
    int mt_workers_shared;
    size_t peers, peers_on_node;
    const char *name;
};
enum { UCX_PARAM_FEATURES = 1, UCX_PARAM_PEERS = 64, UCX_PARAM_NAME = 256 };

struct ucx_worker_params {
    uint64_t mask;
    int thread_mode;
};
enum { UCX_WORKER_THREAD_MODE = 1 };

struct ucx_ep_params {
    uint64_t mask;
    const void *address;
    int error_mode;
    struct {
        void (*call)(void *arg, void *ep, ucx_status status);
        void *arg;
    } on_error;
};
enum { UCX_EP_ADDRESS = 1, UCX_EP_ON_ERROR = 4 };

struct ucx_map_params {
    uint64_t mask;
    void *address;
    size_t bytes;
};
enum { UCX_MAP_ADDRESS = 1, UCX_MAP_BYTES = 2 };

struct ucx_am_params {
    uint64_t mask;
    unsigned id;
    uint32_t flags;
    ucx_status (*call)(void *arg, const void *header, size_t header_bytes, void *data, size_t n,
                       const void *param);
    void *arg;
};
enum { UCX_AM_ID = 1, UCX_AM_CALL = 4 };

struct ucx_op {
    uint32_t mask, flags;
    void *request;
    void (*done)(void *request, ucx_status status, void *user);
    uint64_t datatype;
    void *user, *reply;
    int memory;
};
enum {
    UCX_OP_DONE = 2,
    UCX_OP_USER = 4,
    UCX_OP_DATATYPE = 8,
    UCX_OP_FLAGS = 16,
    UCX_OP_REPLY = 32,
    UCX_OP_MEMORY = 64
};

/* One row a function of the library, in the order of the members below. */
#define SHMEMI_UCX_FUNCTIONS(F)                                                                              \
    F(const char *, version, ucp_get_version_string, (void))                                                 \
    F(const char *, text, ucs_status_string, (ucx_status))                                                   \
    F(ucx_status, init, ucp_init_version,                                                                    \
      (unsigned, unsigned, const struct ucx_params *, const void *config, void **context))                   \
    F(void, cleanup, ucp_cleanup, (void *context))                                                           \
    F(ucx_status, config_read, ucp_config_read, (const char *, const char *, void **config))                 \
    F(ucx_status, config_modify, ucp_config_modify, (void *config, const char *, const char *))              \
    F(void, config_release, ucp_config_release, (void *config))                                              \
    F(ucx_status, worker_create, ucp_worker_create,                                                          \
      (void *context, const struct ucx_worker_params *, void **worker))                                      \
    F(void, worker_destroy, ucp_worker_destroy, (void *worker))                                              \
    F(ucx_status, worker_address, ucp_worker_get_address, (void *worker, void **address, size_t *))          \
    F(void, address_release, ucp_worker_release_address, (void *worker, void *address))                      \
    F(ucx_status, worker_fd, ucp_worker_get_efd, (void *worker, int *))                                      \
    F(ucx_status, worker_arm, ucp_worker_arm, (void *worker))                                                \
    F(unsigned, progress, ucp_worker_progress, (void *worker))                                               \
    F(ucx_status, am_handler, ucp_worker_set_am_recv_handler, (void *worker, const struct ucx_am_params *))  \
    F(ucx_status, ep_create, ucp_ep_create, (void *worker, const struct ucx_ep_params *, void **ep))         \
    F(ucx_request, ep_close, ucp_ep_close_nbx, (void *ep, const struct ucx_op *))                            \
    F(ucx_request, ep_flush, ucp_ep_flush_nbx, (void *ep, const struct ucx_op *))                            \
    F(ucx_status, mem_map, ucp_mem_map, (void *context, const struct ucx_map_params *, void **memory))       \
    F(ucx_status, mem_unmap, ucp_mem_unmap, (void *context, void *memory))                                   \
    F(ucx_status, key_pack, ucp_rkey_pack, (void *context, void *memory, void **buffer, size_t *))           \
    F(void, key_buffer_release, ucp_rkey_buffer_release, (void *buffer))                                     \
    F(ucx_status, key_unpack, ucp_ep_rkey_unpack, (void *ep, const void *buffer, void **key))                \
    F(void, key_destroy, ucp_rkey_destroy, (void *key))                                                      \
    F(ucx_request, put, ucp_put_nbx,                                                                         \
      (void *ep, const void *, size_t, uint64_t remote, void *key, const struct ucx_op *))                   \
    F(ucx_request, get, ucp_get_nbx,                                                                         \
      (void *ep, void *, size_t, uint64_t remote, void *key, const struct ucx_op *))                         \
    F(ucx_request, am_send, ucp_am_send_nbx,                                                                 \
      (void *ep, unsigned id, const void *header, size_t, const void *, size_t, const struct ucx_op *))      \
    F(ucx_request, atomic, ucp_atomic_op_nbx,                                                                \
      (void *ep, int op, const void *, size_t, uint64_t remote, void *key, const struct ucx_op *))           \
    F(ucx_status, request_status, ucp_request_check_status, (void *request))                                 \
    F(void, request_free, ucp_request_free, (void *request))

struct shmemi_ucx {
#define SHMEMI_UCX_MEMBER(result, member, name, args) result(*member) args;
    SHMEMI_UCX_FUNCTIONS(SHMEMI_UCX_MEMBER)
#undef SHMEMI_UCX_MEMBER
};

static inline bool ucx_is_error(ucx_request r)
{
    return (uintptr_t)r >= (uintptr_t)UCX_ERR_LAST;
}

static inline ucx_status ucx_error_of(ucx_request r)
{
    return (ucx_status)(intptr_t)r;
}

/* Looks for libucp once and binds all functions. The copy that MPI uses or would use comes first: two copies in one
 * process do not get on. False: `why` says what is missing. `path` (static) is where it came from. */
bool shmemi_ucx_find(struct shmemi_ucx *u, const char **path, char *why, size_t n);

#endif
