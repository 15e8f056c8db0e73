// Files with errors as values: the POSIX ones, and the seam behind which a simulated disk may stand.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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

struct FileInfo {
    std::uint64_t inode = 0;
    std::int64_t size = 0;
    std::int64_t modified_ns = 0;
    bool folder = false;
    bool regular = true;  // no folder, device, pipe or socket
};

// Held until it is destroyed or its process ends.
class FileLock {
public:
    virtual ~FileLock() = default;
};

// What durable writing asks of a file system. A simulation puts one in its place that forgets what was not synced.
class FileSystem {
public:
    virtual ~FileSystem() = default;
    // invalid_input, before a byte is read, for what is no regular file, message_too_large for more than `limit` bytes.
    virtual Result<std::string> read(const std::string& path, std::uint64_t limit) = 0;
    Result<std::string> read(const std::string& path) { return read(path, UINT64_MAX); }
    // A new file, its bytes synced, its name not yet; already_exists when the name is taken.
    virtual Status write_new(const std::string& path, std::string_view bytes) = 0;
    virtual Status rename(const std::string& from, const std::string& to) = 0;  // replaces `to`
    virtual Status link(const std::string& from, const std::string& to) = 0;    // already_exists when `to` is taken
    virtual Status remove(const std::string& path) = 0;                         // not_found when it was not there
    virtual Status remove_all(const std::string& path) = 0;                     // a folder with what is in it
    virtual Status make_folders(const std::string& path) = 0;
    virtual Status sync_folder(const std::string& path) = 0;  // makes a rename in it durable
    virtual Result<FileInfo> info(const std::string& path) = 0;
    virtual Result<std::vector<std::string>> names(const std::string& folder) = 0;    // of what is directly in it
    virtual Result<std::vector<std::string>> walk(const std::string& folder) = 0;     // files below, relative, sorted
    virtual Result<std::unique_ptr<FileLock>> try_lock(const std::string& path) = 0;  // busy when another has it
    // Differs between processes that are alive at the same time, so that temporary names do.
    virtual std::string process_name() const = 0;

    std::string temporary_name();  // no two of one file system are equal

private:
    std::atomic<unsigned> counter_{0};
};

std::shared_ptr<FileSystem> real_files();

// For reading. Devices, pipes, sockets and folders are refused (invalid_input); nothing waits for a pipe's other end.
Result<FileDescriptor> open_regular_file(const std::string& path);
// message_too_large, before anything is allocated, for a file of more than `limit` bytes.
Result<std::string> read_file(const std::string& path, std::uint64_t limit = UINT64_MAX);
Status too_large_to_read(const std::string& path, std::uint64_t limit);
Status make_folders(const std::string& path);
Status sync_file(const std::string& path);
// All of the bytes from byte `at` of the file on; `what` is named when it fails: "cannot write <what>".
Status write_at(const FileDescriptor& file, std::uint64_t at, std::string_view bytes, std::string_view what);
std::string parent_folder(const std::string& path);

// Temporary file beside `path`, write, fsync, then rename (or, with `if_absent`, link: already_exists when `path` is
// taken), fsync of the folder. A crash leaves the old file or the new one; a failure removes the temporary file.
Status write_file_durably(FileSystem& files, const std::string& path, std::string_view bytes, bool if_absent = false);

}  // namespace headgate
