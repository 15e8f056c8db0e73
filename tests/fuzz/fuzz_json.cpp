// Any bytes: the canonicaliser refuses them, or its output is a fixed point.
#include <cstdint>
#include <cstdlib>

#include "headgate/json/canonical.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto once = headgate::json::canonicalize(text);
    if (once.ok()) {
        const auto twice = headgate::json::canonicalize(once.value());
        if (!twice.ok() || twice.value() != once.value()) {
            std::abort();
        }
    }
    return 0;
}
