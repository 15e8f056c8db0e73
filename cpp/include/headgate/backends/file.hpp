// An object store in a folder. Each object is a file; keys are paths below the folder.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "headgate/base/file.hpp"
#include "headgate/store/object_store.hpp"

namespace headgate::backends {

// Creates the folder if there is none. `files` is the file system to use; null is the machine's own.
Result<std::shared_ptr<store::ObjectStore>> make_file_store(const std::string& folder,
                                                            std::shared_ptr<FileSystem> files = nullptr);

}  // namespace headgate::backends
