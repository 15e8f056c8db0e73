// Listing a folder and reading many small files on all cores.
#pragma once

#include <string>
#include <vector>

#include "headgate/checkpoint/checkpoint.hpp"
#include "segment.hpp"

namespace headgate::checkpoint {

struct Listed {
    std::string key;  // relative to the source folder, with '/'
    KeyDigest digest{};
};

// Regular files below `folder`, sorted by key; names starting with '.' are left out.
Result<std::vector<std::string>> list_files(const std::string& folder);

// Changes whenever size or modification time (nanoseconds) do.
std::uint64_t file_tag(std::uint64_t size, std::int64_t mtime_ns) noexcept;

enum class FileOutcome : std::uint8_t { read, vanished, unreadable, failed };

struct BadRecord {
    std::uint64_t offset;
    std::vector<schema::Problem> problems;
};

struct FileResult {
    FileOutcome outcome = FileOutcome::failed;
    Entry entry;
    std::uint32_t records = 0;
    std::uint64_t bytes = 0;
    bool same_content = false;  // a known file whose content is what it was
    std::vector<BadRecord> bad;
    Status error;
};

struct Batch {
    std::vector<FileResult> files;  // as listed
    schema::Columns columns;        // their good records, in order
};

// `known` entries (by digest) let an unchanged content be recognised before it is parsed. ErrorCode::interrupted when
// the interrupt says so; the workers are joined before it returns.
Result<std::vector<Batch>> read_files(const Options& options, const std::vector<Listed>& files, const Taken& known,
                                      const Environment& environment);

}  // namespace headgate::checkpoint
