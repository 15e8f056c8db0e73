// Folders for temporary files. What a killed process leaves behind is removed by the next one.
#pragma once

#include <string>

#include "headgate/base/clock.hpp"
#include "headgate/base/file.hpp"
#include "headgate/base/status.hpp"

namespace headgate {

// The folder `parent`/headgate-scratch-TOKEN. It is locked while this object exists, and removed with it. make() also
// removes the scratch folders in `parent` that nobody has locked: their processes have ended without removing them.
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
