// Interfaces for time, randomness and interruption. Code of the core never calls the system for these directly, so that
// tests and the simulation can supply their own.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "headgate/base/mutex.hpp"

namespace headgate {

// Tells the time in microseconds. SystemClock may be used by several threads at once.
class Clock {
public:
    virtual ~Clock() = default;
    // Wall-clock time since the Unix epoch, UTC. It may jump when the machine's clock is set.
    virtual std::int64_t now_us() const = 0;
    // Monotonic time since an arbitrary point; for measuring how long something took.
    virtual std::int64_t mono_us() const = 0;
    // Blocks the calling thread.
    virtual void sleep_us(std::int64_t us) = 0;
};

// The machine's clock. `offset_us` is added to the wall-clock time, so that a recorded feed can be replayed at the time
// at which it was recorded.
class SystemClock final : public Clock {
public:
    explicit SystemClock(std::int64_t offset_us = 0) : offset_us_(offset_us) {}
    std::int64_t now_us() const override;
    std::int64_t mono_us() const override;
    void sleep_us(std::int64_t us) override;

private:
    std::int64_t offset_us_;
};

// A clock for tests: time passes only by advance_us() and sleep_us(), and sleeping returns at once. For one thread.
class ManualClock final : public Clock {
public:
    explicit ManualClock(std::int64_t now_us = 0) : now_us_(now_us) {}
    std::int64_t now_us() const override { return now_us_; }
    std::int64_t mono_us() const override { return now_us_; }
    void sleep_us(std::int64_t us) override { now_us_ += us; }
    void advance_us(std::int64_t us) { now_us_ += us; }

private:
    std::int64_t now_us_;
};

// A source of random numbers, for tokens and for the jitter of waiting times.
class Random {
public:
    virtual ~Random() = default;
    virtual std::uint64_t next() = 0;  // 64 uniformly distributed bits
    // Uniformly distributed in [0, 1).
    double uniform() { return static_cast<double>(next() >> 11U) * 0x1.0p-53; }
    std::string token_hex();  // 128 bits as 32 hex digits
};

// The kernel's random numbers, fetched in blocks to save system calls. May be used by several threads. A child of
// fork() starts with a new block, so that it never repeats numbers of its parent.
class SystemRandom final : public Random {
public:
    std::uint64_t next() override;

private:
    Mutex mutex_;
    std::array<std::uint64_t, 32> block_ HG_GUARDED_BY(mutex_){};
    std::size_t used_ HG_GUARDED_BY(mutex_) = 32;
    unsigned generation_ HG_GUARDED_BY(mutex_) = 0;
};

// The generator splitmix64 (Steele, Lea and Flood, 2014): the same numbers for the same seed. Good enough for jitter
// and tests, not for tokens that nobody may guess. For one thread.
class SeededRandom final : public Random {
public:
    explicit SeededRandom(std::uint64_t seed) : state_(seed) {}
    std::uint64_t next() override;

private:
    std::uint64_t state_;
};

// Asks whether to stop. Long calls call it at least every 100 ms; if it returns true, they stop and return
// ErrorCode::interrupted. It may take Python's global interpreter lock, so it is called without a mutex of ours held.
// An empty function means that the call cannot be interrupted.
using Interrupt = std::function<bool()>;

// A moment of the monotonic clock by which a call must be over. The default is no deadline.
struct Deadline {
    std::int64_t mono_us = INT64_MAX;
    static Deadline after(const Clock& clock, std::int64_t us) { return {clock.mono_us() + us}; }
    std::int64_t left_us(const Clock& clock) const {
        return mono_us == INT64_MAX ? INT64_MAX : mono_us - clock.mono_us();
    }
};

// Sleeps for `us` in steps of at most 50 ms, asking `interrupt` before each. Returns false if it was interrupted.
bool sleep_interruptibly(Clock& clock, std::int64_t us, const Interrupt& interrupt);

// A number that differs between a process and each of its children by fork(). Objects that must not be used across a
// fork remember it and compare; unlike getpid() it costs no system call.
unsigned fork_generation() noexcept;

// Identifies this process across restarts of the machine and reuse of process ids: "boot id:pid:start time".
std::string process_identity();

// Returns true only if the process with that identity is known to have ended: it ran on this machine since its last
// boot, and there is no such process any more. False if nothing can be proved.
bool process_is_dead(const std::string& identity);

}  // namespace headgate
