// The interface of object stores: raw bodies, outputs of workflow stages, exports. A key is a relative path with '/'
// between its parts; it does not begin with '/' and has no part "..".
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/status.hpp"

namespace headgate::store {

// if_absent: the put fails with already_exists if there is an object under the key.
enum class PutMode : std::uint8_t { overwrite, if_absent };

// Every method may be called from several threads and blocks on the storage. A key that check_key() refuses is
// invalid_input.
class ObjectStore {
public:
    virtual ~ObjectStore() = default;
    // If it returns ok, the object is durable. After an error or a crash there is the old object, or none if there was
    // none; never a part of the new one.
    virtual Status put(const std::string& key, std::string_view bytes, PutMode mode) = 0;
    // Returns not_found if there is no such object.
    virtual Result<std::string> get(const std::string& key) const = 0;
    virtual Result<bool> exists(const std::string& key) const = 0;
    // The keys that begin with `prefix`, sorted.
    virtual Result<std::vector<std::string>> list(const std::string& prefix) const = 0;
    // Ok if there is no such object.
    virtual Status remove(const std::string& key) = 0;
};

// Returns invalid_input, with the reason, for a key that is no such path.
Status check_key(std::string_view key);

}  // namespace headgate::store
