/* A kernel for rdma-core's mlx5 provider: one mlx5 device whose queues nobody reads. The program's own open, write,
 * ioctl and mmap stand before libc's, and answer for one file name as the kernel's uverbs interface would; the layouts
 * are those of the kernel's public headers, <rdma/ib_user_verbs.h> and <rdma/mlx5-abi.h>. Where sysfs would say that
 * there is a device, SYSFS_PATH names a folder that golden.py has made. */
#define _GNU_SOURCE
#include "fake_uverbs.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <rdma/ib_user_verbs.h>
#include <rdma/mlx5-abi.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct fake_uverbs fake_uverbs;

static const char device_file[] = "/dev/infiniband/uverbs0";
static int device = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static bool is_device(const char *path)
{
    return path && !strcmp(path, device_file);
}

int open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;
    va_end(rest);
    return is_device(path) ? (device = eventfd(0, EFD_CLOEXEC)) : REAL(open)(path, flags, mode);
}

int stat(const char *restrict path, struct stat *restrict out)
{
    if (!is_device(path))
        return REAL(stat)(path, out);
    *out = (struct stat){.st_mode = S_IFCHR | 0600, .st_rdev = makedev(231, 192)};
    return 0;
}

int fstat(int fd, struct stat *out)
{
    if (fd != device || fd < 0)
        return REAL(fstat)(fd, out);
    *out = (struct stat){.st_mode = S_IFCHR | 0600, .st_rdev = makedev(231, 192)};
    return 0;
}

/* No netlink: sysfs is asked instead. */
int socket(int domain, int type, int protocol)
{
    if (domain != AF_NETLINK)
        return REAL(socket)(domain, type, protocol);
    errno = EPROTONOSUPPORT;
    return -1;
}

/* A kernel without the ioctl interface; what is asked is asked again by write. */
int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (fd != device || fd < 0)
        return REAL(ioctl)(fd, request, argument);
    errno = ENOTTY;
    return -1;
}

/* Every page of the device is memory; those with doorbells are remembered. */
void *mmap(void *address, size_t n, int protection, int flags, int fd, off_t offset)
{
    if (fd != device || fd < 0)
        return REAL(mmap)(address, n, protection, flags, fd, offset);
    void *pages = REAL(mmap)(address, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned kind = (unsigned)((unsigned long)offset / (unsigned long)sysconf(_SC_PAGESIZE) >> 8 & 0xff);
    bool doorbells =
        kind == MLX5_IB_MMAP_REGULAR_PAGE || kind == MLX5_IB_MMAP_WC_PAGE || kind == MLX5_IB_MMAP_NC_PAGE;
    if (doorbells && pages != MAP_FAILED && fake_uverbs.uars < FAKE_UARS)
        fake_uverbs.uar[fake_uverbs.uars++] = (struct fake_uar){pages, n};
    return pages;
}

/* ---- commands ------------------------------------------------------------------------------------------------ */

/* A command in either form: what the core asks, what the provider adds, and where their answers go. */
struct command {
    unsigned number;
    bool extended;
    const void *core, *provider;
    void *core_answer, *provider_answer;
    size_t provider_room;
};

static void answer(void *to, size_t room, const void *from, size_t n)
{
    memcpy(to, from, n < room ? n : room);
}

static void open_context(const struct command *c)
{
    struct ib_uverbs_get_context_resp *core = c->core_answer;
    core->async_fd = (unsigned)eventfd(0, EFD_CLOEXEC);
    core->num_comp_vectors = 1;
    const struct mlx5_ib_alloc_ucontext_req_v2 *request = c->provider;
    struct mlx5_ib_alloc_ucontext_resp says = {.qp_tab_size = 1 << 18,
                                               .bf_reg_size = 512,
                                               .tot_bfregs = request->total_num_bfregs,
                                               .cache_line_size = 64,
                                               .max_sq_desc_sz = 1024,
                                               .max_rq_desc_sz = 512,
                                               .max_send_wqebb = 1 << 15,
                                               .max_recv_wr = 1 << 15,
                                               .max_srq_recv_wr = 1 << 15,
                                               .num_ports = 1,
                                               .log_uar_size = 12,
                                               .num_uars_per_page = 1,
                                               .response_length = sizeof says};
    answer(c->provider_answer, c->provider_room, &says, sizeof says);
}

static void create_cq(const struct command *c)
{
    const struct mlx5_ib_create_cq *request = c->provider;
    unsigned cqe = c->extended ? ((const struct ib_uverbs_ex_create_cq *)c->core)->cqe
                               : ((const struct ib_uverbs_create_cq *)c->core)->cqe;
    fake_uverbs.cq = (void *)(uintptr_t)request->buf_addr;
    fake_uverbs.cq_record = (void *)(uintptr_t)request->db_addr;
    fake_uverbs.cqes = cqe + 1;
    struct ib_uverbs_create_cq_resp *core = c->core_answer;
    *core = (struct ib_uverbs_create_cq_resp){.cq_handle = 1, .cqe = cqe};
    struct mlx5_ib_create_cq_resp says = {.cqn = 0x31};
    answer(c->provider_answer, c->provider_room, &says, sizeof says);
}

static void create_qp(const struct command *c)
{
    const struct mlx5_ib_create_qp *request = c->provider;
    struct ib_uverbs_create_qp_resp *core = c->core_answer;
    if (c->extended) {
        const struct ib_uverbs_ex_create_qp *asked = c->core;
        *core = (struct ib_uverbs_create_qp_resp){.max_send_wr = asked->max_send_wr,
                                                  .max_send_sge = asked->max_send_sge,
                                                  .max_inline_data = asked->max_inline_data};
    } else {
        const struct ib_uverbs_create_qp *asked = c->core;
        *core = (struct ib_uverbs_create_qp_resp){.max_send_wr = asked->max_send_wr,
                                                  .max_send_sge = asked->max_send_sge,
                                                  .max_inline_data = asked->max_inline_data};
    }
    core->qp_handle = 1;
    core->qpn = FAKE_QPN;
    fake_uverbs.sq = (unsigned char *)(uintptr_t)request->buf_addr +
                     ((size_t)request->rq_wqe_count << request->rq_wqe_shift);
    fake_uverbs.record = (void *)(uintptr_t)request->db_addr;
    fake_uverbs.depth = request->sq_wqe_count;
    struct mlx5_ib_create_qp_resp says = {.bfreg_index = 0};
    answer(c->provider_answer, c->provider_room, &says, sizeof says);
}

static void query_device(struct ib_uverbs_query_device_resp *out)
{
    *out = (struct ib_uverbs_query_device_resp){
        .max_qp_wr = 1 << 15, .max_sge = 30, .max_cqe = 1 << 20, .atomic_cap = 1, .phys_port_cnt = 1};
}

ssize_t write(int fd, const void *bytes, size_t n)
{
    if (fd != device || fd < 0)
        return REAL(write)(fd, bytes, n);
    const struct ib_uverbs_cmd_hdr *head = bytes;
    struct command c = {.number = head->command & IB_USER_VERBS_CMD_COMMAND_MASK,
                        .extended = head->command & IB_USER_VERBS_CMD_FLAG_EXTENDED};
    if (c.extended) {
        const struct ib_uverbs_ex_cmd_hdr *more = (const void *)(head + 1);
        c.core = more + 1;
        c.provider = (const char *)c.core + head->in_words * 8u;
        c.core_answer = (void *)(uintptr_t)more->response;
        c.provider_answer = (char *)c.core_answer + head->out_words * 8u;
        c.provider_room = more->provider_out_words * 8u;
    } else {
        c.core = head + 1;
        c.core_answer = (void *)(uintptr_t)*(const __u64 *)c.core;
    }
/* In the older form the provider's part follows at once, and the answer's length counts both. */
#define PARTS(request, response)                                                                             \
    if (!c.extended) {                                                                                       \
        c.provider = (const char *)c.core + offsetof(struct request, driver_data);                           \
        c.provider_answer = (char *)c.core_answer + offsetof(struct response, driver_data);                  \
        c.provider_room = head->out_words * 4u - offsetof(struct response, driver_data);                     \
    }
    switch (c.number) {
    case IB_USER_VERBS_CMD_GET_CONTEXT:
        PARTS(ib_uverbs_get_context, ib_uverbs_get_context_resp)
        open_context(&c);
        break;
    case IB_USER_VERBS_CMD_QUERY_DEVICE: /* the same number in both forms, and one answer begins with the other */
        memset(c.core_answer, 0, c.extended ? head->out_words * 8u : head->out_words * 4u);
        query_device(c.core_answer);
        if (c.extended)
            ((struct ib_uverbs_ex_query_device_resp *)c.core_answer)->response_length =
                sizeof(struct ib_uverbs_ex_query_device_resp);
        break;
    case IB_USER_VERBS_CMD_QUERY_PORT: {
        struct ib_uverbs_query_port_resp *says = c.core_answer;
        *says = (struct ib_uverbs_query_port_resp){
            .state = 4, .max_mtu = 5, .active_mtu = 5, .lid = 1, .gid_tbl_len = 1, .link_layer = 1};
        break;
    }
    case IB_USER_VERBS_CMD_ALLOC_PD:
        PARTS(ib_uverbs_alloc_pd, ib_uverbs_alloc_pd_resp)
        ((struct ib_uverbs_alloc_pd_resp *)c.core_answer)->pd_handle = 1;
        answer(c.provider_answer, c.provider_room, &(struct mlx5_ib_alloc_pd_resp){.pdn = 7}, 4);
        break;
    case IB_USER_VERBS_CMD_CREATE_CQ:
        PARTS(ib_uverbs_create_cq, ib_uverbs_create_cq_resp)
        create_cq(&c);
        break;
    case IB_USER_VERBS_CMD_CREATE_QP:
        PARTS(ib_uverbs_create_qp, ib_uverbs_create_qp_resp)
        create_qp(&c);
        break;
    case IB_USER_VERBS_CMD_MODIFY_QP:
    case IB_USER_VERBS_CMD_DESTROY_QP:
    case IB_USER_VERBS_CMD_DESTROY_CQ:
    case IB_USER_VERBS_CMD_DEALLOC_PD:
        break;
    default:
        fprintf(stderr, "fake_uverbs: the provider asks for command %u%s\n", c.number,
                c.extended ? ", extended" : "");
        errno = EOPNOTSUPP;
        return -1;
    }
    return (ssize_t)n;
}
