// The core's seams filled from Python: files, HTTP and time. _core and _parquet have them; they share no C++ type.
#pragma once

#include "py.hpp"

#include "headgate/backends/curl.hpp"
#include "headgate/base/file.hpp"
#include "headgate/net/http.hpp"

namespace headgate::bindings {

// An object with the methods of FileSystem; `info` gives (inode, size, modified_ns, is_folder), `try_lock` a bool.
std::shared_ptr<FileSystem> python_files(py::object object);

// A callable (requests, timeout_us) -> [(index, response)], in the order in which the answers arrive. A request is
// (method, url, headers, body), a response a dict: status, headers, body, or error_kind and error_message.
std::shared_ptr<net::HttpTransport> python_transport(py::object callable, std::shared_ptr<Clock> clock);

// libcurl's transport, from an extension of its own: it brings thirty libraries along, which a run without a network
// would load for nothing. Called with the GIL held; what it gives may be called on any thread. ErrorCode::not_built
// when the extension or one of those libraries is missing.
using MakeCurl = std::shared_ptr<net::HttpTransport> (*)(backends::CurlOptions, std::shared_ptr<Clock>);
constexpr const char* kCurlFunction = "make_transport";
MakeCurl load_curl();

// An object with now_us, mono_us and sleep_us.
std::shared_ptr<Clock> python_clock(py::object object);

}  // namespace headgate::bindings
