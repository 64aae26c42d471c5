/* Of nic_replay.c: reading traces, and comparing entries. */
#include "replay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

void give_up(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "nic_replay: ");
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(2);
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

static void read_trace(const char *name)
{
    struct stat s;
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &s) != 0)
        give_up("%s: %s", name, strerror(errno));
    size_t n = (size_t)s.st_size;
    const struct sim_trace_header *h =
        n >= sizeof *h ? mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    close(fd);
    if (h == MAP_FAILED || memcmp(h->magic, SIM_TRACE_MAGIC, sizeof h->magic) != 0 ||
        h->version != SIM_TRACE_VERSION)
        give_up("%s: no trace of the software NIC, or of another version", name);
    static size_t room;
    for (size_t at = h->header_bytes; at + sizeof(struct sim_trace_record) <= n;) {
        const struct sim_trace_record *r = (const void *)((const char *)h + at);
        if (at + sizeof *r + r->bytes > n)
            break;
        if (replay.count == room) {
            room = room ? 2 * room : 4096;
            replay.records = realloc(replay.records, room * sizeof *replay.records);
            if (!replay.records)
                give_up("%s: no memory", name);
        }
        replay.records[replay.count++] =
            (struct record){.file = name,
                            .lid = (uint16_t)h->lid,
                            .wall = h->realtime_ns + r->time_ns - h->monotonic_ns,
                            .head = r,
                            .body = r + 1,
                            .bytes = r->bytes};
        at += (sizeof *r + r->bytes + 7) / 8 * 8;
    }
}

static int earlier(const void *a, const void *b)
{
    const struct record *x = a, *y = b;
    if (x->wall != y->wall)
        return x->wall < y->wall ? -1 : 1;
    return x->head < y->head ? -1 : x->head > y->head;
}

struct stream *take_stream(uint16_t lid, uint32_t number)
{
    static struct stream none;
    struct stream *first = &none;
    for (struct stream *s = replay.streams; s; s = s->next) /* the newest comes first */
        if (s->lid == lid && s->number == number && !s->taken)
            first = s;
    first->taken = true;
    return first;
}

static struct stream *stream_of(uint16_t lid, uint32_t number)
{
    struct stream *s = replay.streams;
    while (s && (s->lid != lid || s->number != number || s->gone))
        s = s->next;
    if (s)
        return s;
    s = calloc(1, sizeof *s);
    if (!s)
        give_up("no memory");
    *s = (struct stream){.next = replay.streams, .lid = lid, .number = number};
    return replay.streams = s;
}

static void add(struct numbers *n, size_t at)
{
    if (n->count == n->room) {
        n->room = n->room ? 2 * n->room : 256;
        n->at = realloc(n->at, n->room * sizeof *n->at);
        if (!n->at)
            give_up("no memory");
    }
    n->at[n->count++] = at;
}

static bool of_request(const unsigned char *e)
{
    unsigned kind = e[63] >> 4;
    return kind == SHMEMX_MLX5_CQE_REQUEST || kind == SHMEMX_MLX5_CQE_REQUEST_ERROR;
}

/* Which records belong to which queue pair. */
static void sort_out(size_t i)
{
    struct record *r = &replay.records[i];
    if (r->head->kind == SIM_TRACE_QP) {
        stream_of(r->lid, r->head->number)->gone = ((const struct sim_trace_qp *)r->body)->state == SIM_GONE;
    } else if (r->head->kind == SIM_TRACE_WQE) {
        add(&stream_of(r->lid, r->head->number)->wqes, i);
    } else if (r->head->kind == SIM_TRACE_CQE) {
        const struct sim_trace_cqe *t = r->body;
        const unsigned char *e = (const unsigned char *)(t + 1);
        struct stream *s = stream_of(r->lid, t->qpn);
        if (!of_request(e))
            return;
        add(&s->entries, i);
        if (e[63] >> 4 != SHMEMX_MLX5_CQE_REQUEST_ERROR || e[55] != SHMEMX_MLX5_SYNDROME_RETRY_EXCEEDED)
            return;
        for (size_t k = s->wqes.count; k--;) {
            struct record *w = &replay.records[s->wqes.at[k]];
            if (((const struct sim_trace_wqe *)w->body)->index == (e[60] << 8 | e[61])) {
                w->silent = true;
                return;
            }
        }
    }
}

void read_traces(char **names, int n)
{
    for (int i = 0; i < n; i++)
        read_trace(names[i]);
    qsort(replay.records, replay.count, sizeof *replay.records, earlier);
    for (size_t i = 0; i < replay.count; i++)
        sort_out(i);
}

/* ---- entries --------------------------------------------------------------------------------------------------- */

static struct said said_by(const unsigned char *e)
{
    bool error = e[63] >> 4 == SHMEMX_MLX5_CQE_REQUEST_ERROR;
    return (struct said){.kind = e[63] >> 4,
                         .opcode = e[56],
                         .syndrome = error ? e[55] : 0,
                         .vendor = error ? e[54] : 0,
                         .index = (uint16_t)(e[60] << 8 | e[61]),
                         .bytes = error ? 0 : sim_be32(e + 44)};
}

const unsigned char *entry_at(const struct numbers *entries, size_t i)
{
    return (const unsigned char *)replay.records[entries->at[i]].body + sizeof(struct sim_trace_cqe);
}

bool is_flush(const unsigned char *e)
{
    return e[63] >> 4 == SHMEMX_MLX5_CQE_REQUEST_ERROR && e[55] == SHMEMX_MLX5_SYNDROME_FLUSHED;
}

void collect(void)
{
    for (struct ring *c = replay.rings; c; c = c->next)
        for (; c->taken != c->cq->produced; c->taken++) {
            const unsigned char *e =
                c->buffer + (size_t)(c->taken & ((1u << c->cq->log_size) - 1)) * SHMEMX_MLX5_CQE;
            struct pair *p = replay.pairs;
            while (p && p->qp->number != (sim_be32(e + 56) & 0xffffff))
                p = p->next;
            if (!p || !of_request(e))
                continue;
            if (p->count == p->room) {
                p->room = p->room ? 2 * p->room : 256;
                p->found = realloc(p->found, p->room * sizeof *p->found);
                if (!p->found)
                    give_up("no memory");
            }
            p->found[p->count++] = said_by(e);
        }
}

static int text_of(const struct said *s, char *out, size_t n)
{
    if (!s)
        return snprintf(out, n, "nothing");
    if (s->syndrome)
        return snprintf(out, n, "0x%04x opcode 0x%02x error 0x%02x/%02x", s->index, s->opcode, s->syndrome,
                        s->vendor);
    return snprintf(out, n, "0x%04x opcode 0x%02x %u bytes", s->index, s->opcode, s->bytes);
}

/* Vendors' codes are firmware's and not compared. */
static bool same(const struct said *a, const struct said *b)
{
    return a->kind == b->kind && a->opcode == b->opcode && a->syndrome == b->syndrome &&
           a->index == b->index && a->bytes == b->bytes;
}

int compare(bool json)
{
    size_t entries = 0, different = 0;
    if (json)
        printf("{\"differences\": [");
    for (struct pair *p = replay.pairs; p; p = p->next) {
        struct numbers *traced = &p->stream->entries;
        bool differs = false;
        for (size_t k = 0; k < p->count || traced->next < traced->count; k++) {
            const unsigned char *e = traced->next < traced->count ? entry_at(traced, traced->next++) : NULL;
            struct said was = e ? said_by(e) : (struct said){0}, *is = k < p->count ? &p->found[k] : NULL;
            entries += e != NULL;
            if (differs || (e && is && same(&was, is))) /* what follows a difference follows from it */
                continue;
            char before[80], now[80];
            text_of(e ? &was : NULL, before, sizeof before);
            text_of(is, now, sizeof now);
            if (json)
                printf("%s{\"lid\": %u, \"qpn\": %u, \"trace\": \"%s\", \"replay\": \"%s\"}",
                       different ? ", " : "", p->lid, p->number, before, now);
            else
                printf("lid %u QP 0x%x: %s in the trace, %s in the replay\n", p->lid, p->number, before, now);
            differs = true;
            different++;
        }
    }
    if (json)
        printf("], \"requests\": %zu, \"entries\": %zu}\n", replay.requests, entries);
    else
        printf("%zu requests posted again, %zu entries compared, %zu queue pairs differ\n", replay.requests,
               entries, different);
    return different != 0;
}
