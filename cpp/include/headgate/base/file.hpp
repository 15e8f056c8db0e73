// Files, with errors as values: helpers on POSIX files, and the interface FileSystem, which the simulation implements
// with a disk in memory.
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

// Owns an open POSIX file descriptor and closes it. Moving exchanges the two descriptors.
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

// What stat(2) says of a file.
struct FileInfo {
    std::uint64_t inode = 0;
    std::int64_t size = 0;
    std::int64_t modified_ns = 0;
    bool folder = false;
    bool regular = true;  // no folder, device, pipe or socket
};

// An exclusive lock on a file. It is held until this object is destroyed or the process ends.
class FileLock {
public:
    virtual ~FileLock() = default;
};

// The operations that durable writing needs. real_files() is the machine's own file system; the simulation has one that
// loses whatever was not synced. Every method may be called from several threads and blocks on the disk. Errors name
// the path.
class FileSystem {
public:
    virtual ~FileSystem() = default;
    // Returns the whole content. not_found if there is no such file; invalid_input, before a byte is read, if it is not
    // a regular file; message_too_large if it has more than `limit` bytes.
    virtual Result<std::string> read(const std::string& path, std::uint64_t limit) = 0;
    Result<std::string> read(const std::string& path) { return read(path, UINT64_MAX); }
    // Creates a file and syncs its content. Its name becomes durable with sync_folder(). already_exists if there is a
    // file of that name.
    virtual Status write_new(const std::string& path, std::string_view bytes) = 0;
    // Atomically gives `from` the name `to`, replacing a file of that name.
    virtual Status rename(const std::string& from, const std::string& to) = 0;
    // Gives `from` a second name; already_exists if there is a file of that name.
    virtual Status link(const std::string& from, const std::string& to) = 0;
    // Removes a file; not_found if there is none.
    virtual Status remove(const std::string& path) = 0;
    // Removes a file, or a folder with everything in it. Ok if there is none.
    virtual Status remove_all(const std::string& path) = 0;
    // Creates a folder and those above it. Ok if they exist.
    virtual Status make_folders(const std::string& path) = 0;
    // Makes the creations, renames and removals of names in a folder durable.
    virtual Status sync_folder(const std::string& path) = 0;
    virtual Result<FileInfo> info(const std::string& path) = 0;
    // The names of the files and folders directly in `folder`.
    virtual Result<std::vector<std::string>> names(const std::string& folder) = 0;
    // All files below `folder`, as sorted paths relative to it.
    virtual Result<std::vector<std::string>> walk(const std::string& folder) = 0;
    // Takes an exclusive lock without waiting; busy if somebody else holds it.
    virtual Result<std::unique_ptr<FileLock>> try_lock(const std::string& path) = 0;
    // A name that no other process alive at the same time has.
    virtual std::string process_name() const = 0;

    // A name for a temporary file that no other process and no other call uses.
    std::string temporary_name();

private:
    std::atomic<unsigned> counter_{0};
};

std::shared_ptr<FileSystem> real_files();

// Opens a file for reading. Devices, pipes, sockets and folders are refused with invalid_input, so that the call never
// waits for the other end of a pipe.
Result<FileDescriptor> open_regular_file(const std::string& path);
// Returns the whole content. message_too_large, before memory is allocated, if the file has more than `limit` bytes.
Result<std::string> read_file(const std::string& path, std::uint64_t limit = UINT64_MAX);
Status too_large_to_read(const std::string& path, std::uint64_t limit);
// The same operations as those of FileSystem, on the machine's own files.
Status make_folders(const std::string& path);
// Makes the content of a file durable (fsync).
Status sync_file(const std::string& path);
// Writes all of `bytes` at offset `at`, in bytes. The error says "cannot write <what>".
Status write_at(const FileDescriptor& file, std::uint64_t at, std::string_view bytes, std::string_view what);
// The path without its last part; "." if it has one part only.
std::string parent_folder(const std::string& path);

// Replaces the content of `path` so that a crash leaves the old file or the new one, never a mixture. It writes a
// temporary file in the same folder, syncs it, renames it and syncs the folder; when it returns ok, the new content is
// durable. With `if_absent` it creates the file only if there is none, and returns already_exists otherwise. After a
// failure the temporary file is removed.
Status write_file_durably(FileSystem& files, const std::string& path, std::string_view bytes, bool if_absent = false);

}  // namespace headgate
