// headgate._curl: the only extension that links libcurl. Its only content is the function that makes a transport, which
// the other extensions call (load_curl() in bindings/adapters.hpp).
#include "adapters.hpp"

PYBIND11_MODULE(_curl, module) {
    using namespace headgate::bindings;
    module.doc() = "headgate's HTTP transport. Private: nothing here is a stable interface.";
    const MakeCurl make = &headgate::backends::make_curl_transport;
    module.attr(kCurlFunction) = py::capsule(reinterpret_cast<void*>(make), kCurlFunction);
}
