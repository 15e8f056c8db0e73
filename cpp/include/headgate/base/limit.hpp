// Sizes of buffers, batches and blocks: limits that may change how fast a result is there, and never the result.
#pragma once

#include <cstddef>

namespace headgate {

#ifdef HEADGATE_SMALL_LIMITS
constexpr bool kSmallLimits = true;
#else
constexpr bool kSmallLimits = false;
#endif

// Returns `usual`, or `small` in a build with HEADGATE_SMALL_LIMITS. The builds with sanitizers set it, so that their
// tests cross each limit many times; with the usual limits that would take millions of files.
constexpr std::size_t limit(std::size_t usual, std::size_t small) noexcept {
    return kSmallLimits ? small : usual;
}

}  // namespace headgate
