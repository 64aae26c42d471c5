/* The processes of one node: who they are, the descriptors they share, who is still alive, and the end of all.
 *
 * A small control segment (memfd) is mapped by every PE of the node. A PE is alive while it holds a POSIX record
 * lock on its byte of that file: the kernel drops the lock with the process, whatever kills it, and any PE can ask
 * for it without a connection, a thread or a name in a file system.
 */
#ifndef SHMEMI_NODE_H
#define SHMEMI_NODE_H

#include "bootstrap.h"

struct shmemi_node {
    int me, npes; /* in the job */
    int local_me, local_npes;
    int *local_of;           /* [npes] number on this node, -1 = another node */
    int nodes, my_node;      /* numbered by their first PE */
    int *node_of, *index_of; /* [npes] node, and number on it */
    int *node_npes;          /* [nodes] */
    bool *on_host;           /* [npes] counted in host_npes */
    int host_npes;  /* PEs that may pass descriptors: this node's, and those that SHMEM_NODE_ID puts beside */
    int neighbours; /* PEs on this machine, in all its nodes */
    int processors; /* that those may use together */
};
extern struct shmemi_node shmemi_node;

/* Collective. Learns which PEs share which node. PEs share one when they run as one user on one machine in one network
 * namespace, give the same SHMEM_NODE_ID, and have the transport that loads and stores in each other's memory among
 * those of SHMEM_TRANSPORTS (`together`). `heap_bytes` must be equal everywhere. */
int shmemi_node_learn(const char *call, struct shmemi_bootstrap *b, size_t heap_bytes, bool together);
/* Collective over the node. Creates `bytes` of shared memory a PE at the first of them and hands the descriptor to the
 * rest, starts the watcher. *heap_fd belongs to the caller. */
int shmemi_node_open(const char *call, struct shmemi_bootstrap *b, size_t bytes, int *heap_fd);
/* Equal on all PEs that run on this machine's processors, whatever their nodes; 40 bytes are enough. */
void shmemi_node_machine(char *name, size_t n);
/* World number of the PE with that number on that node. */
int shmemi_node_pe(int node, int index);
/* Local. This PE counts as having left properly from here on. */
void shmemi_node_close(void);

/* World number of a PE of this node that ended without finalize, or -1. Does not return where the job is being ended. */
int shmemi_node_find_dead(int *pid);
/* Tells every PE of the node to exit with `status` at once, unless an earlier call did; returns. */
void shmemi_node_end_all(int status);

#endif
