// Any bytes as what Redis holds of a ledger key, with its result: refused, or parts of those very bytes.
#include <cstdint>
#include <cstdlib>
#include <functional>

#include "backends/redis/record.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto record = headgate::backends::parse_record(text);
    if (!record.ok()) {
        return 0;
    }
    for (const auto part :
         {record.value().token, record.value().payload, record.value().error, record.value().result}) {
        const std::less_equal<> before;
        if (!before(text.data(), part.data()) || !before(part.data() + part.size(), text.data() + text.size())) {
            std::abort();
        }
    }
    return 0;
}
