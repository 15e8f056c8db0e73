#include "adapters.hpp"

#include "headgate/backends/file.hpp"

namespace headgate::bindings {

void register_store(py::module_& module) {
    using store::ObjectStore;
    py::class_<ObjectStore, std::shared_ptr<ObjectStore>>(module, "ObjectStore")
        .def(
            "put",
            [](ObjectStore& self, const std::string& key, const py::bytes& data, bool if_absent) {
                const std::string_view view(data);
                const auto mode = if_absent ? store::PutMode::if_absent : store::PutMode::overwrite;
                check(without_gil([&] { return self.put(key, view, mode); }));
            },
            py::arg("key"), py::arg("data"), py::arg("if_absent") = false)
        .def(
            "get",
            [](const ObjectStore& self, const std::string& key) {
                return py::bytes(take(without_gil([&] { return self.get(key); })));
            },
            py::arg("key"))
        .def(
            "exists",
            [](const ObjectStore& self, const std::string& key) {
                return take(without_gil([&] { return self.exists(key); }));
            },
            py::arg("key"))
        .def(
            "list",
            [](const ObjectStore& self, const std::string& prefix) {
                return take(without_gil([&] { return self.list(prefix); }));
            },
            py::arg("prefix") = "")
        .def(
            "remove",
            [](ObjectStore& self, const std::string& key) { check(without_gil([&] { return self.remove(key); })); },
            py::arg("key"));
    module.def(
        "file_store",
        [](const std::string& folder, const py::object& files) {
            return take(backends::make_file_store(folder, files.is_none() ? nullptr : python_files(files)));
        },
        py::arg("folder"), py::arg("files") = py::none());
}

}  // namespace headgate::bindings
