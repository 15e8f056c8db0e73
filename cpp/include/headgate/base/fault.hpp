// Fault injection for tests. Fault points are named places in the code, one at every commit boundary, where a test can
// kill the process or raise an error. If no faults are installed, passing a point costs one atomic load.
#pragma once

#include <atomic>
#include <string_view>

#include "headgate/base/status.hpp"

namespace headgate {

// Installs faults for this process, in place of those installed before. `spec` is "point:action:hit", or several of
// these separated by commas; an empty one removes all faults. The fault happens when `point` is passed for the hit-th
// time, counted from 1, or every time if hit is 0. The actions are kill (the process sends itself SIGKILL), stop
// (SIGSTOP, so that a parent can kill it from outside) and fail (the point returns ErrorCode::fault_injected). Returns
// invalid_input if `spec` cannot be parsed. Safe to call from any thread.
Status set_faults(std::string_view spec);

// Used by fault_point() only.
extern std::atomic<bool> faults_installed;
Status fault_point_slow(std::string_view point);

// Passes the fault point named `point`. Returns an error if a `fail` fault is due, otherwise ok.
inline Status fault_point(std::string_view point) {
    return faults_installed.load(std::memory_order_relaxed) ? fault_point_slow(point) : Status();
}

}  // namespace headgate
