// headgate._parquet: the only extension that needs Arrow. It shares no C++ type with _core, only plain data.
#include "adapters.hpp"

#include "headgate/backends/parquet.hpp"
#include "headgate/backends/s3.hpp"
#include "headgate/base/fault.hpp"
#include "headgate/base/scratch.hpp"
#include "headgate/checkpoint/checkpoint.hpp"
#include "headgate/checkpoint/records.hpp"
#include "headgate/json/canonical.hpp"

namespace headgate::bindings {
namespace {

constexpr std::size_t kRefusedBytes = 256U << 10U;  // of lines at a time

// The next refused records as (name, digest, offset, problems), and where those after them begin; an empty list: the
// end.
py::tuple read_refused(const checkpoint::Refused& refused, std::uint64_t at) {
    py::list out;
    for (const auto& reject : take(refused.read(at, kRefusedBytes))) {
        py::list problems;
        for (const auto& problem : reject.problems) {
            problems.append(py::make_tuple(problem.field, problem.kind));
        }
        out.append(py::make_tuple(reject.name, reject.digest, reject.offset, problems));
    }
    return py::make_tuple(out, at);
}

py::dict to_dict(const checkpoint::Summary& s) {
    py::dict out;
    const auto put = [&out](const char* name, const auto& value) { out[name] = value; };
    put("first_run", s.first_run);
    put("committed", s.committed);
    put("complete", s.complete);
    put("listed", s.listed);
    put("ignored", s.ignored);
    put("deferred", s.deferred);
    put("known", s.known);
    put("touched", s.touched);
    put("changed", s.changed);
    put("grown", s.grown);
    put("moved", s.moved);
    put("retried", s.retried);
    put("vanished", s.vanished);
    put("unreadable", s.unreadable);
    put("archived", s.archived);
    put("taken_files", s.taken_files);
    put("rejected_files", s.rejected_files);
    put("records", s.records);
    put("rejected_records", s.rejected_records);
    put("skipped_before_watermark", s.skipped_before_watermark);
    put("rows_added", s.rows_added);
    put("late_rows", s.late_rows);
    put("drifted", s.drifted);
    put("rows_before", s.rows_before);
    put("rows_total", s.rows_total);
    put("bytes_read", s.bytes_read);
    put("file_size", s.file_size);
    put("version", s.version);
    put("attempts", s.attempts);
    put("spilled_bytes", s.spilled_bytes);
    put("memory_high_water", s.memory_high_water);
    put("problems", s.problems);
    put("read_problems", s.read_problems);
    out["last_timestamp_us"] =
        s.last_timestamp_us == INT64_MIN ? py::object(py::none()) : py::object(py::int_(s.last_timestamp_us));
    // Python's wrapper only reads.
    out["rejects"] = std::const_pointer_cast<checkpoint::Refused>(s.rejects);
    out["unread"] = std::const_pointer_cast<checkpoint::Refused>(s.unread);
    return out;
}

// A place is a local path; a dict with `path` and `files` (bindings/adapters.hpp); a target whose rows are elsewhere,
// with `footer_file` and the place of its `parts`; or a dict: bucket, prefix or key, region, endpoint, ca_file,
// credentials (a callable that gives access key, secret key and session token), in_flight, scratch, and `transport`
// (bindings/adapters.hpp) where the requests do not go over the network.
class Places {
public:
    Places(std::size_t max_body, const py::dict& given) : max_body_(max_body) {
        if (given.contains("clock")) {
            clock = python_clock(given["clock"]);
        }
        if (given.contains("seed")) {
            random = std::make_shared<SeededRandom>(given["seed"].cast<std::uint64_t>());
        }
        if (given.contains("row_group_rows")) {
            group_rows = given["row_group_rows"].cast<std::int64_t>();
        }
    }

    std::shared_ptr<checkpoint::Source> source(const py::object& place) const {
        if (py::isinstance<py::str>(place)) {
            return checkpoint::make_folder_source(place.cast<std::string>(), {max_body_});
        }
        const auto dict = place.cast<py::dict>();
        if (dict.contains("folder")) {
            return checkpoint::make_folder_source(dict["folder"].cast<std::string>(),
                                                  {max_body_, dict["follow_links"].cast<bool>()});
        }
        if (dict.contains("files")) {
            return checkpoint::make_files_source(dict["path"].cast<std::string>(), python_files(dict["files"]));
        }
        return backends::make_s3_source(s3(dict), clock, random);
    }

    std::shared_ptr<checkpoint::Target> target(const py::object& place) const {
        if (py::isinstance<py::str>(place)) {
            return checkpoint::make_file_target(place.cast<std::string>());
        }
        const auto dict = place.cast<py::dict>();
        if (dict.contains("files")) {
            return checkpoint::make_file_target(dict["path"].cast<std::string>(), 0, files(place));
        }
        if (dict.contains("footer_file")) {
            return checkpoint::make_staging_target(dict["footer_file"].cast<std::string>(), "", target(dict["parts"]));
        }
        return backends::make_s3_target(s3(dict), dict["key"].cast<std::string>(), dict["scratch"].cast<std::string>(),
                                        clock, random);
    }

    // Where the table's own file is written; nothing: the machine's files.
    static std::shared_ptr<FileSystem> files(const py::object& place) {
        const bool given = py::isinstance<py::dict>(place) && place.contains("files");
        return given ? python_files(place["files"]) : nullptr;
    }

    std::shared_ptr<Clock> clock = std::make_shared<SystemClock>();
    std::shared_ptr<Random> random = std::make_shared<SystemRandom>();
    std::int64_t group_rows = backends::kRowGroupRows;

private:
    backends::S3Options s3(const py::dict& place) const {
        backends::S3Options out;
        out.bucket = place["bucket"].cast<std::string>();
        out.prefix = place["prefix"].cast<std::string>();
        if (place.contains("within")) {
            out.within = place["within"].cast<std::string>();
        }
        out.region = place["region"].cast<std::string>();
        out.endpoint = place["endpoint"].cast<std::string>();
        out.in_flight = place["in_flight"].cast<std::size_t>();
        const auto ask = held(place["credentials"]);  // called on any thread
        out.credentials = [ask]() -> Result<backends::S3Credentials> {
            const py::gil_scoped_acquire acquire;
            try {
                const auto found = (*ask)().cast<py::tuple>();
                return backends::S3Credentials{found[0].cast<std::string>(), found[1].cast<std::string>(),
                                               found[2].cast<std::string>()};
            } catch (py::error_already_set& error) {
                // Its text could hold a secret; its type says what is wrong.
                return Status(ErrorCode::permission_denied,
                              "no AWS credentials could be had: " + error.type().attr("__name__").cast<std::string>());
            }
        };
        if (place.contains("transport")) {
            out.transport = [transport = python_transport(place["transport"], clock)] { return transport; };
            return out;
        }
        backends::CurlOptions curl;
        curl.ca_file = place["ca_file"].cast<std::string>();
        curl.max_body = std::max(max_body_, backends::kS3RangeBytes);
        curl.max_idle_connections = static_cast<long>(out.in_flight);
        curl.decode = false;  // an object's bytes are what was stored
        out.transport = [make = load_curl(), curl, clock = clock] { return make(curl, clock); };
        return out;
    }

    std::size_t max_body_;
};

checkpoint::Environment environment(const Places& places, const py::object& source, const py::object& target,
                                    const py::object& progress) {
    checkpoint::Environment out;
    out.source = source.is_none() ? nullptr : places.source(source);
    out.target = target.is_none() ? nullptr : places.target(target);
    out.table = backends::make_parquet_table(Places::files(target), places.group_rows);
    out.clock = places.clock;
    out.random = places.random;
    out.unpack = backends::make_unpacker();
    out.interrupt = signals();
    if (!progress.is_none()) {
        out.progress = [&progress](std::int64_t done, std::int64_t total) {
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
    return out;
}

template <class T>
void set(const py::dict& from, const char* name, T& to) {
    if (from.contains(name)) {
        to = from[name].cast<T>();
    }
}

checkpoint::Options options(const std::string& plan, const py::dict& given) {
    checkpoint::Options out;
    out.schema = take(schema::Schema::parse(plan));
    bool watermark = false;
    bool inferred = false;
    set(given, "watermark", watermark);
    set(given, "inferred", inferred);
    set(given, "settle_us", out.settle_us);
    set(given, "threads", out.threads);
    set(given, "memory", out.memory);
    set(given, "spill_dir", out.spill_dir);
    set(given, "spill_limit", out.spill_limit);
    set(given, "max_file_bytes", out.max_file_bytes);
    set(given, "window_us", out.window_us);
    set(given, "full_listing_every_us", out.full_listing_every_us);
    set(given, "target_key", out.target_key);
    set(given, "rescan", out.rescan);
    set(given, "take_rewritten", out.take_rewritten);
    set(given, "retry_rejected", out.retry_rejected);
    set(given, "retry_rule", out.retry_rule);
    set(given, "source_name", out.source_name);
    set(given, "other_source", out.other_source);
    set(given, "evolve", out.evolve);
    set(given, "dry_run", out.dry_run);
    out.mode = watermark ? checkpoint::Mode::watermark : checkpoint::Mode::ledger;
    out.plan = inferred ? plan : "";
    return out;
}

// The list `unread` of the options gets what made a run fail because not one file could be read.
void note_unread(const py::dict& given, checkpoint::Environment& env) {
    if (given.contains("unread")) {
        env.none_read =
            [list = given["unread"].cast<py::list>()](std::shared_ptr<const checkpoint::Refused> files) mutable {
                const py::gil_scoped_acquire acquire;
                list.append(std::const_pointer_cast<checkpoint::Refused>(files));
            };
    }
}

py::dict update(const py::object& source, const py::object& target, const std::string& plan, const py::dict& given,
                const py::object& progress) {
    const auto opts = options(plan, given);
    auto env = environment(Places(opts.max_file_bytes, given), source, target, progress);
    note_unread(given, env);
    return to_dict(take(interruptible([&] { return checkpoint::update(opts, env); })));
}

// One attempt of an append to a Delta table: new rows into `out`, what is committed told by `footer_file`.
py::dict stage(const py::object& source, const py::object& parts, const std::string& footer_file,
               const std::string& out, const std::string& plan, const py::dict& given, const py::object& progress) {
    auto opts = options(plan, given);
    opts.partitioned = true;
    const Places places(opts.max_file_bytes, given);
    auto env = environment(places, source, py::none(), progress);
    note_unread(given, env);
    env.target = checkpoint::make_staging_target(footer_file, out, places.target(parts));
    return to_dict(take(interruptible([&] { return checkpoint::update(opts, env); })));
}

// Writes the rows of a Parquet file of an earlier schema as those of the plan.
void evolve_rows(const std::string& from, const std::string& to, const std::string& plan) {
    const auto schema = take(schema::Schema::parse(plan));
    const auto files = backends::make_parquet_table();
    check(interruptible([&]() -> Status {
        HG_ASSIGN(const auto reader, files->open(from, *schema));
        HG_ASSIGN(const auto writer, files->create(to, *schema));
        while (true) {
            HG_ASSIGN(const auto rows, reader->next());
            if (rows == 0) {
                return writer->finish({});
            }
            HG_RETURN_IF_ERROR(reader->pass_on(*writer));
        }
    }));
}

// Refuses a table whose footer and columns are those of `footer_file` when it does not have the columns of the plan.
void check_columns(const std::string& footer_file, const std::string& plan, const std::string& target) {
    check(checkpoint::check_columns(*backends::make_parquet_table(), footer_file, *take(schema::Schema::parse(plan)),
                                    target));
}

// A part of a table on this machine: one of those that its footer names.
py::bytes read_part(const std::string& target, const std::string& name) {
    return take(interruptible([&] { return checkpoint::make_file_target(target)->read_part(name); }));
}

std::string infer(const py::object& source, const std::string& name, const std::string& sort_by, unsigned threads,
                  const std::string& target_key, const std::string& base_plan, const py::dict& given,
                  const py::object& progress) {
    checkpoint::InferOptions opts;
    opts.name = name;
    opts.sort_by = sort_by;
    opts.threads = threads;
    opts.target_key = target_key;
    opts.base_plan = base_plan;
    set(given, "file_names", opts.file_names);
    set(given, "records", opts.records);
    set(given, "file_column", opts.file_column);
    set(given, "times", opts.times);
    const auto env = environment(Places(opts.max_file_bytes, {}), source, py::none(), progress);
    return take(interruptible([&] { return checkpoint::infer(opts, env); }));
}

// (name, plan) of the schema that a target's footer tells; empty: there is no table, or its schema was declared.
py::tuple stored_schema(const py::object& target) {
    const auto env = environment(Places(checkpoint::Options().max_file_bytes, {}), py::none(), target, py::none());
    auto found = take(interruptible([&] { return checkpoint::stored_schema(env); }));
    return py::make_tuple(found.name, found.plan);
}

py::dict verify(const py::object& source, const py::object& target, const std::string& plan, const py::object& progress,
                std::optional<std::int64_t> rows_elsewhere, const std::string& target_key) {
    auto opts = options(plan, {});
    opts.target_key = target_key;
    const auto env = environment(Places(opts.max_file_bytes, {}), source, target, progress);
    const auto r = take(interruptible([&] { return checkpoint::verify(opts, env, rows_elsewhere); }));
    py::dict out;
    const auto put = [&out](const char* name, const auto& value) { out[name] = value; };
    put("rows", r.rows);
    put("rows_in_footer", r.rows_in_footer);
    out["rows_in_ledger"] = r.rows_in_ledger < 0 ? py::object(py::none()) : py::object(py::int_(r.rows_in_ledger));
    put("out_of_order", r.out_of_order);
    put("ledger_entries", r.ledger_entries);
    put("checked_files", r.checked_files);
    put("pending", r.pending);
    put("changed", r.changed);
    put("unreadable", r.unreadable);
    put("gone", r.gone);
    put("version", r.version);
    put("differences", r.differences);
    put("examples", r.examples);
    return out;
}

// The stream inside what has Arrow's PyCapsule interface.
py::capsule arrow_stream(const py::object& rows) {
    return rows.attr("__arrow_c_stream__")().cast<py::capsule>();
}

// The content of a file, without its compression.
py::bytes unpack(const std::string& name, const std::string& packed, std::size_t limit) {
    std::string buffer;
    std::string_view out;
    {
        const py::gil_scoped_release release;
        static const auto unpacker = backends::make_unpacker();
        if (const auto status = checkpoint::unpacked(name, packed, limit, unpacker, buffer, out); !status.ok()) {
            const py::gil_scoped_acquire acquire;
            check(status);
        }
    }
    return {out.data(), out.size()};
}

// (offset, record, problem) of the records of a file's unpacked content that end, or whose document ends, behind
// `begin`; the problem is a kind or empty.
py::list split_records(const std::string& key, const py::bytes& content, const std::vector<std::string>& path,
                       std::uint64_t begin) {
    class Sink final : public checkpoint::RecordSink {
    public:
        explicit Sink(std::uint64_t begin) : begin_(begin) {}
        bool take_object(std::string_view text, std::uint64_t offset) override {
            if (!is_new(text, offset)) {
                return checkpoint::is_whole_object(text);
            }
            const bool is_object = json::is_object(text);
            if (is_object) {
                take(text, offset);
            }
            return is_object;
        }
        void take(std::string_view text, std::uint64_t offset) override {
            if (is_new(text, offset)) {
                out.append(py::make_tuple(offset, py::bytes(text.data(), text.size()), ""));
            }
        }
        void refuse(std::uint64_t offset, std::string_view kind) override {
            if (is_new({}, offset)) {
                out.append(py::make_tuple(offset, py::bytes(), std::string(kind)));
            }
        }
        void begin_document(std::uint64_t end) override { document_end_ = end; }
        void end_document() override { document_end_ = 0; }
        py::list out;

    private:
        bool is_new(std::string_view text, std::uint64_t offset) const {
            return begin_ == 0 || std::max(document_end_, offset + checkpoint::end_of_text(text)) > begin_;
        }
        std::uint64_t begin_;
        std::uint64_t document_end_ = 0;
    };
    Sink sink(begin);
    checkpoint::split_records(key, std::string_view(content), path, sink);
    return std::move(sink.out);
}

bool holds_lines(const std::string& key, const py::bytes& content) {
    return checkpoint::holds_lines(key, std::string_view(content));
}

// For every column the value of each group, and how many rows each has.
py::tuple count_groups(const py::object& rows) {
    const auto capsule = arrow_stream(rows);
    auto& stream = *capsule.get_pointer<ArrowArrayStream>();
    const auto counted = take(interruptible([&] { return backends::count_groups(stream, signals()); }));
    py::list columns;
    for (std::size_t c = 0; c < counted.groups.columns(); ++c) {
        py::list values;
        for (std::size_t group = 0; group < counted.counts.size(); ++group) {
            values.append(std::visit(
                [](const auto& value) -> py::object {
                    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::monostate>) {
                        return py::none();
                    } else {
                        return py::cast(value);
                    }
                },
                counted.groups.value(group, c)));
        }
        columns.append(values);
    }
    return py::make_tuple(columns, counted.counts);
}

// Row numbers, as int64 in the machine's order of bytes.
py::bytes newest_rows(const py::object& rows) {
    const auto capsule = arrow_stream(rows);
    auto& stream = *capsule.get_pointer<ArrowArrayStream>();
    const auto found = take(interruptible([&] { return backends::newest_rows(stream, signals()); }));
    return {reinterpret_cast<const char*>(found.data()), found.size() * sizeof(std::int64_t)};
}

}  // namespace
}  // namespace headgate::bindings

PYBIND11_MODULE(_parquet, module) {
    using namespace headgate::bindings;
    using headgate::checkpoint::Refused;
    module.doc() = "headgate's Parquet checkpoint engine. Private: nothing here is a stable interface.";
    register_errors(module);
    py::class_<Refused, std::shared_ptr<Refused>>(module, "Refused")
        .def("__len__", &Refused::size)
        .def("read", &read_refused, py::arg("at"));
    py::class_<headgate::ScratchFolder>(module, "Scratch")
        .def(py::init([](const std::string& parent) {
                 headgate::SystemRandom random;
                 return take(headgate::ScratchFolder::make(parent, random));
             }),
             py::arg("parent"))
        .def_property_readonly("path", &headgate::ScratchFolder::path)
        .def("remove", &headgate::ScratchFolder::remove);
    module.def("update", &update, py::arg("source"), py::arg("target"), py::arg("plan"), py::arg("options"),
               py::arg("progress"));
    module.def("stage", &stage, py::arg("source"), py::arg("parts"), py::arg("footer_file"), py::arg("out"),
               py::arg("plan"), py::arg("options"), py::arg("progress"));
    module.def("evolve_rows", &evolve_rows, py::arg("from_file"), py::arg("to_file"), py::arg("plan"));
    module.def("check_columns", &check_columns, py::arg("footer_file"), py::arg("plan"), py::arg("target"));
    module.def("read_part", &read_part, py::arg("target"), py::arg("name"));
    module.def(
        "check_footer",
        [](const std::string& footer, const std::string& target) {
            check(headgate::checkpoint::check_footer(footer, target));
        },
        py::arg("footer"), py::arg("target"));
    module.def("infer", &infer, py::arg("source"), py::arg("name"), py::arg("sort_by"), py::arg("threads"),
               py::arg("target_key") = "", py::arg("base_plan") = "", py::arg("options") = py::dict(),
               py::arg("progress") = py::none());
    module.def("stored_schema", &stored_schema, py::arg("target"));
    module.def("verify", &verify, py::arg("source"), py::arg("target"), py::arg("plan"), py::arg("progress"),
               py::arg("rows_elsewhere") = py::none(), py::arg("target_key") = "");
    module.def("unpack", &unpack, py::arg("name"), py::arg("packed"), py::arg("limit"));
    module.def("split_records", &split_records, py::arg("key"), py::arg("content"), py::arg("path"),
               py::arg("begin") = 0);
    module.def("holds_lines", &holds_lines, py::arg("key"), py::arg("content"));
    module.def("count_groups", &count_groups, py::arg("rows"));
    module.def("newest_rows", &newest_rows, py::arg("rows"));
    module.def(
        "set_faults", [](const std::string& spec) { check(headgate::set_faults(spec)); }, py::arg("spec"));
}
