// Files: an object store in a folder.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "headgate/base/file.hpp"
#include "headgate/store/object_store.hpp"

namespace headgate::backends {

// On the machine's own files, or on those given.
Result<std::shared_ptr<store::ObjectStore>> make_file_store(const std::string& folder,
                                                            std::shared_ptr<FileSystem> files = nullptr);

}  // namespace headgate::backends
