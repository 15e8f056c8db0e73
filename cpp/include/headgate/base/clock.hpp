// Time, randomness and interruption come in through these seams, so that tests own them.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "headgate/base/mutex.hpp"

namespace headgate {

// Microseconds everywhere: `now_us` since the Unix epoch (UTC), `mono_us` since an arbitrary point.
class Clock {
public:
    virtual ~Clock() = default;
    virtual std::int64_t now_us() const = 0;
    virtual std::int64_t mono_us() const = 0;
    virtual void sleep_us(std::int64_t us) = 0;
};

// The system's clock; `offset_us` is added to the wall clock so that a recorded feed can be replayed at its own time.
class SystemClock final : public Clock {
public:
    explicit SystemClock(std::int64_t offset_us = 0) : offset_us_(offset_us) {}
    std::int64_t now_us() const override;
    std::int64_t mono_us() const override;
    void sleep_us(std::int64_t us) override;

private:
    std::int64_t offset_us_;
};

// Moves only when told to (or when somebody sleeps on it).
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

class Random {
public:
    virtual ~Random() = default;
    virtual std::uint64_t next() = 0;
    double uniform() { return static_cast<double>(next() >> 11U) * 0x1.0p-53; }
    std::string token_hex();  // 128 bits as 32 hex digits
};

// The kernel's randomness, fetched in blocks; a forked child starts a block of its own.
class SystemRandom final : public Random {
public:
    std::uint64_t next() override;

private:
    Mutex mutex_;
    std::array<std::uint64_t, 32> block_ HG_GUARDED_BY(mutex_){};
    std::size_t used_ HG_GUARDED_BY(mutex_) = 32;
    unsigned generation_ HG_GUARDED_BY(mutex_) = 0;
};

// splitmix64 (Steele, Lea, Flood 2014): tiny, seedable, good enough for jitter and tests.
class SeededRandom final : public Random {
public:
    explicit SeededRandom(std::uint64_t seed) : state_(seed) {}
    std::uint64_t next() override;

private:
    std::uint64_t state_;
};

// Polled by long calls at least every 100 ms; true means: stop now and return ErrorCode::interrupted.
using Interrupt = std::function<bool()>;

struct Deadline {
    std::int64_t mono_us = INT64_MAX;
    static Deadline after(const Clock& clock, std::int64_t us) { return {clock.mono_us() + us}; }
    std::int64_t left_us(const Clock& clock) const {
        return mono_us == INT64_MAX ? INT64_MAX : mono_us - clock.mono_us();
    }
};

// Sleeps in steps of at most 50 ms; false when interrupted.
bool sleep_interruptibly(Clock& clock, std::int64_t us, const Interrupt& interrupt);

// Another number in every forked child: what handles compare, without a system call.
unsigned fork_generation() noexcept;

// "boot id:pid:start time" of this process, and whether such an owner is proved dead on this host.
std::string process_identity();
bool process_is_dead(const std::string& identity);

}  // namespace headgate
