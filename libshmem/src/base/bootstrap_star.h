/* A star over TCP: one hub gathers and broadcasts, every PE (the hub's own too) is a leaf.
 *
 * Used by bootstrap_env.c (rank 0 makes the hub) and bootstrap_tcp.c (whoever made the unique id does).
 * The hub is a thread of its own, so it serves before, during and without its process's own part in the job.
 *
 * Wire, all integers in the byte order of the machine (the magic tells another one apart):
 *     hub  -> leaf   greeting   who speaks first is known at once from any other service on a port
 *     leaf -> hub    hello      proves that it has the key, gives rank and size
 *     hub  -> leaf   welcome    proves that it has the key
 *     hub  -> leaf   frame      "all are here", or an error
 * and then for each collective a frame from every leaf and one frame back to each. Nobody sends the key.
 */
#ifndef SHMEMI_BOOTSTRAP_STAR_H
#define SHMEMI_BOOTSTRAP_STAR_H

#include "bootstrap.h"

#include <sys/socket.h>

enum { STAR_KEY_BYTES = 16, STAR_NONCE_BYTES = 16, STAR_MAC_BYTES = 16, STAR_TEXT_BYTES = 512 };
#define STAR_MAGIC "shmem\1s\n" /* 8 bytes; the number is the version of the wire */
#define STAR_FRAME_MAGIC 0x53684d31u

struct star_greeting {
    char magic[8];
    uint8_t nonce[STAR_NONCE_BYTES];
};

struct star_hello {
    char magic[8];
    uint8_t nonce[STAR_NONCE_BYTES];
    int32_t rank, size;
    uint64_t process;    /* star_process(): the hub answers the leaf of its own process last */
    uint64_t timeout_ms; /* how long this leaf waits for the others */
    uint8_t mac[STAR_MAC_BYTES];
};

struct star_welcome {
    uint8_t mac[STAR_MAC_BYTES];
};

enum star_op { STAR_JOIN = 1, STAR_ALLGATHER, STAR_BARRIER, STAR_BYE, STAR_ABORT };

struct star_frame {
    uint32_t magic;
    int32_t op;     /* enum star_op; from the hub: status (0 or a negative error, then `bytes` of text) */
    uint64_t round; /* counts the collectives; from the hub with JOIN: its own rank, or UINT64_MAX */
    uint64_t bytes; /* of payload behind the frame; ABORT: the exit status */
    uint64_t timeout_ms;
};

struct star_address {
    struct sockaddr_storage sa;
    socklen_t len;
};

/* SipHash-2-4 with 128 bits out (Aumasson, Bernstein 2012): a keyed digest of n bytes. */
void shmemi_star_mac(uint8_t mac[STAR_MAC_BYTES], const uint8_t key[STAR_KEY_BYTES], const void *data,
                     size_t n);
/* What hello and welcome prove: a digest of both nonces, whose side, rank and size. */
void shmemi_star_proof(uint8_t mac[STAR_MAC_BYTES], const uint8_t key[STAR_KEY_BYTES], const char *side,
                       const struct star_greeting *greeting, const struct star_hello *hello);
/* Equal, in a time that does not depend on where they differ. */
bool shmemi_star_equal(const uint8_t *a, const uint8_t *b, size_t n);
/* A number of this process, different in every process, also after fork. */
uint64_t shmemi_star_process(void);
/* The other end is on this machine and belongs to another user. */
bool shmemi_star_foreign_user(int fd);
/* "127.0.0.1:4711", "[::1]:4711" */
const char *shmemi_star_text(const struct star_address *a, char *text, size_t n);

/* A listening socket at `a` (port 0 = any; *a becomes the real one). Returns it or -1 with errno. */
int shmemi_star_listen(struct star_address *a);
/* Starts the thread that serves one job behind `listener`, which it owns from then on, also on failure. */
int shmemi_star_serve(int listener, const uint8_t key[STAR_KEY_BYTES]);

struct star_join {
    const struct star_address *addresses; /* ways to one hub; all are tried at once */
    int count;
    bool retry; /* the hub may come up later: keep trying until the deadline */
    const uint8_t *key;
    int rank, size;
    const char *name, *hint; /* b->name; what to look at when no hub answers */
};
/* Fills b, once all `size` PEs have joined; else a logged error. */
int shmemi_star_join(struct shmemi_bootstrap *b, const struct star_join *join);

/* SHMEM_TIMEOUT, or 120 s when that is 0 (env not read yet counts as 0). */
double shmemi_bootstrap_patience(void);

#endif
