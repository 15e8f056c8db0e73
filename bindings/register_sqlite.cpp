#include "py.hpp"

#include "headgate/backends/sim_disk.hpp"
#include "headgate/backends/sqlite.hpp"

namespace headgate::bindings {

using namespace backends;

namespace {

SqlValue to_value(const py::handle& item) {
    PyObject* value = item.ptr();
    if (value == Py_None) {
        return std::monostate{};
    }
    if (PyUnicode_Check(value)) {
        return py::cast<std::string>(item);
    }
    if (PyLong_Check(value)) {
        return py::cast<std::int64_t>(item);
    }
    if (PyFloat_Check(value)) {
        return PyFloat_AS_DOUBLE(value);
    }
    if (PyBytes_Check(value)) {
        return Blob{py::cast<std::string>(item)};
    }
    check({ErrorCode::invalid_input, std::string("cannot store a ") + Py_TYPE(value)->tp_name + " in SQLite"});
    return {};
}

SqlRow to_row(const py::handle& items) {
    SqlRow row;
    for (const auto& item : items) {
        row.push_back(to_value(item));
    }
    return row;
}

py::object to_python(const SqlValue& value) {
    if (const auto* number = std::get_if<std::int64_t>(&value)) {
        return py::int_(*number);
    }
    if (const auto* real = std::get_if<double>(&value)) {
        return py::float_(*real);
    }
    if (const auto* text = std::get_if<std::string>(&value)) {
        return py::str(*text);
    }
    if (const auto* blob = std::get_if<Blob>(&value)) {
        return py::bytes(blob->bytes);
    }
    return py::none();
}

}  // namespace

void register_sqlite(py::module_& module) {
    module.attr("SQLITE_SCHEMA_VERSION") = kSchemaVersion;
    py::class_<SimDisk, std::shared_ptr<SimDisk>>(module, "SimDisk")
        .def(py::init<std::uint64_t>(), py::arg("seed"))
        .def("stop_after", &SimDisk::stop_after, py::arg("owner"), py::arg("operations"))
        .def("stopped", &SimDisk::stopped, py::arg("owner"))
        .def("kill", &SimDisk::kill, py::arg("owner"))
        .def("revive", &SimDisk::revive, py::arg("owner"))
        .def("lose_power", &SimDisk::lose_power)
        .def(
            "write", [](SimDisk& d, const std::string& path, const py::bytes& data) { check(d.write(path, data)); },
            py::arg("path"), py::arg("data"))
        .def(
            "sync", [](SimDisk& d, const std::string& path) { check(d.sync(path)); }, py::arg("path"))
        .def(
            "rename", [](SimDisk& d, const std::string& from, const std::string& to) { check(d.rename(from, to)); },
            py::arg("source"), py::arg("target"))
        .def(
            "sync_folder", [](SimDisk& d, const std::string& owner) { check(d.sync_folder(owner)); }, py::arg("owner"))
        .def(
            "remove", [](SimDisk& d, const std::string& path) { check(d.remove(path)); }, py::arg("path"))
        .def(
            "read", [](SimDisk& d, const std::string& path) { return py::bytes(take(d.read(path))); }, py::arg("path"))
        .def("list", &SimDisk::list, py::arg("prefix") = "")
        .def_property_readonly("operations", &SimDisk::operations);
    py::class_<Database, std::shared_ptr<Database>>(module, "Database")
        .def(py::init(
                 [](const std::string& path, bool full, std::int64_t busy_timeout_us, std::shared_ptr<SimDisk> disk) {
                     const DatabaseOptions options{full ? Durability::full : Durability::normal, busy_timeout_us,
                                                   signals(), disk ? disk->vfs() : std::string(), disk};
                     return take(interruptible([&] { return Database::open(path, options); }));
                 }),
             py::arg("path"), py::arg("full") = true, py::arg("busy_timeout_us") = 5'000'000,
             py::arg("disk") = py::none())
        .def(
            "execute",
            [](Database& self, const std::string& sql, const py::sequence& parameters) {
                const auto row = to_row(parameters);
                const auto result = take(interruptible([&] { return self.execute(sql, row, true); }));
                py::list rows;
                for (const auto& found : result.rows) {
                    py::tuple values(found.size());
                    for (std::size_t i = 0; i < found.size(); ++i) {
                        values[i] = to_python(found[i]);
                    }
                    rows.append(std::move(values));
                }
                return py::make_tuple(result.columns, rows, result.changes);
            },
            py::arg("sql"), py::arg("parameters"), "(columns, rows, changes) of one statement.")
        .def(
            "execute_many",
            [](Database& self, const std::string& sql, const py::sequence& rows) {
                std::vector<SqlRow> converted;
                for (const auto& row : rows) {
                    converted.push_back(to_row(row));
                }
                return take(interruptible([&] { return self.execute_many(sql, converted); }));
            },
            py::arg("sql"), py::arg("rows"), "Rows changed, in one transaction.")
        .def("begin", [](Database& self) { check(interruptible([&] { return self.begin(); })); })
        .def("commit", [](Database& self) { check(interruptible([&] { return self.commit(); })); })
        .def("rollback", [](Database& self) { check(interruptible([&] { return self.rollback(); })); })
        .def_property_readonly("in_transaction", &Database::in_transaction)
        .def_property_readonly("path", &Database::path)
        .def("close", [](Database& self) { check(interruptible([&] { return self.close(); })); });
    module.def(
        "put_items",
        [](Database& database, const std::string& topic, const py::sequence& items, std::int64_t now_us) {
            std::vector<NewItem> rows;
            rows.reserve(items.size());
            for (const auto& object : items) {
                const auto t = py::reinterpret_borrow<py::tuple>(object);
                rows.push_back({t[0].cast<std::string>(), t[1].cast<std::string>(), t[2].cast<std::string>(),
                                t[3].cast<std::string>(), t[4].cast<std::string>(), t[5].cast<std::string>(),
                                t[6].cast<std::vector<std::string>>(), to_value(t[7]), to_value(t[8])});
            }
            return take(interruptible([&] { return put_items(database, topic, rows, now_us); }));
        },
        py::arg("database"), py::arg("topic"), py::arg("items"), py::arg("now_us"),
        "items: (key, pipeline, source, timestamp, doc, announcement, labels, story key, raw key); whether each was "
        "new.");
    module.def(
        "sqlite_ledger",
        [](std::shared_ptr<Database> database, std::int64_t ttl, std::shared_ptr<Clock> clock,
           std::shared_ptr<Random> random, bool fence) {
            return make_sqlite_ledger(std::move(database), {ttl, fence}, std::move(clock), std::move(random));
        },
        py::arg("database"), py::arg("done_ttl_us"), py::arg("clock"), py::arg("random"), py::arg("fence") = false);
}

}  // namespace headgate::bindings
