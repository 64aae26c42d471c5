/* What the software NIC writes down (SHMEM_SIM_TRACE), for `pyshmem nic-trace`, for replay, and for tests.
 *
 * SHMEM_SIM_TRACE=FILE: each process writes FILE with its number for %p, or, without %p, FILE.PID. A file is one
 * sim_trace_header, then records: a sim_trace_record, and behind it `bytes` bytes, whose form `kind` says; the next record
 * begins at the next multiple of 8. Numbers have the byte order of the machine that wrote; what was copied from queues,
 * records and registers stays as it was there, big-endian. A file that ends within a record was cut by the end of its
 * process. Records of one file are in the order in which the NIC did things; its time never goes back. */
#ifndef SIM_TRACE_H
#define SIM_TRACE_H

#include <stdint.h>

#define SIM_TRACE_MAGIC "SHMEMNIC"
enum { SIM_TRACE_VERSION = 1 };

struct sim_trace_header {
    char magic[8];
    uint32_t version, header_bytes; /* of this struct: records begin there */
    uint32_t pid, lid;
    uint8_t gid[16];
    uint64_t monotonic_ns, realtime_ns; /* the same moment by both clocks */
};

struct sim_trace_record {
    uint64_t time_ns; /* CLOCK_MONOTONIC */
    uint16_t kind;    /* enum sim_trace_kind */
    uint16_t bytes;   /* of what follows */
    uint32_t number;  /* of the queue pair, completion queue or key that it is about; 0 = the NIC */
};

enum sim_trace_kind {
    SIM_TRACE_QP = 1,       /* sim_trace_qp: made, or its state has changed */
    SIM_TRACE_CQ = 2,       /* sim_trace_cq: made, gone, or overrun */
    SIM_TRACE_KEY = 3,      /* sim_trace_key: registered, or gone (bytes 0) */
    SIM_TRACE_DOORBELL = 4, /* sim_trace_doorbell: a write to the UAR's register was seen */
    SIM_TRACE_RECORD = 5,  /* sim_trace_doorbell: the record was read and had risen (error state, receives) */
    SIM_TRACE_WQE = 6,     /* sim_trace_wqe, then its ds * 16 bytes as fetched */
    SIM_TRACE_RECEIVE = 7, /* sim_trace_wqe, then the receive's data segments */
    SIM_TRACE_CQE = 8,     /* sim_trace_cqe, then the 64 bytes as written */
    SIM_TRACE_LANDED = 9,  /* sim_trace_landed: a request of a peer was executed here, or refused */
    SIM_TRACE_FAULT = 10,  /* text: a fault on demand that was applied */
    SIM_TRACE_VIOLATION = 11 /* text: a rule that the program broke */
};

enum sim_state { SIM_RESET, SIM_INIT, SIM_RTR, SIM_RTS, SIM_ERR, SIM_GONE };

struct sim_trace_qp {
    uint8_t state;                /* enum sim_state */
    uint8_t type;                 /* 0 = RC, 2 = UD */
    uint8_t ack_timeout, retries; /* 4.096 us << ack_timeout, that often again */
    uint32_t pd, send_cq, receive_cq;
    uint32_t send_blocks, receives; /* depths */
    uint32_t remote_qpn;
    uint16_t remote_lid, reads; /* reads and atomics under way at most */
};
struct sim_trace_cq {
    uint32_t log_size;
    uint8_t collapsed, ignore_overrun, gone, overrun;
};
struct sim_trace_key {
    uint64_t address, bytes;
    uint32_t pd, access; /* enum ibv_access_flags */
};
struct sim_trace_doorbell {
    uint8_t reg[8];    /* the register: BE32(index << 8), BE32(qpn << 8) */
    uint8_t record[8]; /* the doorbell record at this time: receive, send */
    uint16_t producer; /* the send queue's producer index from now on (DOORBELL), or the record's (RECORD) */
    uint16_t fetched;  /* blocks that the NIC has fetched so far, modulo 2^16 */
    uint32_t taken;    /* 1 = it told something new, 0 = stale, equal, dropped, or the state is not RTS */
};
struct sim_trace_wqe {
    uint16_t index;  /* of its first block */
    uint16_t blocks; /* receives: 1 */
};
struct sim_trace_cqe {
    uint32_t index; /* of the entry, from 0, modulo 2^32 */
    uint32_t qpn;
};
struct sim_trace_landed {
    uint8_t opcode;           /* enum shmemx_mlx5_opcode */
    uint8_t syndrome, vendor; /* of the answer; 0 = executed */
    uint8_t flags;            /* 1 = the message's last packet */
    uint32_t bytes;           /* of this packet */
    uint64_t address;
    uint32_t rkey, remote_qpn;
    uint32_t sequence; /* of the message */
    uint16_t remote_lid, reserved;
};

#endif
