// Decodes the content codings of HTTP (RFC 9110, section 8.4.1) as the libraries requests and httpx do. libcurl's own
// decoder fails for a second gzip member, for bytes after the last one, and for an unknown coding.
#pragma once

#include <string>
#include <string_view>

#include "headgate/base/status.hpp"

namespace headgate::backends {

// The value of the Accept-Encoding header: the codings that decode_content() knows.
constexpr const char* kAcceptedCodings = "gzip, deflate";

// Decodes `body` by the codings of a Content-Encoding header. At an unknown coding it stops, and leaves the body as it
// is at that point. Returns malformed_response if the body does not have that coding, is cut off, or has more than
// `limit` bytes when decoded.
Status decode_content(std::string_view codings, std::size_t limit, std::string& body);

}  // namespace headgate::backends
