/* What a kernel knows of the PEs whose copy of the heap it cannot load and store: which path goes to each. Filled by the
 * host where there are such PEs (shmemx_device_state.nic), read by kernels. Plain C without includes, laid out as state.h.
 */
#ifndef SHMEM_DEVICE_NIC_STATE_H
#define SHMEM_DEVICE_NIC_STATE_H

/* How a kernel reaches a PE. */
enum {
    SHMEMX_NIC_MAPPED = 0, /* by loads and stores */
    SHMEMX_NIC_PROXY = 1,  /* a thread of the host posts for it (device/proxy.h) */
    SHMEMX_NIC_IBGDA = 2,  /* it posts to the NIC itself (device/ibgda.h) */
    SHMEMX_NIC_BOTH = 3,   /* as IBGDA, but puts of proxy_from bytes and more as PROXY */
    SHMEMX_NIC_TABLE = 255 /* shmemx_device_ways.path: the table shmemx_device_nic.path says it */
};

struct shmemx_device_nic {
    unsigned unmapped; /* PEs that are not mapped; not 0 */
    unsigned
        used; /* bit 1 << SHMEMX_NIC_PROXY, bit 1 << SHMEMX_NIC_IBGDA: some PE is reached so; _BOTH sets all three */
    unsigned long long path; /* address of unsigned char[npes]: SHMEMX_NIC_* of each PE */
    /* Addresses of struct shmemx_device_proxy (proxy_state.h) and struct shmemx_device_ibgda (ibgda_state.h); 0 = not
     * used. */
    unsigned long long proxy, ibgda;
    /* 0, or the address of a 32-bit word in pinned host memory: not 0 while an error of a path waits for the host to ask
     * for it. Until then waits and quiets of kernels end with false. */
    unsigned long long failed;
    unsigned look; /* 1 while a thread of this GPU looks at `failed` */
    unsigned
        amos; /* 1: kernels have sent atomics for PEs that are mapped by shmemx_device_ways.atomics; no kernel makes it 0 */
    unsigned long long proxy_from; /* bytes; for PEs whose path is SHMEMX_NIC_BOTH */
};

#endif
