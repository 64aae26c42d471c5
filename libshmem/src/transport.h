/* The whole contract between libshmem and a transport.
 *
 * A transport moves bytes between this PE and the segments of its peers. It knows PE numbers of the world, segment
 * numbers, offsets and bytes; it includes nothing from above and never calls back up. Adding one is one file in
 * src/transport/ and one row in transports.def. A slot left NULL is filled with one that returns
 * SHMEMX_ERR_UNSUPPORTED (route.c), unless its comment says otherwise; what a transport can do is read from its
 * slots, there is no list of flags.
 *
 * Common to all slots
 *   callers   have checked initialization, PE number, address range, alignment of atomics, n > 0.
 *   threads   any thread may be in any slot but open, address, connect, expose, learn, withdraw and close.
 *   errors    return 0 or a negative SHMEMX_ERR_*, logged where detected with peer, offset, bytes and status.
 *   buffers   belong to the caller. A blocking slot is done with the local buffer when it returns; an nbi one
 *             when quiet returns.
 *   contexts  every operation belongs to one; fence and quiet are a context's own. A quiet may wait for what other
 *             contexts issued to the same PE before its own last operation, since a connection completes in order, but
 *             not for what they issued after it (ucx: for at most 64 KiB of it). Where the processor or one stream does
 *             it all (shm, cuda), contexts are ordered and completed together.
 */
#ifndef SHMEMI_TRANSPORT_H
#define SHMEMI_TRANSPORT_H

#include "base/base.h"

/* A segment: a range of memory that every PE has at the same offsets: the host heap and the GPU heap. */
struct shmemi_segment {
    char *base;   /* this PE's copy; NULL = no such segment */
    size_t bytes; /* of one PE's copy */
    /* where the copies are mapped, side by side: the host heap's of this node's PEs by local number, the GPU heap's of this
     * host's PEs by PE number, with gaps for the others */
    char *node_base;
    char **
        bases; /* or, where the driver chose the places, each copy's, by the same number; NULL = side by side */
    size_t stride; /* between two of them; with `bases` the room of each */
    int fd;        /* the memory's descriptor, -1 = none */
};

/* Where this process finds the copy with that number. */
static inline char *shmemi_copy_at(const struct shmemi_segment *s, int number)
{
    return s->bases ? s->bases[number] : s->node_base + (size_t)number * s->stride;
}

enum { SHMEMI_SEGMENT_HOST, SHMEMI_SEGMENT_DEVICE, SHMEMI_SEGMENT_COUNT };

/* What a transport may know of the job. */
struct shmemi_job {
    int me, npes;
    const int *local_of; /* [npes] number on this node, -1 = elsewhere */
    const bool *
        on_host; /* [npes] its GPU memory is mapped here: on this node, or on one that SHMEM_NODE_ID puts beside */
    const struct shmemi_segment *segments;
};

/* An atomic: operands are the bits of the element, zero-extended. */
struct shmemi_amo {
    int op;      /* enum shmemx_amo */
    size_t size; /* 4 or 8 */
    uint64_t value, cond;
    void *fetched; /* `size` bytes, or NULL = old value not wanted */
};

/* How an operation is issued: SHMEMI_BLOCKING or SHMEMI_NBI, and for which context. */
enum { SHMEMI_BLOCKING, SHMEMI_NBI };
enum { SHMEMI_CONTEXT_DEFAULT, SHMEMI_CONTEXTS = 1025 };
static inline unsigned shmemi_how(bool nbi, unsigned context)
{
    return context << 1 | (nbi ? SHMEMI_NBI : SHMEMI_BLOCKING);
}
static inline bool shmemi_nbi(unsigned how)
{
    return how & SHMEMI_NBI;
}
static inline unsigned shmemi_context(unsigned how)
{
    return how >> 1;
}

struct shmemi_transport {
    const char *name;
    /* Can it work here at all? 1 yes; 0 no, with the reason in `why`. Local, before open, touches nothing. */
    int (*probe)(char *why, size_t n);
    /* Sets up its state for a job; local, may block. After an error nothing is left open. */
    int (*open)(const struct shmemi_job *job);
    /* What peers must know to reach this PE, its card: writes at most `room` bytes, returns how many, negative = error,
     * at least 1. Local, after open. NULL = peers need nothing: shared memory is there or it is not. With this slot the
     * transport is a network's: route.c opens it, all PEs in step, where a PE has peers that no transport before it
     * reaches, and hands the cards around. */
    int (*address)(void *card, size_t room);
    /* 1 = it reaches that PE's segment from now on, 0 = it does not, negative = it should, but failed. May block, but not
     * for the peer to call its own. `card`: what the peer's address() gave, `n` bytes; NULL, 0 without that slot. */
    int (*connect)(int pe, int segment, const void *card, size_t n);
    /* Makes [offset, offset + n) of this PE's copy of a segment fit to be put to and got from, and the local side of its own
     * puts and gets: registers the memory, and writes what peers need for it, its key: at most `room` bytes, returns how
     * many; 0 = peers need nothing, and it holds nothing, so GPU memory of the range may be given back; negative = it cannot,
     * and holds nothing for the range. All PEs call it with equal arguments, range after
     * range without gaps, the first one after connect. Until close the pages of a range that it holds stay the same ones.
     * NULL = memory needs no introduction. */
    int (*expose)(int segment, uint64_t offset, size_t n, void *key, size_t room);
    /* What that PE's expose of the same range wrote. Once for each PE it serves, after expose; local. */
    int (*learn)(int pe, int segment, uint64_t offset, size_t n, const void *key, size_t key_bytes);
    /* The segment has gone again, though the transport stays open: what was connected and exposed of it is forgotten. Nothing
     * of it is under way. Local; NULL = nothing is kept for a segment that close does not free. */
    void (*withdraw)(int segment);
    /* Local. Frees all; peers may be gone already. */
    void (*close)(void);
    /* A pointer through which this process loads and stores that PE's copy, NULL = not mapped. Never blocks. */
    void *(*map)(int pe, int segment, uint64_t offset);
    /* Bytes to a peer; an aligned element of 4 or 8 bytes arrives whole. put may return before the bytes are visible there, not before `source` is reusable
     * (blocking); completed by quiet, ordered by fence. */
    int (*put)(int pe, int segment, uint64_t offset, const void *source, size_t n, unsigned how);
    /* Bytes from a peer; in dest on return (blocking), or after quiet. */
    int (*get)(int pe, int segment, uint64_t offset, void *dest, size_t n, unsigned how);
    /* n elements of `size` bytes, dstep and sstep bytes apart; both addresses are local or come from map(). Complete on
     * return. NULL = none faster than a put or get an element; only asked where the CPU cannot copy by itself. */
    int (*strided)(void *dest, size_t dstep, const void *source, size_t sstep, size_t size, size_t n);
    /* Atomic against all atomics of this library on that element, whoever issues them. A fetched value is there on
     * return (blocking), or after quiet. */
    int (*amo)(int pe, int segment, uint64_t offset, const struct shmemi_amo *a, unsigned how);
    /* 1 = its atomics are not atomic against the processors': then all atomics on host memory go through it, those of this
     * PE and of its node too, to which it is connected as well. The same on all PEs. After open. NULL = no. */
    int (*owns_atomics)(void);
    /* As put, then sets or adds `signal` in the 64-bit word at sig_offset of the same PE (segment sig_segment), so
     * that whoever sees the word changed sees the bytes: that PE, and those that share its memory. n may be 0. */
    int (*put_signal)(int pe, int segment, uint64_t offset, const void *source, size_t n, int sig_segment,
                      uint64_t sig_offset, uint64_t signal, int sig_op, unsigned how);
    /* A context's operations to one PE before it are delivered before those of it that follow. Does not wait for
     * completion. */
    int (*fence)(int pe, unsigned context); /* -1 = all PEs */
    /* Waits until all operations of that context to that PE that were issued before the call are complete. The place where
     * an asynchronous error comes out. */
    int (*quiet)(int pe, unsigned context); /* -1 = all PEs */
    /* Makes local memory [addr, addr + n), host or GPU, fit to be the local side of put and get without detours. It stays
     * the caller's and must stay where it is until buffer_unregister. Ranges do not overlap. May block; moves no data.
     * 1 = it holds something for the range, which buffer_unregister(addr) gives back; 0 = this range needs nothing;
     * negative = it cannot, and holds nothing. NULL (both slots) = this transport needs none for any memory: route.c
     * does not ask it. */
    int (*buffer_register)(void *addr, size_t n);
    /* Nothing uses the range any more; local, before close. Cannot fail: the memory may be gone already. */
    void (*buffer_unregister)(void *addr);
    /* Moves things on without blocking: what this PE issued, and what peers wait for from it. Waits call it between two
     * looks; a PE that computes calls nothing, so a transport whose peers need this PE's processor has a thread as well.
     * true = something has moved since the last call: a wait that serves does not go to sleep over it. */
    bool (*progress)(void);
    /* World number of a peer that it has found to be gone, with the cause in `why`; -1 = none. Never blocks; waits ask
     * every 10 ms. NULL = it cannot know. */
    int (*lost)(char *why, size_t n);
    /* Fills what kernels need to use this transport for a peer; `view` is described in shmem_device.h. */
    int (*device_view)(int pe, void *view, size_t bytes);
};

#endif
