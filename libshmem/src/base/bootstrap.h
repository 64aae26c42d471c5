/* Bootstrap: how the processes of a job find each other before there is a heap.
 *
 * Each way of starting (bootstrap_pmix.c, bootstrap_pmi.c, bootstrap_tcp.c for a unique id and for
 * torchrun's variables, bootstrap_single.c) fills one struct; bootstrap.c tries them in order.
 * All ops are collective over the job, return SHMEMX_SUCCESS or a negative error that has been
 * logged with its cause, and end within SHMEM_TIMEOUT (or 120 s when that is 0) if a PE never arrives.
 */
#ifndef SHMEMI_BOOTSTRAP_H
#define SHMEMI_BOOTSTRAP_H

#include "base.h"

struct shmemi_bootstrap {
    const char *name; /* "pmix", "pmi", "env", "uid", "single" */
    char detail[160]; /* for `pyshmem info`: which server, library, address */
    int rank, size;
    bool launched; /* a launcher is our ancestor: its death ends us (see watch.c) */
    void *state;
    /* every PE gives `n` bytes (equal n everywhere), gets size * n in rank order. n > 0. Blocks. */
    int (*allgather)(struct shmemi_bootstrap *b, const void *mine, void *all, size_t n);
    /* returns when every PE is in it. Blocks. */
    int (*barrier)(struct shmemi_bootstrap *b);
    /* asks the launcher to end the whole job with `status`; may return (then the caller exits). */
    void (*abort)(struct shmemi_bootstrap *b, int status);
    /* local, not collective. After it the struct is dead. What the launcher gives only once stays with the
     * process: PMI-1's connection, the star that PMIx introduced. */
    void (*close)(struct shmemi_bootstrap *b);
};

/* How init was asked to start: by itself (uid = NULL) or with rank, size and a unique id in hand. */
enum { SHMEMI_UID_BYTES = 128 };
struct shmemi_bootstrap_request {
    int rank, size;
    const unsigned char *uid; /* SHMEMI_UID_BYTES, or NULL */
};

/* Chooses by SHMEM_BOOTSTRAP: auto = uid if one is given, else pmix, pmi, env, single.
 * A way that sees no sign of its launcher is passed over and says why (shmemi_bootstrap_report). */
int shmemi_bootstrap_open(struct shmemi_bootstrap *b, const struct shmemi_bootstrap_request *req);
/* Fills a fresh unique id: addresses to reach this process, port, random secret. A hub thread serves it in
 * this process, which may be any PE or none of them, until one job has been served or the process ends. */
int shmemi_bootstrap_uid(unsigned char uid[SHMEMI_UID_BYTES]);
/* bootstrap_mpi.c. Is MPI initialized in this process (or finalized already)? Then a job of MPI_COMM_WORLD's processes, all of
 * which call it. */
bool shmemi_mpi_initialized(void);
int shmemi_bootstrap_mpi(struct shmemi_bootstrap *b);
/* One line a way: "pmix: no PMIX_RANK in the environment", "env: chosen: PE 1 of 4, ...": what the last open
 * tried; "not tried yet" before the first. */
void shmemi_bootstrap_report(char *text, size_t n);

/* Each way: 1 = opened, 0 = not present here (why says), negative = present but failed. */
int shmemi_bootstrap_pmix(struct shmemi_bootstrap *b, char *why, size_t n);
int shmemi_bootstrap_pmi(struct shmemi_bootstrap *b, char *why, size_t n);
int shmemi_bootstrap_env(struct shmemi_bootstrap *b, char *why, size_t n);
int shmemi_bootstrap_tcp(struct shmemi_bootstrap *b, const struct shmemi_bootstrap_request *req);
int shmemi_bootstrap_single(struct shmemi_bootstrap *b);

#endif
