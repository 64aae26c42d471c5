/* The trace. */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

bool sim_trace_open(struct sim_nic *nic, const char *file)
{
    char path[4096];
    struct timespec real;
    const char *at = strstr(file, "%p");
    if (at)
        snprintf(path, sizeof path, "%.*s%d%s", (int)(at - file), file, (int)getpid(), at + 2);
    else
        snprintf(path, sizeof path, "%s.%d", file, (int)getpid());
    nic->trace = fopen(path, "wbe");
    if (!nic->trace) {
        fprintf(stderr, "libshmem_sim: SHMEM_SIM_TRACE=%s: %s: %s\n", file, path, strerror(errno));
        return false;
    }
    clock_gettime(CLOCK_REALTIME, &real);
    struct sim_trace_header h = {.magic = SIM_TRACE_MAGIC,
                                 .version = SIM_TRACE_VERSION,
                                 .header_bytes = sizeof h,
                                 .pid = (uint32_t)getpid(),
                                 .lid = nic->lid,
                                 .monotonic_ns = sim_now(),
                                 .realtime_ns = (uint64_t)real.tv_sec * 1000000000u + (uint64_t)real.tv_nsec};
    memcpy(h.gid, nic->gid, sizeof h.gid);
    fwrite(&h, sizeof h, 1, nic->trace);
    return true;
}

void sim_trace_close(struct sim_nic *nic)
{
    if (nic->trace)
        fclose(nic->trace);
    nic->trace = NULL;
}

void sim_trace(struct sim_nic *nic, enum sim_trace_kind kind, uint32_t number, const void *head,
               size_t head_bytes, const void *body, size_t body_bytes)
{
    static const unsigned char zeros[8];
    if (!nic->trace)
        return;
    struct sim_trace_record r = {sim_now(), (uint16_t)kind, (uint16_t)(head_bytes + body_bytes), number};
    fwrite(&r, sizeof r, 1, nic->trace);
    fwrite(head, 1, head_bytes, nic->trace);
    if (body_bytes)
        fwrite(body, 1, body_bytes, nic->trace);
    fwrite(zeros, 1, (8 - r.bytes % 8) % 8, nic->trace);
}

void sim_trace_text(struct sim_nic *nic, enum sim_trace_kind kind, uint32_t number, const char *fmt, ...)
{
    char text[256];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    sim_trace(nic, kind, number, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1, NULL, 0);
}

void sim_trace_qp_state(struct sim_nic *nic, const struct sim_qp *qp)
{
    struct sim_trace_qp t = {.state = (uint8_t)qp->state,
                             .type = qp->type,
                             .ack_timeout = qp->ack_timeout,
                             .retries = qp->retries,
                             .pd = qp->pd,
                             .send_cq = qp->send_cq ? qp->send_cq->number : 0,
                             .receive_cq = qp->receive_cq ? qp->receive_cq->number : 0,
                             .send_blocks = qp->sq_blocks,
                             .receives = qp->rq_count,
                             .remote_qpn = qp->remote_qpn,
                             .remote_lid = qp->remote_lid,
                             .reads = (uint16_t)(1u << qp->log_reads)};
    sim_trace(nic, SIM_TRACE_QP, qp->number, &t, sizeof t, NULL, 0);
}
