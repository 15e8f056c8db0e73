#include "headgate/base/scratch.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace headgate {
namespace {

constexpr const char* kPrefix = "headgate-scratch-";
constexpr int kMostTries = 100;

// The lock is held by a descriptor of the folder. The kernel releases it however the process ends.
FileDescriptor locked(const std::string& path) {
    FileDescriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (folder.ok() && ::flock(folder.get(), LOCK_EX | LOCK_NB) != 0) {
        return {};
    }
    return folder;
}

bool is_there(const FileDescriptor& folder) {
    struct stat info {};
    return ::fstat(folder.get(), &info) == 0 && info.st_nlink > 0;
}

void sweep(const std::string& parent) {
    const auto files = real_files();
    const auto names = files->names(parent);
    for (const auto& name : names.ok() ? names.value() : std::vector<std::string>()) {
        if (name.starts_with(kPrefix)) {
            const auto path = parent + "/" + name;
            if (const auto lock = locked(path); lock.ok()) {
                static_cast<void>(files->remove_all(path));
            }
        }
    }
}

}  // namespace

Result<ScratchFolder> ScratchFolder::make(const std::string& parent, Random& random) {
    HG_RETURN_IF_ERROR(make_folders(parent));
    sweep(parent);
    for (int tries = 0; tries < kMostTries; ++tries) {
        auto path = parent + "/" + kPrefix + random.token_hex();
        if (::mkdir(path.c_str(), 0700) != 0) {
            if (errno == EEXIST) {
                continue;
            }
            return status_from_errno(errno, "cannot make a folder in " + parent);
        }
        // Another process may have removed the new folder before it was locked.
        if (auto lock = locked(path); lock.ok() && is_there(lock)) {
            return ScratchFolder(std::move(path), std::move(lock));
        }
    }
    return Status(ErrorCode::busy, "no temporary folder could be locked in " + parent);
}

ScratchFolder& ScratchFolder::operator=(ScratchFolder&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(lock_, other.lock_);
    return *this;
}

void ScratchFolder::remove() {
    if (lock_.ok()) {
        static_cast<void>(real_files()->remove_all(path_));
        lock_ = {};
    }
}

}  // namespace headgate
