// What a run refused or could not read, all of it: for one log line each, and for the reject store.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/file.hpp"
#include "headgate/schema/schema.hpp"

namespace headgate::checkpoint {

struct Reject {
    std::string name;          // redacted
    std::string digest;        // 12 hex digits of the key's digest
    std::uint64_t offset = 0;  // of the record in its file, bytes
    std::vector<schema::Problem> problems;
};

// Lines as the reject store has them (docs/formats.md), in memory up to a few MiB, then in a nameless file: a folder of
// nothing but bad records takes disk, not memory. Added to by one thread, read when that is done.
class Refused {
public:
    explicit Refused(std::shared_ptr<const schema::Schema> schema) : schema_(std::move(schema)) {}

    // `folder` is asked for only when the lines no longer fit in memory. `content` is the file's, as in the ledger.
    // Without problems the record was rejected before and is in the table now.
    Status add(std::string_view key, std::uint64_t offset, const std::vector<schema::Problem>& problems,
               const std::function<Result<std::string>()>& folder, std::optional<std::uint64_t> content = std::nullopt);
    std::uint64_t size() const { return size_; }

    // About `bytes` bytes of whole lines from byte `at` on, which moves behind them; empty at the end. They name keys:
    // for the reject store only.
    Result<std::string> lines(std::uint64_t& at, std::size_t bytes) const;
    // The same lines as logs may show them.
    Result<std::vector<Reject>> read(std::uint64_t& at, std::size_t bytes) const;

private:
    Result<std::string> bytes_at(std::uint64_t at, std::size_t bytes) const;

    std::shared_ptr<const schema::Schema> schema_;
    std::uint64_t size_ = 0;  // lines
    FileDescriptor file_;
    std::uint64_t in_file_ = 0;  // bytes
    std::string held_;           // what comes after them
};

}  // namespace headgate::checkpoint
