#include "headgate/base/file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>

#include "headgate/base/fault.hpp"

namespace headgate {
namespace {

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

Result<std::string> read_file(const std::string& path) {
    const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.ok()) {
        return status_from_errno(errno, "cannot open " + path);
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

Status sync_folder(const std::string& path) {
    const FileDescriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder.ok()) {
        return status_from_errno(errno, "cannot open folder " + path);
    }
    if (::fsync(folder.get()) != 0) {
        return status_from_errno(errno, "cannot sync folder " + path);
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

Status write_file_durably(const std::string& path, std::string_view bytes, bool if_absent) {
    static std::atomic<unsigned> counter{0};
    const auto folder = parent_folder(path);
    const auto temporary = folder + "/.tmp-" + std::to_string(getpid()) + "-" + std::to_string(counter++);
    const auto write = [&]() -> Status {
        const FileDescriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
        if (!file.ok()) {
            return status_from_errno(errno, "cannot create a file in " + folder);
        }
        HG_RETURN_IF_ERROR(write_all(file.get(), bytes, path));
        if (::fsync(file.get()) != 0) {
            return status_from_errno(errno, "cannot sync " + path);
        }
        HG_RETURN_IF_ERROR(fault_point("file.before_rename"));
        if (if_absent) {
            if (::link(temporary.c_str(), path.c_str()) != 0) {
                return status_from_errno(errno, "cannot create " + path);
            }
            return {};
        }
        return ::rename(temporary.c_str(), path.c_str()) == 0 ? Status()
                                                              : status_from_errno(errno, "cannot replace " + path);
    };
    const auto status = write();
    if (!status.ok() || if_absent) {
        ::unlink(temporary.c_str());
    }
    HG_RETURN_IF_ERROR(status);
    return sync_folder(folder);
}

}  // namespace headgate
