// A folder whose files are read, and the symbolic links in it.
#pragma once

#include <cstdint>
#include <string>

#include "headgate/base/file.hpp"

namespace headgate::checkpoint {

class SourceFolder {
public:
    // Without `follow_links`, nothing is opened that a symbolic link has outside of the folder, whenever it is made.
    static Result<SourceFolder> open(const std::string& path, bool follow_links);

    int descriptor() const { return descriptor_.get(); }

    // For reading; no descriptor, and errno, when it cannot be opened, or when `is_outside` was set. A pipe is not
    // waited for.
    FileDescriptor open_file(const std::string& key, bool& is_outside) const;

    // `linked_folder` when links are followed, `outside_folder` when they are not and it is one; a link to a folder
    // inside is `nothing` then, and so is what is neither file nor folder. A link to a file, or to nothing, is a file.
    enum class Kind : std::uint8_t { nothing, file, folder, linked_folder, outside_folder };
    Kind kind_of(const std::string& key) const;

private:
    FileDescriptor open_beneath(const std::string& key, int flags, bool& is_outside) const;
    FileDescriptor open_where_it_leads(const std::string& key, int flags, bool& is_outside) const;

    FileDescriptor descriptor_;
    std::string real_path_;  // without links; ends with a slash
    bool follow_links_ = false;
};

}  // namespace headgate::checkpoint
