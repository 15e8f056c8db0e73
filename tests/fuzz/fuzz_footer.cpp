// Any bytes as the footer of a table, or as the manifest of a Delta table's append, which is the same text: refused, or
// its names stay in their folder, its numbers can be added, and writing it again changes nothing.
#include <cstdint>
#include <cstdlib>

#include "checkpoint/footer.hpp"
#include "checkpoint/taken.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace headgate::checkpoint;
    const std::string text(reinterpret_cast<const char*>(data), size);
    const auto footer = parse_footer({{kFooterKey, text}}, "t");
    if (!footer.ok()) {
        return 0;
    }
    for (const auto& name : footer.value().parts()) {
        if (name.empty() || name.find('/') != std::string::npos || name == "." || name == ".." ||
            name.find('\0') != std::string::npos) {
            std::abort();
        }
        static_cast<void>(LedgerView::partition_of_part(name));
    }
    const auto sum = footer.value().rows + footer.value().superseded - footer.value().skipped + footer.value().version;
    const auto again = parse_footer({{kFooterKey, render_footer(footer.value())}}, "t");
    if (!again.ok() || render_footer(again.value()) != render_footer(footer.value()) || sum == INT64_MIN) {
        std::abort();
    }
    return 0;
}
