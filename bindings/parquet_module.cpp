// headgate._parquet: the only extension that needs Arrow. It shares no C++ type with _core, only plain data.
#include "py.hpp"

#include "headgate/backends/parquet.hpp"
#include "headgate/base/fault.hpp"
#include "headgate/checkpoint/checkpoint.hpp"

namespace headgate::bindings {
namespace {

py::dict to_dict(const checkpoint::Summary& s) {
    py::dict out;
    const auto put = [&out](const char* name, const auto& value) { out[name] = value; };
    put("first_run", s.first_run);
    put("committed", s.committed);
    put("listed", s.listed);
    put("ignored", s.ignored);
    put("deferred", s.deferred);
    put("known", s.known);
    put("touched", s.touched);
    put("changed", s.changed);
    put("vanished", s.vanished);
    put("unreadable", s.unreadable);
    put("taken_files", s.taken_files);
    put("rejected_files", s.rejected_files);
    put("records", s.records);
    put("rejected_records", s.rejected_records);
    put("skipped_before_watermark", s.skipped_before_watermark);
    put("rows_added", s.rows_added);
    put("late_rows", s.late_rows);
    put("rows_before", s.rows_before);
    put("rows_total", s.rows_total);
    put("bytes_read", s.bytes_read);
    put("file_size", s.file_size);
    put("version", s.version);
    put("problems", s.problems);
    out["last_timestamp_us"] =
        s.last_timestamp_us == INT64_MIN ? py::object(py::none()) : py::object(py::int_(s.last_timestamp_us));
    py::list rejects;
    for (const auto& reject : s.first_rejects) {
        py::list problems;
        for (const auto& problem : reject.problems) {
            problems.append(py::make_tuple(problem.field, problem.kind));
        }
        rejects.append(py::make_tuple(reject.name, reject.digest, reject.offset, problems));
    }
    out["first_rejects"] = rejects;
    return out;
}

py::dict update(const std::string& source, const std::string& target, const std::string& plan, bool watermark,
                std::int64_t settle_us, unsigned threads, bool dry_run, const py::object& progress) {
    checkpoint::Options options;
    options.source = source;
    options.target = target;
    options.schema = take(schema::Schema::parse(plan));
    options.mode = watermark ? checkpoint::Mode::watermark : checkpoint::Mode::ledger;
    options.settle_us = settle_us;
    options.threads = threads;
    options.dry_run = dry_run;
    checkpoint::Environment environment{backends::make_parquet_table(),
                                        std::make_shared<SystemClock>(),
                                        std::make_shared<SystemRandom>(),
                                        signals(),
                                        {}};
    if (!progress.is_none()) {
        environment.progress = [&progress](std::int64_t done, std::int64_t total) {
            const py::gil_scoped_acquire acquire;
            if (PyErr_Occurred() == nullptr) {
                try {
                    progress(done, total);
                } catch (py::error_already_set& error) {
                    error.restore();  // pending: the next interrupt check ends the run
                }
            }
        };
    }
    auto result = without_gil([&] { return checkpoint::update(options, environment); });
    raise_pending();
    return to_dict(take(std::move(result)));
}

}  // namespace
}  // namespace headgate::bindings

PYBIND11_MODULE(_parquet, module) {
    using namespace headgate::bindings;
    module.doc() = "headgate's Parquet checkpoint engine. Private: nothing here is a stable interface.";
    register_errors(module);
    module.def("update", &update, py::arg("source"), py::arg("target"), py::arg("plan"), py::arg("watermark"),
               py::arg("settle_us"), py::arg("threads"), py::arg("dry_run"), py::arg("progress"));
    module.def(
        "set_faults", [](const std::string& spec) { check(headgate::set_faults(spec)); }, py::arg("spec"));
}
