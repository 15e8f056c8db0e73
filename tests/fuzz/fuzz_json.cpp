// Any bytes: the canonicaliser refuses them, or its output is a fixed point. A double of 2^53 or more is written with
// an integer's digits, which the default policy refuses to read back (decision 0001): hence `exact` the second time.
#include <cstdint>
#include <cstdlib>

#include "headgate/json/canonical.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto once = headgate::json::canonicalize(text);
    if (once.ok()) {
        const auto twice = headgate::json::canonicalize(once.value(), headgate::json::BigIntegers::exact);
        if (!twice.ok() || twice.value() != once.value()) {
            std::abort();
        }
    }
    return 0;
}
