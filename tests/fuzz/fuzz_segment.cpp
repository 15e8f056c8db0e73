// Any bytes as a ledger segment: refused, or its entries are read.
#include <cstdint>

#include "checkpoint/segment.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    headgate::checkpoint::Taken taken;
    static_cast<void>(headgate::checkpoint::read_segment({reinterpret_cast<const char*>(data), size}, "s", taken));
    return 0;
}
