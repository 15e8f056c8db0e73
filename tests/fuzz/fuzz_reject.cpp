// Any bytes as a segment of rejected records: refused, or its records are found.
#include <cstdint>

#include "checkpoint/rejected.hpp"
#include "headgate/checkpoint/ports.hpp"

namespace {

using headgate::Result;
using headgate::Status;

// A table whose every part has the same bytes.
class OnePart final : public headgate::checkpoint::Target {
public:
    explicit OnePart(std::string bytes) : bytes_(std::move(bytes)) {}
    Status begin(headgate::Clock&, const headgate::Interrupt&) override { return {}; }
    Result<std::optional<std::string>> peek() override { return std::optional<std::string>(); }
    Result<std::string> fetch() override { return std::string(); }
    Result<std::string> read_part(const std::string&) override { return bytes_; }
    Status write_part(const std::string&, std::string_view) override { return {}; }
    Status remove_part(const std::string&) override { return {}; }
    Result<std::string> scratch() override { return std::string(); }
    Status commit(const std::string&) override { return {}; }
    void sweep(const std::vector<std::string>&) override {}
    void end() override {}
    bool may_race() const override { return false; }
    std::string name() const override { return "t"; }

private:
    std::string bytes_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    OnePart target({reinterpret_cast<const char*>(data), size});
    headgate::checkpoint::RejectedRecords records;
    if (records.read(target, {"rej-1.jsonl", "rej-2.jsonl"}, "type").ok()) {
        static_cast<void>(records.find(headgate::checkpoint::digest_key("a.json")));
    }
    return 0;
}
