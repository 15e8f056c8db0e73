#include "source_folder.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <optional>

namespace headgate::checkpoint {
namespace {

std::string of_descriptor(int descriptor) {
    return "/proc/self/fd/" + std::to_string(descriptor);
}

std::optional<std::string> real_path(int descriptor) {
    std::array<char, PATH_MAX> path{};
    const auto size = ::readlink(of_descriptor(descriptor).c_str(), path.data(), path.size());
    return size <= 0 ? std::nullopt : std::optional(std::string(path.data(), static_cast<std::size_t>(size)));
}

}  // namespace

Result<SourceFolder> SourceFolder::open(const std::string& path, bool follow_links) {
    SourceFolder out;
    out.descriptor_ = FileDescriptor(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!out.descriptor_.ok()) {
        return status_from_errno(errno, "cannot list " + path);
    }
    out.follow_links_ = follow_links;
    if (auto real = real_path(out.descriptor()); real) {
        out.real_path_ = *real == "/" ? *real : *real + "/";
    }
    return out;
}

FileDescriptor SourceFolder::open_file(const std::string& key, bool& is_outside) const {
    constexpr int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    is_outside = false;
    return follow_links_ ? FileDescriptor(::openat(descriptor(), key.c_str(), flags))
                         : open_beneath(key, flags, is_outside);
}

// The kernel follows links as long as they stay beneath the folder; absolute ones, which may lead back into it, and
// kernels without the call, take the long way.
FileDescriptor SourceFolder::open_beneath(const std::string& key, int flags, bool& is_outside) const {
    struct open_how how {};
    how.flags = static_cast<std::uint64_t>(flags);
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    const auto opened = ::syscall(SYS_openat2, descriptor(), key.c_str(), &how, sizeof how);
    if (opened >= 0) {
        return FileDescriptor(static_cast<int>(opened));
    }
    // Containers answer EPERM to calls that they do not know; EAGAIN tells of a rename meanwhile.
    const bool is_undecided = errno == EXDEV || errno == ENOSYS || errno == EPERM || errno == EAGAIN;
    return is_undecided ? open_where_it_leads(key, flags, is_outside) : FileDescriptor();
}

// What was found is opened by its descriptor: nobody can put another thing in its place.
FileDescriptor SourceFolder::open_where_it_leads(const std::string& key, int flags, bool& is_outside) const {
    const FileDescriptor found(::openat(descriptor(), key.c_str(), O_PATH | O_CLOEXEC));
    if (!found.ok()) {
        return {};
    }
    const auto real = real_path(found.get());
    if (!real || real_path_.empty()) {
        errno = EACCES;  // without /proc nobody knows where it is
        return {};
    }
    if (!real->starts_with(real_path_)) {
        is_outside = true;
        errno = EXDEV;
        return {};
    }
    return FileDescriptor(::open(of_descriptor(found.get()).c_str(), flags));
}

SourceFolder::Kind SourceFolder::kind_of(const std::string& key) const {
    struct stat info {};
    if (::fstatat(descriptor(), key.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
        return Kind::nothing;  // it has vanished
    }
    if (!S_ISLNK(info.st_mode)) {
        return S_ISDIR(info.st_mode) ? Kind::folder : S_ISREG(info.st_mode) ? Kind::file : Kind::nothing;
    }
    if (::fstatat(descriptor(), key.c_str(), &info, 0) != 0) {
        return Kind::file;  // whoever reads it says why that cannot be done
    }
    if (!S_ISDIR(info.st_mode)) {
        return S_ISREG(info.st_mode) ? Kind::file : Kind::nothing;
    }
    if (follow_links_) {
        return Kind::linked_folder;
    }
    bool is_outside = false;
    static_cast<void>(open_beneath(key, O_PATH | O_DIRECTORY | O_CLOEXEC, is_outside));
    return is_outside ? Kind::outside_folder : Kind::nothing;
}

}  // namespace headgate::checkpoint
