// Named fault points at every commit boundary. Without faults installed a point costs one atomic load.
#pragma once

#include <atomic>
#include <string_view>

#include "headgate/base/status.hpp"

namespace headgate {

// `spec` is "point:action:hit[,point:action:hit...]": at the hit-th passage (1-based; 0 = every one) of `point`,
// `action` is kill (SIGKILL to self), stop (SIGSTOP to self, for a parent that kills from outside) or fail (an error).
// An empty spec removes all faults.
Status set_faults(std::string_view spec);

extern std::atomic<bool> faults_installed;
Status fault_point_slow(std::string_view point);

inline Status fault_point(std::string_view point) {
    return faults_installed.load(std::memory_order_relaxed) ? fault_point_slow(point) : Status();
}

}  // namespace headgate
