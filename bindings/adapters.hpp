// Implementations of the core's interfaces that call Python: files, HTTP and time. _core and _parquet each contain
// them, because the two share no C++ type. Their methods may be called from any thread, without the GIL.
#pragma once

#include "py.hpp"

#include "headgate/backends/curl.hpp"
#include "headgate/base/file.hpp"
#include "headgate/net/http.hpp"

namespace headgate::bindings {

// A file system that is an object with the methods of FileSystem. `info` returns (inode, size, modified_ns, is_folder),
// and `try_lock` a bool.
std::shared_ptr<FileSystem> python_files(py::object object);

// An HTTP client that is a callable (requests, timeout_us) -> [(index, response)], in the order in which the responses
// arrive. A request is (method, url, headers, body). A response is a dict with status, headers and body, or with
// error_kind and error_message.
std::shared_ptr<net::HttpTransport> python_transport(py::object callable, std::shared_ptr<Clock> clock);

// Loads the extension _curl and returns the function that makes a transport of libcurl. It is an extension of its own
// because libcurl needs thirty other libraries, which a run without a network should not load. Called with the GIL
// held; the function that it returns may be called on any thread. Throws not_built if the extension or one of the
// libraries is missing.
using MakeCurl = std::shared_ptr<net::HttpTransport> (*)(backends::CurlOptions, std::shared_ptr<Clock>);
constexpr const char* kCurlFunction = "make_transport";
MakeCurl load_curl();

// A clock that is an object with the methods now_us, mono_us and sleep_us.
std::shared_ptr<Clock> python_clock(py::object object);

}  // namespace headgate::bindings
