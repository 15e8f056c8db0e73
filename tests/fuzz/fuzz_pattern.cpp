// Any text as a pattern, matched against itself and its reverse: refused or answered, never stuck.
#include <cstdint>

#include "headgate/schema/pattern.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size > 64) {
        return 0;
    }
    const std::string text(reinterpret_cast<const char*>(data), size);
    const auto pattern = headgate::schema::Pattern::compile(text);
    if (pattern.ok()) {
        static_cast<void>(pattern.value().matches(text));
        static_cast<void>(pattern.value().matches(std::string(text.rbegin(), text.rend())));
    }
    return 0;
}
