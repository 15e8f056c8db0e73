// Any text as a pattern, matched against itself and its reverse: refused or answered, never stuck, and the table of
// states takes whatever backtracking takes (which gives up after some time: not the other way round).
#include <cstdint>
#include <cstdlib>

#include "headgate/schema/pattern.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size > 64) {
        return 0;
    }
    const std::string text(reinterpret_cast<const char*>(data), size);
    const auto pattern = headgate::schema::Pattern::compile(text);
    if (pattern.ok()) {
        for (const auto& subject : {text, std::string(text.rbegin(), text.rend())}) {
            std::vector<headgate::schema::Pattern::Group> groups;
            if (pattern.value().matches(subject, groups) && !pattern.value().matches(subject)) {
                std::abort();
            }
        }
    }
    return 0;
}
