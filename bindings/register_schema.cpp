#include "py.hpp"

#include "headgate/schema/schema.hpp"

namespace headgate::bindings {

using namespace schema;

void register_schema(py::module_& module) {
    py::class_<Pattern>(module, "Pattern")
        .def(py::init([](const std::string& text) { return take(Pattern::compile(text)); }), py::arg("text"))
        .def(
            "fullmatch",
            [](const Pattern& self, const std::string& text) -> py::object {
                std::vector<Pattern::Group> groups;
                if (!self.matches(text, groups)) {
                    return py::none();
                }
                py::dict out;
                for (const auto& group : groups) {
                    out[py::str(group.name)] =
                        py::bytes(text.substr(group.begin, group.end - group.begin)).attr("decode")();
                }
                return out;
            },
            py::arg("text"), "The named groups, or None.")
        .def("matches", py::overload_cast<std::string_view>(&Pattern::matches, py::const_), py::arg("text"),
             "Whether the whole text matches; faster than fullmatch.");
    py::class_<RecordReader>(module, "Validator")
        .def(py::init([](const std::string& plan) { return RecordReader(take(Schema::parse(plan))); }), py::arg("plan"))
        .def(
            "problems",
            [](RecordReader& self, const py::bytes& text) {
                py::list out;
                for (const auto& problem : self.read(std::string_view(text), nullptr)) {
                    out.append(py::make_tuple(problem.field, problem.kind));
                }
                return out;
            },
            py::arg("text"), "(field, kind) of everything wrong with one JSON record.");
    module.def(
        "redact_name",
        [](const std::string& plan, const std::string& name) { return take(Schema::parse(plan))->redact_name(name); },
        py::arg("plan"), py::arg("name"));
}

}  // namespace headgate::bindings
