// headgate._curl: the only extension that needs libcurl. It has one thing, for the other extensions alone: the function
// that makes a transport (load_curl in bindings/seams.hpp).
#include "seams.hpp"

namespace headgate::bindings {
namespace {

std::shared_ptr<net::HttpTransport> make(backends::CurlOptions options, std::shared_ptr<Clock> clock) {
    return backends::make_curl_transport(std::move(options), std::move(clock));
}

}  // namespace
}  // namespace headgate::bindings

PYBIND11_MODULE(_curl, module) {
    using namespace headgate::bindings;
    module.doc() = "headgate's HTTP transport. Private: nothing here is a stable interface.";
    module.attr(kCurlFunction) = py::capsule(reinterpret_cast<void*>(static_cast<MakeCurl>(&make)), kCurlFunction);
}
