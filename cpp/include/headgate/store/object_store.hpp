// Objects under keys: raw blobs, stage outputs, exports. Keys are relative paths with '/', never absolute, no "..".
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/status.hpp"

namespace headgate::store {

enum class PutMode : std::uint8_t { overwrite, if_absent };  // if_absent: already_exists when the key is taken

class ObjectStore {
public:
    virtual ~ObjectStore() = default;
    // After an ok the object is durable; after an error or a crash the old object, or none, is there: never a part.
    virtual Status put(const std::string& key, std::string_view bytes, PutMode mode) = 0;
    virtual Result<std::string> get(const std::string& key) const = 0;
    virtual Result<bool> exists(const std::string& key) const = 0;
    virtual Result<std::vector<std::string>> list(const std::string& prefix) const = 0;  // sorted
    virtual Status remove(const std::string& key) = 0;                                   // ok when it was not there
};

Status check_key(std::string_view key);

}  // namespace headgate::store
