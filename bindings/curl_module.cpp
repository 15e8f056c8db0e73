// headgate._curl: the only extension that needs libcurl. It has one thing, for the other extensions alone: the function
// that makes a transport (load_curl in bindings/seams.hpp).
#include "seams.hpp"

PYBIND11_MODULE(_curl, module) {
    using namespace headgate::bindings;
    module.doc() = "headgate's HTTP transport. Private: nothing here is a stable interface.";
    const MakeCurl make = &headgate::backends::make_curl_transport;
    module.attr(kCurlFunction) = py::capsule(reinterpret_cast<void*>(make), kCurlFunction);
}
