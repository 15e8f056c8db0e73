#include "headgate/base/file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "headgate/base/fault.hpp"

namespace headgate {
namespace {

constexpr int kMostLeftovers = 1000;

Status write_all(int fd, std::string_view bytes, const std::string& path) {
    while (!bytes.empty()) {
        const auto written = ::write(fd, bytes.data(), bytes.size());
        if (written < 0) {
            if (errno == EINTR) {
                continue;
            }
            return status_from_errno(errno, "cannot write " + path);
        }
        bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    return {};
}

}  // namespace

FileDescriptor::~FileDescriptor() {
    if (fd_ >= 0) {
        ::close(fd_);
    }
}

std::string parent_folder(const std::string& path) {
    const auto slash = path.rfind('/');
    if (slash == std::string::npos) {
        return ".";
    }
    return slash == 0 ? "/" : path.substr(0, slash);
}

Result<FileDescriptor> open_regular_file(const std::string& path) {
    FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    struct stat info {};
    if (!file.ok() || ::fstat(file.get(), &info) != 0) {
        return status_from_errno(errno, "cannot open " + path);
    }
    if (!S_ISREG(info.st_mode)) {
        return Status(ErrorCode::invalid_input, "cannot read " + path + ": it is no regular file");
    }
    return file;
}

Status too_large_to_read(const std::string& path, std::uint64_t limit) {
    return {ErrorCode::message_too_large,
            "cannot read " + path + ": it has more than " + std::to_string(limit) + " bytes"};
}

Result<std::string> read_file(const std::string& path, std::uint64_t limit) {
    HG_ASSIGN(const auto file, open_regular_file(path));
    struct stat info {};
    if (::fstat(file.get(), &info) != 0) {
        return status_from_errno(errno, "cannot read " + path);
    }
    if (static_cast<std::uint64_t>(info.st_size) > limit) {
        return too_large_to_read(path, limit);
    }
    std::string bytes;
    std::array<char, 1 << 16> buffer{};
    while (true) {
        const auto got = ::read(file.get(), buffer.data(), buffer.size());
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return status_from_errno(errno, "cannot read " + path);
        }
        if (got == 0) {
            return bytes;
        }
        if (static_cast<std::uint64_t>(got) > limit - bytes.size()) {
            return too_large_to_read(path, limit);
        }
        bytes.append(buffer.data(), static_cast<std::size_t>(got));
    }
}

Status make_folders(const std::string& path) {
    for (std::size_t at = 1; at <= path.size(); ++at) {
        if (at < path.size() && path[at] != '/') {
            continue;
        }
        const auto folder = path.substr(0, at);
        if (::mkdir(folder.c_str(), 0777) != 0 && errno != EEXIST) {
            const int error = errno;
            struct stat info {};
            if (::stat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
                return status_from_errno(error, "cannot make folder " + folder);
            }
        }
    }
    struct stat info {};
    if (::stat(path.c_str(), &info) == 0 && !S_ISDIR(info.st_mode)) {
        return {ErrorCode::already_exists, path + " is a file where a folder was expected"};
    }
    return {};
}

Status sync_file(const std::string& path) {
    const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.ok()) {
        return status_from_errno(errno, "cannot open " + path);
    }
    return ::fsync(file.get()) == 0 ? Status() : status_from_errno(errno, "cannot sync " + path);
}

Status write_at(const FileDescriptor& file, std::uint64_t at, std::string_view bytes, std::string_view what) {
    while (!bytes.empty()) {
        const auto wrote = ::pwrite(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(at));
        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote < 0) {
            return status_from_errno(errno, "cannot write " + std::string(what));
        }
        at += static_cast<std::uint64_t>(wrote);
        bytes.remove_prefix(static_cast<std::size_t>(wrote));
    }
    return {};
}

namespace {

namespace fs = std::filesystem;

class PosixLock final : public FileLock {
public:
    explicit PosixLock(FileDescriptor file) : file_(std::move(file)) {}

private:
    FileDescriptor file_;
};

class PosixFiles final : public FileSystem {
public:
    Result<std::string> read(const std::string& path, std::uint64_t limit) override { return read_file(path, limit); }

    Status write_new(const std::string& path, std::string_view bytes) override {
        const FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
        if (!file.ok()) {
            return status_from_errno(errno, "cannot create a file in " + parent_folder(path));
        }
        auto status = write_all(file.get(), bytes, path);
        if (status.ok() && ::fsync(file.get()) != 0) {
            status = status_from_errno(errno, "cannot sync " + path);
        }
        if (!status.ok()) {
            ::unlink(path.c_str());
        }
        return status;
    }

    Status rename(const std::string& from, const std::string& to) override {
        return ::rename(from.c_str(), to.c_str()) == 0 ? Status() : status_from_errno(errno, "cannot replace " + to);
    }

    Status link(const std::string& from, const std::string& to) override {
        return ::link(from.c_str(), to.c_str()) == 0 ? Status() : status_from_errno(errno, "cannot create " + to);
    }

    Status remove(const std::string& path) override {
        return ::unlink(path.c_str()) == 0 ? Status() : status_from_errno(errno, "cannot remove " + path);
    }

    Status remove_all(const std::string& path) override {
        std::error_code error;
        fs::remove_all(path, error);
        return error ? status_from_errno(error.value(), "cannot remove " + path) : Status();
    }

    Status make_folders(const std::string& path) override { return headgate::make_folders(path); }

    Status sync_folder(const std::string& path) override {
        const FileDescriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!folder.ok()) {
            return status_from_errno(errno, "cannot open folder " + path);
        }
        return ::fsync(folder.get()) == 0 ? Status() : status_from_errno(errno, "cannot sync folder " + path);
    }

    Result<FileInfo> info(const std::string& path) override {
        struct stat found {};
        if (::stat(path.c_str(), &found) != 0) {
            return status_from_errno(errno, "cannot look at " + path);
        }
        return FileInfo{found.st_ino, found.st_size, found.st_mtim.tv_sec * 1'000'000'000LL + found.st_mtim.tv_nsec,
                        S_ISDIR(found.st_mode), S_ISREG(found.st_mode)};
    }

    Result<std::vector<std::string>> names(const std::string& folder) override {
        std::vector<std::string> out;
        std::error_code error;
        for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
            out.push_back(it->path().filename().string());
        }
        return error ? Result<std::vector<std::string>>(status_from_errno(error.value(), "cannot list " + folder))
                     : Result<std::vector<std::string>>(std::move(out));
    }

    Result<std::vector<std::string>> walk(const std::string& folder) override {
        std::vector<std::string> out;
        std::error_code error;
        for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
            if (it->is_regular_file(error)) {
                out.push_back(it->path().string().substr(folder.size() + 1));
            }
        }
        if (error) {
            return status_from_errno(error.value(), "cannot list " + folder);
        }
        std::sort(out.begin(), out.end());
        return out;
    }

    Result<std::unique_ptr<FileLock>> try_lock(const std::string& path) override {
        FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
        if (!file.ok()) {
            return status_from_errno(errno, "cannot create lock " + path);
        }
        while (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
            if (errno == EINTR) {
                continue;
            }
            return errno == EWOULDBLOCK ? Status(ErrorCode::busy, "another run holds " + path)
                                        : status_from_errno(errno, "cannot lock " + path);
        }
        return std::unique_ptr<FileLock>(std::make_unique<PosixLock>(std::move(file)));
    }

    std::string process_name() const override { return std::to_string(getpid()); }
};

}  // namespace

std::string FileSystem::temporary_name() {
    return process_name() + "-" + std::to_string(counter_++);
}

std::shared_ptr<FileSystem> real_files() {
    static const auto files = std::make_shared<PosixFiles>();
    return files;
}

Status write_file_durably(FileSystem& files, const std::string& path, std::string_view bytes, bool if_absent) {
    const auto folder = parent_folder(path);
    std::string temporary;
    Status written;
    // A process with the same number may have died and left a file of this name; then another name is tried.
    for (int attempt = 0; attempt < kMostLeftovers; ++attempt) {
        temporary = folder + "/.tmp-" + files.temporary_name();
        written = files.write_new(temporary, bytes);
        if (written.code() != ErrorCode::already_exists) {
            break;
        }
    }
    HG_RETURN_IF_ERROR(written);
    auto status = fault_point("file.before_rename");
    if (status.ok()) {
        status = if_absent ? files.link(temporary, path) : files.rename(temporary, path);
    }
    if (!status.ok() || if_absent) {
        static_cast<void>(files.remove(temporary));
    }
    HG_RETURN_IF_ERROR(status);
    return files.sync_folder(folder);
}

}  // namespace headgate
