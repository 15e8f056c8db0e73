// Any bytes as a ledger segment, as they are and with the checksum that they should have: refused, or its entries are
// found again.
#include <cstdint>
#include <cstdlib>

#include "checkpoint/segment.hpp"
#include "headgate/hash/identity.hpp"

namespace {

void read(std::string_view bytes) {
    using namespace headgate::checkpoint;
    auto entries = read_segment(bytes, "s");
    if (!entries.ok()) {
        return;
    }
    const auto copy = entries.value();
    Taken taken;
    taken.merge(std::move(entries.value()));
    taken.index();
    for (const auto& entry : copy) {
        if (taken.find(entry.key) == nullptr) {
            std::abort();
        }
    }
    NewSegment again(taken.entries());
    if (!read_segment(again.seal(), "s").ok()) {
        std::abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::string bytes(reinterpret_cast<const char*>(data), size);
    read(bytes);
    const auto sum = headgate::hash::sha256(bytes);
    bytes.append(reinterpret_cast<const char*>(sum.data()), sum.size());
    read(bytes);
    return 0;
}
