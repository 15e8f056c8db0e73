// Limits that no result may depend on: how much is held, read or handed over at once.
#pragma once

#include <cstddef>

namespace headgate {

#ifdef HEADGATE_SMALL_LIMITS
constexpr bool kSmallLimits = true;
#else
constexpr bool kSmallLimits = false;
#endif

// The first number, or in a build with HEADGATE_SMALL_LIMITS (the sanitizers') the second: there the tests cross many
// times what takes millions of files otherwise.
constexpr std::size_t limit(std::size_t usual, std::size_t small) noexcept {
    return kSmallLimits ? small : usual;
}

}  // namespace headgate
