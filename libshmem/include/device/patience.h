/* How long a kernel waits: by the clock, with naps, until the deadline.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_PATIENCE_H
#define SHMEM_DEVICE_PATIENCE_H

namespace shmem
{

namespace detail
{

/* What a wait that has polled in vain does now and then: the time when it began, once it is known, `too_late`, or
 * `cut_off`, since a path has failed. Out of line and by value, so that a poll loop keeps its registers. */
constexpr u64 too_late = ~0ull, cut_off = too_late - 1;
SHMEMX_DEVICE_SLOW u64 look_at_clock(u64 start, bool nap)
{
    if (nap)
        arch::nap();
    if (some_far() && nic_failed())
        return cut_off;
    const u64 limit = arch::state().timeout_ns;
    if (limit == 0)
        return 0;
    const u64 now = arch::nanoseconds();
    return start == 0 ? now : now - start > limit ? too_late : start;
}

/* What polls in vain until its time is over: `Own::expired` is asked every 64 polls, so that a short wait never pays for
 * it, and sets `left_` to the polls until the next time. */
template <class Own> class persistent
{
  public:
    /* Once after each poll that failed: true when the time is over. */
    SHMEMX_DEVICE_FN bool over()
    {
        return tired() && static_cast<Own *>(this)->expired();
    }
    /* By a warp whose lanes poll in step: the same answer in all of them. */
    SHMEMX_DEVICE_FN bool over_in_step()
    {
        return tired() && !arch::all(warp, !static_cast<Own *>(this)->expired());
    }

  protected:
    u64 start_ = 0;
    unsigned left_ = 64;

  private:
    SHMEMX_DEVICE_FN bool tired()
    {
        arch::relax();
        return --left_ == 0;
    }
};

/* How long one wait may last: SHMEM_TIMEOUT. A long one naps. */
class patience : public persistent<patience>
{
    friend persistent<patience>;

  public:
    /* Of a wait that is over: not by its own deadline. Whoever saw the path fail has said why. */
    SHMEMX_DEVICE_FN bool cut() const
    {
        return start_ == cut_off;
    }

  private:
    SHMEMX_DEVICE_FN bool expired()
    {
        const bool nap = ++turns_ > 128;
        left_ = nap ? 1 : 64;
        start_ = look_at_clock(start_, nap);
        return start_ >= cut_off;
    }

    unsigned turns_ = 0;
};
/* Of a post that waits for its place, and would leave a hole in its queue pair for good. What has befallen others does not
 * end it, but makes it short: what works moves on within a second, and a kernel that posts to many PEs by a NIC that stands
 * still does not wait for the deadline at each. */
class steady_patience : public persistent<steady_patience>
{
    friend persistent<steady_patience>;

  public:
    SHMEMX_DEVICE_FN static constexpr bool cut()
    {
        return false;
    }

  private:
    SHMEMX_DEVICE_FN bool expired()
    {
        left_ = 64;
        start_ = look(start_);
        return start_ == too_late;
    }
    SHMEMX_DEVICE_SLOW u64 look(u64 start)
    {
        const u64 limit = arch::state().timeout_ns, brief = 1000000000;
        if (limit == 0)
            return 0;
        const u64 now = arch::nanoseconds(), past = now - start;
        return start == 0 ? now : past > limit || (past > brief && nic_failed()) ? too_late : start;
    }
};

} // namespace detail
} // namespace shmem

#endif
