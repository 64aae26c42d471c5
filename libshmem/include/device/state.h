/* What a kernel knows of the job: one struct, filled by the host, read by kernels. Shared by the C library
 * (which fills it), CUDA modules (which hold a copy named shmem_device_state) and the host build of the
 * device API.
 *
 * Plain C with fixed widths and no includes, since NVRTC has no standard headers. Every struct is laid out
 * the same by every compiler: fields are sorted so that no padding appears. Append only; then raise the
 * version.
 */
#ifndef SHMEM_DEVICE_STATE_H
#define SHMEM_DEVICE_STATE_H

enum { SHMEMX_DEVICE_STATE_VERSION = 5 };

/* shmemx_device_state.flags */
enum {
    /* 128-byte stores to a peer arrive whole (NVLink; measured on H100: 1.2e9 lines each way, none torn):
     * packets are 128-byte lines. Without it they are 16-byte lines that need no more than whole 8-byte
     * stores. */
    SHMEMX_DEVICE_LINES128 = 1,
    /* Some PE is reached only by kernels that post to a NIC themselves (nic_state.h, SHMEMX_NIC_IBGDA). */
    SHMEMX_DEVICE_POSTS = 2
};

/* Whether a reduction of small vectors takes two trips (shares to their owners, results back) and not one (everything
 * to everybody): what that saves, at 340 GB/s, must take longer than the second trip, 1.2 us; and every share must have
 * something in it. Host and kernels must agree. bytes: 64 bits. */
#define SHMEMX_DEVICE_TWO_SHOTS(bytes, n)                                                                    \
    ((bytes) * ((n) - 1) * ((n) - 2) > 400000ull * (n) && (bytes) >= 16ull * (n))

/* One team of this PE; the array lies in memory that kernels can read and write. Offsets are into each PE's
 * copy of the heap; what lies there is 0 at first. */
struct shmemx_device_team {
    int me, n;         /* this PE's number in it and members; n = 0: no such team, or not a member */
    int start, stride; /* world number of member i is start + i * stride, when table is 0 */
    /* 0, or the address of int[n], world numbers, readable by kernels. */
    unsigned long long table;
    /* Offset of n words of 8 bytes; word j counts the arrivals of member j. */
    unsigned long long sync;
    /* Offset of 2 * n slots, 128-byte aligned; bytes of one, a multiple of 128, 0: no packets for this team. */
    unsigned long long packets, slot_bytes;
    unsigned long long epoch; /* collectives done as packets so far; only kernels write it */
    unsigned finished;        /* blocks of a launch that have done their part of a collective; 0 between */
    unsigned gate;            /* 1: block 0 of a launch has met the other members; 0 between */
    /* 0, or the address of u64[n], where the members' copies are mapped: for members that lie at no regular
     * distance (table, or the state's bases). */
    unsigned long long bases;
    unsigned long long meetings; /* arrivals that this PE has made, and seen of all others */
    unsigned long long unmapped; /* members whose copies kernels here cannot load and store */
};

/* Where PEs are not mapped: what each call to one of them needs first. A fence empties the caches of all memory but constant
 * memory, where the state lies; anywhere else each of these would be a trip of 0.3 us to the L2 cache, one after the
 * other (H100: a `p` by the proxy took 1.64 us with three of them). */
struct shmemx_device_ways {
    unsigned
        path; /* SHMEMX_NIC_* (nic_state.h) of all PEs but those mapped; SHMEMX_NIC_TABLE: each has its own */
    int mapped_first; /* unless path is SHMEMX_NIC_TABLE, PEs mapped_first to mapped_first + mapped - 1 are mapped */
    unsigned mapped;
    unsigned qps;          /* ibgda: queue pairs to each PE */
    unsigned long long qp; /* address of struct shmemx_ibgda_qp[npes][qps] (ibgda_state.h) */
    /* Proxy (proxy_state.h): address of struct shmemx_proxy_ring[rings], a power of two, of `depth` slots each, another one;
     * of the first one's slots, and bytes from one ring's slots to the next one's. */
    unsigned long long ring;
    unsigned rings, depth;
    unsigned long long slots, slots_stride;
    /* SHMEMX_NIC_* of what executes atomics on the words of PEs that are mapped: MAPPED is the GPU itself. Where a NIC does
     * so for other PEs it is that path, since a NIC's atomics and a GPU's are not atomic with each other. */
    unsigned atomics, reserved;
};

/* The kernel's view. PE p's copy of my address a is a + (p - me) * stride; or, where the driver chose the
 * places (bases not 0), a - copy + bases[p]. What every collective needs of the world stands here too, in
 * constant memory: read from the team's entry it would cost a trip to the L2 cache each time. */
struct shmemx_device_state {
    unsigned version; /* SHMEMX_DEVICE_STATE_VERSION; 0: the module was never given its state */
    int me, npes;
    unsigned flags;
    unsigned long long heap;       /* where PE 0's copy is mapped in this process */
    unsigned long long stride;     /* bytes from one PE's copy to the next one's */
    unsigned long long bytes;      /* of one copy */
    unsigned long long mailbox;    /* struct shmemx_device_error in pinned host memory; 0 = errors are lost */
    unsigned long long timeout_ns; /* deadline of each wait; 0 = none */
    unsigned long long internal;   /* offset in each copy of the library's own area */
    unsigned long long teams;      /* struct shmemx_device_team[nteams]: 0 = world, 1 = shared */
    unsigned nteams, reserved;
    unsigned long long copy;  /* where this PE's own copy is mapped */
    unsigned long long bases; /* 0, or the address of u64[npes], readable by kernels */
    /* As teams[0].sync, .packets, .slot_bytes. */
    unsigned long long world_sync, world_packets, world_slot_bytes;
    unsigned long long claim; /* a 32-bit word of the mailbox, in memory of this GPU */
    /* 0: every PE's copy is mapped where it is said above. Else address of struct shmemx_device_nic (nic_state.h), readable
     * by kernels: of the PEs that it names unmapped nothing may be loaded or stored. */
    unsigned long long nic;
    /* 0, or the address of a copy of this, for kernels whose module has none. */
    unsigned long long self;
    struct shmemx_device_ways ways; /* if nic is not 0 */
};

/* The calls that an error can name: X(NAME, "name"). */
#define SHMEMX_DEVICE_CALLS(X)                                                                               \
    X(NONE, "none")                                                                                          \
    X(PTR, "ptr")                                                                                            \
    X(P, "p")                                                                                                \
    X(G, "g")                                                                                                \
    X(PUT, "put")                                                                                            \
    X(GET, "get")                                                                                            \
    X(PUT_SIGNAL, "put_signal")                                                                              \
    X(SIGNAL_OP, "signal_op")                                                                                \
    X(ATOMIC, "atomic")                                                                                      \
    X(WAIT_UNTIL, "wait_until")                                                                              \
    X(SIGNAL_WAIT_UNTIL, "signal_wait_until")                                                                \
    X(SYNC, "sync")                                                                                          \
    X(BARRIER, "barrier")                                                                                    \
    X(BROADCAST, "broadcast")                                                                                \
    X(FCOLLECT, "fcollect")                                                                                  \
    X(ALLTOALL, "alltoall")                                                                                  \
    X(REDUCE, "reduce")                                                                                      \
    X(PUT_PACKETS, "put_packets")                                                                            \
    X(RECV_PACKETS, "recv_packets")                                                                          \
    X(TEAM, "team")                                                                                          \
    X(COLLECT, "collect")                                                                                    \
    X(MOE_DISPATCH, "moe dispatch")                                                                          \
    X(MOE_COMBINE, "moe combine")                                                                            \
    X(MOE_LAYOUT, "moe layout")                                                                              \
    X(QUIET, "quiet")                                                                                        \
    X(QUANT, "quantized collective")                                                                         \
    X(SCAN, "scan")                                                                                          \
    X(FENCE, "fence")
enum shmemx_device_call {
#define X(name, text) SHMEMX_DEVICE_CALL_##name,
    SHMEMX_DEVICE_CALLS(X)
#undef X
};

/* shmemx_device_error.kind */
enum {
    SHMEMX_DEVICE_OK = 0,
    SHMEMX_DEVICE_TIMEOUT, /* pe: who is waited for or -1; address, value: the word, what it held; expected */
    SHMEMX_DEVICE_PE,      /* pe is out of range; value: number of PEs or members */
    SHMEMX_DEVICE_ADDRESS, /* the `value` bytes at address are not in this PE's copy, or misaligned */
    SHMEMX_DEVICE_TEAM,    /* value: a team number that is not this PE's */
    SHMEMX_DEVICE_SCOPE, /* value: threads of a block that is smaller than a warp, in a call that needs one */
    SHMEMX_DEVICE_ROOM,  /* value: bytes of room at address; expected: bytes that there are */
    SHMEMX_DEVICE_EXPERT, /* choice number `value` of topk_idx, at address, is no expert; expected: experts */
    SHMEMX_DEVICE_LIMIT,  /* pe is to receive `value` rows and has room for `expected` */
    SHMEMX_DEVICE_MISMATCH, /* pe is in another call: its word at address is `value`, this PE's `expected` */
    SHMEMX_DEVICE_NODES, /* token `value` of topk_idx, at address, goes to `pe` nodes; expected: at most so many */
    SHMEMX_DEVICE_PROXY, /* the proxy's transport to pe (-1: some PE) failed; value: SHMEMX_ERR_* without its sign */
    SHMEMX_DEVICE_NIC, /* what the NIC did for pe failed: ibgda_state.h says what the fields are then */
    SHMEMX_DEVICE_DATA /* one of the `value` elements from address on is NaN or infinity, or their sum is */
};

/* The mailbox: the first error of this PE's kernels, whose thread has set the word at `claim` from 0 to 1: that
 * lies in GPU memory, since a GPU's atomics need not exist for the host's. The host reads kind (acquire); when it
 * is not 0 the rest is there. It clears kind, then the claim. */
struct shmemx_device_error {
    unsigned kind;
    unsigned call; /* enum shmemx_device_call */
    int me, pe;
    unsigned block, thread; /* linear numbers */
    unsigned long long address, value, expected;
};

#endif
