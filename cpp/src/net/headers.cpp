#include <algorithm>

#include "headgate/net/http.hpp"

namespace headgate::net {
namespace {

// Whether `text` is a token by RFC 9110, section 5.6.2.
bool is_token(std::string_view text) {
    static constexpr std::string_view other = "!#$%&'*+-.^_`|~";
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               other.find(c) != std::string_view::npos;
    });
}

}  // namespace

Status check_request(const HttpRequest& request) {
    if (!is_token(request.method)) {
        return {ErrorCode::invalid_input, "the method of a request is not a word of RFC 9110, such as GET"};
    }
    for (const auto& [name, value] : request.headers) {
        if (!is_token(name)) {
            return {ErrorCode::invalid_input, "a header's name is empty or holds characters that no name may have"};
        }
        if (value.find_first_of(std::string_view("\r\n\0", 3)) != std::string::npos) {
            return {ErrorCode::invalid_input,
                    "header " + name + ": the value holds a line break or a NUL; expected a single line"};
        }
    }
    return {};
}

}  // namespace headgate::net
