#include "py.hpp"

#include "headgate/schema/schema.hpp"

namespace headgate::bindings {

using namespace schema;

namespace {

class Validator {
public:
    explicit Validator(std::shared_ptr<const Schema> schema)
        : schema_(std::move(schema)), reader_(schema_), columns_(Columns::like(*schema_)) {}

    py::list problems(const py::bytes& text) { return read(text, nullptr); }

    py::object row(const py::bytes& text, const std::string& file) {
        columns_.clear();
        reader_.begin_file(file);
        auto found = read(text, &columns_);
        return found.empty() ? py::object(py::str(row_as_json(*schema_, columns_, 0))) : py::object(found);
    }

    bool accepts_name(const std::string& key) const { return schema_->accepts_name(key); }
    std::string shown_name(const std::string& key) const { return schema_->shown_name(key); }
    std::string day_of_name(const std::string& key) const { return schema_->day_of_name(key); }

private:
    py::list read(const py::bytes& text, Columns* columns) {
        py::list out;
        for (const auto& problem : reader_.read(std::string_view(text), columns)) {
            out.append(py::make_tuple(problem.field, problem.kind));
        }
        return out;
    }

    std::shared_ptr<const Schema> schema_;
    RecordReader reader_;
    Columns columns_;
};

}  // namespace

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
    py::class_<Validator>(module, "Validator")
        .def(py::init([](const std::string& plan) { return Validator(take(Schema::parse(plan))); }), py::arg("plan"))
        .def("problems", &Validator::problems, py::arg("text"),
             "(field, kind) of everything wrong with one JSON record.")
        .def("row", &Validator::row, py::arg("text"), py::arg("file") = "",
             "A valid record as the engine's row, as JSON; else its problems.")
        .def("accepts_name", &Validator::accepts_name, py::arg("key"), "Whether a file of this key is read at all.")
        .def("shown_name", &Validator::shown_name, py::arg("key"), "The file's name as logs may have it.")
        .def("day_of_name", &Validator::day_of_name, py::arg("key"), "YYYYMMDD of its stamp, or nothing.");
}

}  // namespace headgate::bindings
