// POSIX files with errors as values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "headgate/base/status.hpp"

namespace headgate {

class FileDescriptor {
public:
    FileDescriptor() = default;
    explicit FileDescriptor(int fd) : fd_(fd) {}
    FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    FileDescriptor& operator=(FileDescriptor&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~FileDescriptor();
    int get() const noexcept { return fd_; }
    bool ok() const noexcept { return fd_ >= 0; }

private:
    int fd_ = -1;
};

Result<std::string> read_file(const std::string& path);
Status make_folders(const std::string& path);
Status sync_folder(const std::string& path);  // makes a rename in it durable
Status sync_file(const std::string& path);
std::string parent_folder(const std::string& path);

// Temporary file beside `path`, write, fsync, then rename (or, with `if_absent`, link: already_exists when `path` is
// taken), fsync of the folder. A crash leaves the old file or the new one; a failure removes the temporary file.
Status write_file_durably(const std::string& path, std::string_view bytes, bool if_absent = false);

}  // namespace headgate
