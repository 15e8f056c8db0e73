// Content codings of HTTP (RFC 9110, 8.4.1), decoded as requests and httpx do rather than as libcurl does, which ends a
// transfer for a second gzip member, a byte behind the last one, or a coding that it does not know.
#pragma once

#include <string>
#include <string_view>

#include "headgate/base/status.hpp"

namespace headgate::backends {

// What is asked for: those that decode_content() knows.
constexpr const char* kAcceptedCodings = "gzip, deflate";

// Undoes the codings of a Content-Encoding header in `body`. A coding that is not known ends the work: the body stays
// as it is then. malformed_response: the body is not what the header says, it is cut, or it is larger than `limit`
// bytes when decoded.
Status decode_content(std::string_view codings, std::size_t limit, std::string& body);

}  // namespace headgate::backends
