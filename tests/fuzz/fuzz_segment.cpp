// Any bytes as a ledger segment: refused, or its entries are read.
#include <cstdint>

#include "checkpoint/segment.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    auto entries = headgate::checkpoint::read_segment({reinterpret_cast<const char*>(data), size}, "s");
    if (entries.ok()) {
        headgate::checkpoint::Taken taken;
        taken.merge(std::move(entries.value()));
    }
    return 0;
}
