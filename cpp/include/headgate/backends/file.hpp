// Files: an object store in a folder, and the durable-write primitive it shares with the checkpoint.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "headgate/store/object_store.hpp"

namespace headgate::backends {

Result<std::shared_ptr<store::ObjectStore>> make_file_store(const std::string& folder);

}  // namespace headgate::backends
