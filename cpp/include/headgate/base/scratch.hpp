// A folder for temporary files that a killed process does not leave behind for good.
#pragma once

#include <string>

#include "headgate/base/clock.hpp"
#include "headgate/base/file.hpp"
#include "headgate/base/status.hpp"

namespace headgate {

// `parent`/headgate-scratch-TOKEN, locked while it is in use and removed with this object. Making one removes those
// beside it whose processes have died: their locks are free.
class ScratchFolder {
public:
    static Result<ScratchFolder> make(const std::string& parent, Random& random);
    ScratchFolder(ScratchFolder&&) noexcept = default;
    ScratchFolder& operator=(ScratchFolder&& other) noexcept;
    ~ScratchFolder() { remove(); }

    const std::string& path() const { return path_; }
    void remove();

private:
    ScratchFolder(std::string path, FileDescriptor lock) : path_(std::move(path)), lock_(std::move(lock)) {}

    std::string path_;
    FileDescriptor lock_;
};

}  // namespace headgate
