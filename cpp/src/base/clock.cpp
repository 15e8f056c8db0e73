#include "headgate/base/clock.hpp"

#include <pthread.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>
#include <vector>

namespace headgate {
namespace {

constexpr std::int64_t kSleepStepUs = 50'000;

std::string boot_id() {
    std::ifstream in("/proc/sys/kernel/random/boot_id");
    std::string id;
    std::getline(in, id);
    return id;
}

// Returns field 22 of /proc/PID/stat (proc(5)): when the process started, in clock ticks after the machine's boot.
// Empty if there is no such process.
std::string start_time(const std::string& pid) {
    std::ifstream in("/proc/" + pid + "/stat");
    std::string line;
    if (!std::getline(in, line)) {
        return {};
    }
    const auto after_name = line.rfind(')');  // the process name may contain spaces and parentheses
    if (after_name == std::string::npos) {
        return {};
    }
    std::istringstream fields(line.substr(after_name + 1));
    std::string field;
    std::string state;
    for (int i = 3; i <= 22 && fields >> field; ++i) {
        if (i == 3) {
            state = field;
        }
    }
    return state == "Z" || state == "X" ? std::string{} : field;  // a zombie runs no code
}

}  // namespace

std::int64_t SystemClock::now_us() const {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::microseconds>(now).count() + offset_us_;
}

std::int64_t SystemClock::mono_us() const {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::microseconds>(now).count();
}

void SystemClock::sleep_us(std::int64_t us) {
    std::this_thread::sleep_for(std::chrono::microseconds(us));
}

std::uint64_t SystemRandom::next() {
    const MutexLock lock(mutex_);
    if (used_ == block_.size() || generation_ != fork_generation()) {
        // getrandom(2) returns up to 256 bytes completely or not at all.
        if (getrandom(block_.data(), sizeof block_, 0) != static_cast<ssize_t>(sizeof block_)) {
            std::random_device device;  // only where the kernel has no getrandom
            for (auto& word : block_) {
                word = (static_cast<std::uint64_t>(device()) << 32U) | device();
            }
        }
        used_ = 0;
        generation_ = fork_generation();
    }
    return block_[used_++];
}

std::uint64_t SeededRandom::next() {
    state_ += 0x9E3779B97F4A7C15ULL;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31U);
}

std::string Random::token_hex() {
    static constexpr std::string_view digits = "0123456789abcdef";
    std::string out;
    out.reserve(32);
    for (int word = 0; word < 2; ++word) {
        auto value = next();
        for (int i = 0; i < 16; ++i) {
            out.push_back(digits[value & 15U]);
            value >>= 4U;
        }
    }
    return out;
}

bool sleep_interruptibly(Clock& clock, std::int64_t us, const Interrupt& interrupt) {
    while (us > 0) {
        if (interrupt && interrupt()) {
            return false;
        }
        const auto step = std::min(us, kSleepStepUs);
        clock.sleep_us(step);
        us -= step;
    }
    return true;
}

unsigned fork_generation() noexcept {
    static std::atomic<unsigned> generation{1};
    static const int registered = pthread_atfork(nullptr, nullptr, [] { generation.fetch_add(1); });
    static_cast<void>(registered);
    return generation.load(std::memory_order_relaxed);
}

std::string process_identity() {
    const auto pid = std::to_string(getpid());
    return boot_id() + ":" + pid + ":" + start_time(pid);
}

bool process_is_dead(const std::string& identity) {
    const auto first = identity.find(':');
    const auto second = identity.find(':', first == std::string::npos ? first : first + 1);
    if (first == std::string::npos || second == std::string::npos) {
        return false;
    }
    if (identity.substr(0, first) != boot_id()) {
        return false;  // another machine, or an earlier boot: nothing is known
    }
    return start_time(identity.substr(first + 1, second - first - 1)) != identity.substr(second + 1);
}

}  // namespace headgate
