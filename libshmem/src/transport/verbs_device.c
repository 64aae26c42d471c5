/* Transport verbs: which port this PE uses, and how it is addressed. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verbs.h"

static const struct shmemi_verbs_lib *lib;

/* Adds to a text that is cut where it does not fit. */
static void say(char *text, size_t n, const char *fmt, ...) SHMEMI_PRINTF(3, 4);
static void say(char *text, size_t n, const char *fmt, ...)
{
    size_t at = strlen(text);
    va_list args;
    va_start(args, fmt);
    if (at + 1 < n)
        vsnprintf(text + at, n - at, fmt, args);
    va_end(args);
}

/* First line of /sys/class/infiniband/DEVICE/..., "" if there is none. */
static const char *sysfs(char *line, size_t n, const char *fmt, ...) SHMEMI_PRINTF(3, 4);
static const char *sysfs(char *line, size_t n, const char *fmt, ...)
{
    char path[256] = "/sys/class/infiniband/";
    size_t at = strlen(path);
    va_list args;
    va_start(args, fmt);
    vsnprintf(path + at, sizeof path - at, fmt, args);
    va_end(args);
    FILE *f = fopen(path, "re");
    if (!f || !fgets(line, (int)n, f))
        line[0] = 0;
    if (f)
        fclose(f);
    line[strcspn(line, "\n")] = 0;
    return line;
}

/* ---- the port ------------------------------------------------------------------------------------------ */

/* SHMEM_HCA_LIST: names, each with or without ":port", separated by commas; a ^ before them turns the list
 * around. */
static bool listed(const char *device, int port)
{
    const char *list = shmemi_env.HCA_LIST;
    bool exclude = list[0] == '^', found = false;
    list += exclude;
    if (!*list)
        return true;
    for (const char *item = list; *item; item += *item == ',') {
        size_t n = strcspn(item, ","), name = strcspn(item, ":,");
        found |= name == strlen(device) && strncmp(item, device, name) == 0 &&
                 (name == n || atoi(item + name + 1) == port);
        item += n;
    }
    return found != exclude;
}

/* How many of the processors that this PE may use are near the device; those of no known place are near to
 * all. */
static int nearness(const char *device)
{
    char line[1024];
    const char *s = sysfs(line, sizeof line, "%s/device/local_cpulist", device);
    cpu_set_t mine;
    if (sched_getaffinity(0, sizeof mine, &mine) != 0)
        return 0;
    if (!*s)
        return CPU_COUNT(&mine);
    int near = 0;
    while (*s) {
        char *end;
        long first = strtol(s, &end, 10), last = first;
        if (end == s)
            break;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        for (long cpu = first; cpu <= last && cpu < CPU_SETSIZE; ++cpu)
            near += CPU_ISSET((size_t)cpu, &mine) != 0;
        s = end + (*end == ',');
    }
    return near;
}

struct candidate {
    struct ibv_device *device;
    uint8_t port;
    int rate, near; /* Gb/s as sysfs has it, and nearness() */
};

/* The faster one is better, then the nearer one. */
static int better(const struct candidate *a, const struct candidate *b)
{
    return a->rate != b->rate ? a->rate - b->rate : a->near - b->near;
}

enum { MOST_PORTS = 64 };

static struct ibv_context *open_plainly(struct ibv_device *device, char *why, size_t n)
{
    struct ibv_context *context = lib->open_device(device);
    if (!context)
        snprintf(why, n, "cannot be opened: %s", strerror(errno));
    return context;
}

/* Adds a device's usable ports; `why` collects what the others lack. */
static int look_at(struct ibv_device *device, verbs_opener opener, struct candidate *found, int count,
                   char *why, size_t n)
{
    const char *name = lib->get_device_name(device);
    char lacks[300] = "";
    struct ibv_device_attr attr;
    struct ibv_context *context = opener(device, lacks, sizeof lacks);
    if (!context || lib->query_device(context, &attr) != 0) {
        say(why, n, "%s%s %s", why[0] ? "; " : "", name, context ? strerror(errno) : lacks);
        if (context)
            lib->close_device(context);
        return count;
    }
    for (uint8_t port = 1; port <= attr.phys_port_cnt && count < MOST_PORTS; ++port) {
        struct ibv_port_attr p = {0};
        char rate[64];
        if (!listed(name, port)) {
            say(why, n, "%s%s:%d is not in SHMEM_HCA_LIST=%s", why[0] ? "; " : "", name, port,
                shmemi_env.HCA_LIST);
        } else if (lib->query_port(context, port, &p) != 0) {
            say(why, n, "%s%s:%d does not answer: %s", why[0] ? "; " : "", name, port, strerror(errno));
        } else if (p.state != IBV_PORT_ACTIVE) {
            say(why, n, "%s%s:%d is %s (cable, switch, or `ip link set ... up`)", why[0] ? "; " : "", name,
                port, lib->port_state_str(p.state));
        } else {
            found[count++] = (struct candidate){
                device, port, atoi(sysfs(rate, sizeof rate, "%s/ports/%d/rate", name, port)), nearness(name)};
        }
    }
    lib->close_device(context);
    return count;
}

/* Of the best ports the PEs of a node take one after the other. */
static struct candidate choose(const struct candidate *found, int count, int local)
{
    struct candidate best[MOST_PORTS];
    int equals = 0;
    for (int i = 0; i < count; ++i) {
        int than = equals ? better(&found[i], &best[0]) : 0;
        if (than > 0)
            equals = 0;
        if (than >= 0)
            best[equals++] = found[i];
    }
    return best[local % equals];
}

int shmemi_verbs_choose(struct verbs_port *port, int local, verbs_opener opener, char *why, size_t n)
{
    char lacks[300];
    why[0] = 0;
    if (!opener)
        opener = open_plainly;
    lib = shmemi_verbs_lib(why, n);
    if (!lib)
        return 0;
    struct candidate found[MOST_PORTS];
    int devices = 0, count = 0;
    struct ibv_device **list = lib->get_device_list(&devices);
    for (int i = 0; list && i < devices; ++i)
        count = look_at(list[i], opener, found, count, why, n);
    if (count) {
        struct candidate c = choose(found, count, local);
        *port = (struct verbs_port){.context = opener(c.device, lacks, sizeof lacks), .number = c.port};
        const char *name = lib->get_device_name(c.device);
        snprintf(port->name, sizeof port->name, "%s:%d", name, c.port);
        if (!port->context || lib->query_device(port->context, &port->device) != 0 ||
            lib->query_port(port->context, c.port, &port->attr) != 0) {
            snprintf(why, n, "%s: %s", port->name, strerror(errno));
            if (port->context)
                lib->close_device(port->context);
            count = 0;
        } else {
            port->ethernet = port->attr.link_layer == IBV_LINK_LAYER_ETHERNET;
            snprintf(why, n, "%s, %s, %d Gb/s, the best of %d", port->name,
                     port->ethernet ? "RoCE" : "InfiniBand", c.rate, count);
        }
    } else if (!devices) {
        snprintf(why, n, "no RDMA device (`ibv_devices` lists them; containers need /dev/infiniband)");
    }
    if (list)
        lib->free_device_list(list);
    return count > 0;
}

/* ---- its address --------------------------------------------------------------------------------------- */

/* Version of RoCE that a GID stands for; 0 = it is no GID of RoCE. */
static int roce_version(const struct verbs_port *port, int index)
{
    char type[64];
    int name = (int)strcspn(port->name, ":");
    struct ibv_gid_entry e;
    if (lib->query_gid_entry &&
        lib->query_gid_entry(port->context, port->number, (uint32_t)index, &e, 0, sizeof e) == 0)
        return e.gid_type == IBV_GID_TYPE_ROCE_V2 ? 2 : e.gid_type == IBV_GID_TYPE_ROCE_V1 ? 1 : 0;
    sysfs(type, sizeof type, "%.*s/ports/%d/gid_attrs/types/%d", name, port->name, port->number, index);
    return strstr(type, "v2") ? 2 : type[0] ? 1 : 0;
}

static bool is_ipv4(const union ibv_gid *gid)
{
    return IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)gid->raw);
}

static const char *gid_text(const union ibv_gid *gid, char text[INET6_ADDRSTRLEN])
{
    return inet_ntop(AF_INET6, gid->raw, text, INET6_ADDRSTRLEN);
}

/* The GID of an index, false = there is none. */
static bool gid_at(const struct verbs_port *port, int index, union ibv_gid *gid)
{
    static const union ibv_gid none;
    return lib->query_gid(port->context, port->number, index, gid) == 0 &&
           memcmp(gid, &none, sizeof none) != 0;
}

static void list_gids(const struct verbs_port *port, char *text, size_t n)
{
    text[0] = 0;
    for (int i = 0; i < port->attr.gid_tbl_len; ++i) {
        union ibv_gid gid;
        char address[INET6_ADDRSTRLEN];
        if (!gid_at(port, i, &gid))
            continue;
        int version = port->ethernet ? roce_version(port, i) : 0;
        say(text, n, "%s%d = %s%s", text[0] ? ", " : "", i, gid_text(&gid, address),
            version ? version == 2 ? " (RoCE v2)" : " (RoCE v1)" : "");
    }
}

/* Which GID is to be preferred: routers pass RoCE v2 alone; an IPv4 address is what networks are most
 * often set up for; a link-local one reaches no further than the switch. */
static int preference(int version, const union ibv_gid *gid)
{
    bool link_local = gid->raw[0] == 0xfe && (gid->raw[1] & 0xc0) == 0x80;
    if (version != 2)
        return 1;
    return is_ipv4(gid) ? 4 : link_local ? 2 : 3;
}

static int choose_gid(const char *call, struct verbs_port *port)
{
    long wanted = shmemi_env.IB_GID_INDEX;
    int best = 0;
    char text[INET6_ADDRSTRLEN], all[600];
    list_gids(port, all, sizeof all);
    for (int i = 0; i < port->attr.gid_tbl_len; ++i) {
        union ibv_gid gid;
        if ((wanted >= 0 && i != wanted) || !gid_at(port, i, &gid))
            continue;
        int version = port->ethernet ? roce_version(port, i) : 0;
        int is = port->ethernet ? preference(version, &gid) : 1;
        if (is <= best)
            continue;
        best = is;
        port->gid_index = i;
        port->gid = gid;
        port->roce = version;
    }
    if (best) {
        shmemi_debug("verbs: %s GID %d = %s%s of: %s", port->name, port->gid_index,
                     gid_text(&port->gid, text), wanted >= 0 ? ", by SHMEM_IB_GID_INDEX," : "", all);
        return SHMEMX_SUCCESS;
    }
    if (wanted >= 0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "SHMEM_IB_GID_INDEX=%ld: %s has no such GID; it has %s",
                           wanted, port->name, all[0] ? all : "none");
    return shmemi_fail(SHMEMX_ERR_SYSTEM, call,
                       "%s has no GID: its network device needs an IP address or must be up", port->name);
}

static int choose_pkey(const char *call, struct verbs_port *port)
{
    const char *text = shmemi_env.IB_PKEY;
    char *end, all[400] = "";
    if (!*text)
        return SHMEMX_SUCCESS; /* the first one: the default partition, unless an administrator chose */
    unsigned long wanted = strtoul(text, &end, 0);
    if (end == text || *end || wanted == 0 || wanted > 0xffff)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "SHMEM_IB_PKEY=%s is no partition key, such as 0x8001",
                           text);
    for (int i = 0; i < port->attr.pkey_tbl_len; ++i) {
        __be16 raw;
        if (lib->query_pkey(port->context, port->number, i, &raw) != 0 || raw == 0)
            continue;
        unsigned key = ntohs(raw);
        /* the highest bit says full member or limited; the number of the partition is the rest */
        if ((key & 0x7fff) == (wanted & 0x7fff)) {
            port->pkey_index = i;
            return SHMEMX_SUCCESS;
        }
        say(all, sizeof all, "%s0x%04x", all[0] ? ", " : "", key);
    }
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "SHMEM_IB_PKEY=%s: %s is not in that partition, but in %s",
                       text, port->name, all);
}

static int within(const char *call, const char *name, long value, long most)
{
    return value >= 0 && value <= most
               ? SHMEMX_SUCCESS
               : shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s=%ld, 0 to %ld are possible", name, value, most);
}

int shmemi_verbs_settings(const char *call, struct verbs_port *port)
{
    int rc;
    if ((rc = within(call, "SHMEM_IB_TRAFFIC_CLASS", shmemi_env.IB_TRAFFIC_CLASS, 255)) != 0 ||
        (rc = within(call, "SHMEM_IB_SERVICE_LEVEL", shmemi_env.IB_SERVICE_LEVEL, 15)) != 0 ||
        (rc = within(call, "SHMEM_IB_TIMEOUT", shmemi_env.IB_TIMEOUT, 31)) != 0 ||
        (rc = within(call, "SHMEM_IB_RETRY_COUNT", shmemi_env.IB_RETRY_COUNT, 7)) != 0)
        return rc;
    const char *atomics = shmemi_env.IB_ATOMICS;
    if (strcmp(atomics, "target") != 0 && strcmp(atomics, "native") != 0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "SHMEM_IB_ATOMICS=%s; target and native are possible",
                           atomics);
    const char *connect = shmemi_env.IB_CONNECT;
    if (strcmp(connect, "auto") != 0 && strcmp(connect, "lazy") != 0 && strcmp(connect, "eager") != 0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "SHMEM_IB_CONNECT=%s; auto, lazy and eager are possible", connect);
    return (rc = choose_gid(call, port)) != 0 ? rc : choose_pkey(call, port);
}

struct ibv_ah_attr shmemi_verbs_path(const struct verbs_port *port, uint16_t lid, const uint8_t gid[16])
{
    struct ibv_ah_attr a = {.dlid = lid,
                            .sl = (uint8_t)shmemi_env.IB_SERVICE_LEVEL,
                            .port_num = port->number,
                            .is_global = port->ethernet || shmemi_env.IB_GID_INDEX >= 0 ||
                                         memcmp(gid, port->gid.raw, 8) != 0, /* another subnet */
                            .grh = {.sgid_index = (uint8_t)port->gid_index,
                                    .hop_limit = 64,
                                    .traffic_class = (uint8_t)shmemi_env.IB_TRAFFIC_CLASS}};
    memcpy(a.grh.dgid.raw, gid, 16);
    return a;
}
