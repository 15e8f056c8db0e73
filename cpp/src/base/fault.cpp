#include "headgate/base/fault.hpp"

#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <string>
#include <vector>

#include "headgate/base/mutex.hpp"

namespace headgate {
namespace {

struct Fault {
    std::string point;
    std::string action;
    long hit = 0;
    long seen = 0;
};

Mutex mutex;

// The faults of the last set_faults().
std::vector<Fault>& faults() HG_REQUIRES(mutex) {
    static std::vector<Fault> installed;
    return installed;
}

Result<Fault> parse_fault(std::string_view text) {
    const auto a = text.find(':');
    const auto b = a == std::string_view::npos ? a : text.find(':', a + 1);
    Fault fault;
    if (b != std::string_view::npos) {
        fault.point = text.substr(0, a);
        fault.action = text.substr(a + 1, b - a - 1);
        const auto hit = text.substr(b + 1);
        const auto [end, error] = std::from_chars(hit.data(), hit.data() + hit.size(), fault.hit);
        const bool known = fault.action == "kill" || fault.action == "stop" || fault.action == "fail";
        if (known && error == std::errc{} && end == hit.data() + hit.size() && fault.hit >= 0) {
            return fault;
        }
    }
    return Status(ErrorCode::invalid_input, "fault '" + std::string(text) + "': expected point:kill|stop|fail:hit");
}

}  // namespace

std::atomic<bool> faults_installed{false};

Status set_faults(std::string_view spec) {
    std::vector<Fault> parsed;
    while (!spec.empty()) {
        const auto comma = spec.find(',');
        HG_ASSIGN(auto fault, parse_fault(spec.substr(0, comma)));
        parsed.push_back(std::move(fault));
        spec = comma == std::string_view::npos ? std::string_view{} : spec.substr(comma + 1);
    }
    const MutexLock lock(mutex);
    faults() = std::move(parsed);
    faults_installed.store(!faults().empty(), std::memory_order_relaxed);
    return {};
}

Status fault_point_slow(std::string_view point) {
    std::string action;
    {
        const MutexLock lock(mutex);
        for (auto& fault : faults()) {
            if (fault.point == point) {
                ++fault.seen;
                if (fault.hit == 0 || fault.seen == fault.hit) {
                    action = fault.action;
                }
            }
        }
    }
    if (action == "kill") {
        kill(getpid(), SIGKILL);
    } else if (action == "stop") {
        kill(getpid(), SIGSTOP);
    } else if (action == "fail") {
        return {ErrorCode::fault_injected, "fault injected at " + std::string(point)};
    }
    return {};
}

}  // namespace headgate
