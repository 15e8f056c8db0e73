#include "headgate/store/object_store.hpp"

namespace headgate::store {

Status check_key(std::string_view key) {
    const auto bad = [] {
        return Status(ErrorCode::invalid_input, "an object key must be a relative path without '..'");
    };
    if (key.empty() || key.front() == '/' || key.back() == '/' || key.find('\0') != std::string_view::npos) {
        return bad();
    }
    while (!key.empty()) {
        const auto slash = key.find('/');
        const auto part = key.substr(0, slash);
        if (part.empty() || part == "." || part == "..") {
            return bad();
        }
        key = slash == std::string_view::npos ? std::string_view{} : key.substr(slash + 1);
    }
    return {};
}

}  // namespace headgate::store
