#include "py.hpp"

namespace headgate::bindings {
void register_base(py::module_& module);
void register_hash(py::module_& module);
void register_resilience(py::module_& module);
void register_ledger(py::module_& module);
void register_sqlite(py::module_& module);
void register_store(py::module_& module);
void register_schema(py::module_& module);
void register_net(py::module_& module);
}  // namespace headgate::bindings

PYBIND11_MODULE(_core, module) {
    using namespace headgate::bindings;
    module.doc() = "headgate's native core. Private: nothing here is a stable interface.";
    module.attr("__version__") = HEADGATE_VERSION;
    register_errors(module);
    register_base(module);
    register_hash(module);
    register_resilience(module);
    register_ledger(module);
    register_sqlite(module);
    register_store(module);
    register_schema(module);
    register_net(module);
}
