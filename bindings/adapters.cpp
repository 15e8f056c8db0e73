#include "adapters.hpp"

#include <algorithm>

namespace headgate::bindings {
namespace {

using net::HttpFlow;
using net::HttpRequest;
using net::HttpResponse;

constexpr std::int64_t kLaterUs = 10'000;

class PythonLock final : public FileLock {
public:
    PythonLock(std::shared_ptr<py::object> files, std::string path)
        : files_(std::move(files)), path_(std::move(path)) {}
    ~PythonLock() override {
        const py::gil_scoped_acquire acquire;
        try {
            files_->attr("unlock")(path_);
        } catch (py::error_already_set& error) {
            error.discard_as_unraisable("unlock");
        }
    }
    PythonLock(const PythonLock&) = delete;
    PythonLock& operator=(const PythonLock&) = delete;

private:
    std::shared_ptr<py::object> files_;
    std::string path_;
};

class PythonFiles final : public FileSystem {
public:
    explicit PythonFiles(py::object object) : object_(held(std::move(object))) {
        name_ = object_->attr("process_name").cast<std::string>();
    }

    Result<std::string> read(const std::string& path, std::uint64_t limit) override {
        auto bytes = ask<std::string>("read", path);
        return !bytes.ok() || bytes.value().size() <= limit ? std::move(bytes) : too_large_to_read(path, limit);
    }
    Status write_new(const std::string& path, std::string_view bytes) override {
        return call([&] { object_->attr("write_new")(path, py::bytes(bytes.data(), bytes.size())); });
    }
    Status rename(const std::string& from, const std::string& to) override {
        return call([&] { object_->attr("rename")(from, to); });
    }
    Status link(const std::string& from, const std::string& to) override {
        return call([&] { object_->attr("link")(from, to); });
    }
    Status remove(const std::string& path) override {
        return call([&] { object_->attr("remove")(path); });
    }
    Status remove_all(const std::string& path) override {
        return call([&] { object_->attr("remove_all")(path); });
    }
    Status make_folders(const std::string& path) override {
        return call([&] { object_->attr("make_folders")(path); });
    }
    Status sync_folder(const std::string& path) override {
        return call([&] { object_->attr("sync_folder")(path); });
    }
    Result<FileInfo> info(const std::string& path) override {
        FileInfo out;
        HG_RETURN_IF_ERROR(call([&] {
            const auto found = object_->attr("info")(path).cast<py::tuple>();
            out = {found[0].cast<std::uint64_t>(), found[1].cast<std::int64_t>(), found[2].cast<std::int64_t>(),
                   found[3].cast<bool>()};
        }));
        return out;
    }
    Result<std::vector<std::string>> names(const std::string& folder) override {
        return ask<std::vector<std::string>>("names", folder);
    }
    Result<std::vector<std::string>> walk(const std::string& folder) override {
        return ask<std::vector<std::string>>("walk", folder);
    }
    Result<std::unique_ptr<FileLock>> try_lock(const std::string& path) override {
        HG_ASSIGN(const bool locked, ask<bool>("try_lock", path));
        if (!locked) {
            return Status(ErrorCode::busy, "another run holds " + path);
        }
        return std::unique_ptr<FileLock>(std::make_unique<PythonLock>(object_, path));
    }
    std::string process_name() const override { return name_; }

private:
    template <class Work>
    static Status call(Work work) {
        const py::gil_scoped_acquire acquire;
        try {
            work();
            return {};
        } catch (const py::error_already_set& error) {
            return status_of(error);
        }
    }

    template <class T>
    Result<T> ask(const char* method, const std::string& argument) {
        T out{};
        HG_RETURN_IF_ERROR(call([&] { out = object_->attr(method)(argument).template cast<T>(); }));
        return out;
    }

    std::shared_ptr<py::object> object_;
    std::string name_;
};

class PythonTransport final : public net::HttpTransport {
public:
    PythonTransport(py::object callable, std::shared_ptr<Clock> clock)
        : callable_(held(std::move(callable))), clock_(std::move(clock)) {}

    // Passes the requests to Python in rounds of `concurrency`.
    std::vector<HttpResponse> perform(const std::vector<HttpRequest>& requests, Deadline deadline,
                                      std::size_t concurrency, const Interrupt& interrupt) override {
        std::vector<HttpResponse> out(requests.size());
        const auto most = std::max<std::size_t>(1, concurrency);
        for (std::size_t at = 0; at < requests.size(); at += most) {
            const std::vector<HttpRequest> some(
                requests.begin() + static_cast<std::ptrdiff_t>(at),
                requests.begin() + static_cast<std::ptrdiff_t>(std::min(requests.size(), at + most)));
            const auto left = deadline.left_us(*clock_);
            if (left <= 0 || (interrupt && interrupt())) {
                for (std::size_t i = 0; i < some.size(); ++i) {
                    out[at + i].error = left <= 0 ? Status(ErrorCode::timeout, "the deadline passed")
                                                  : Status(ErrorCode::interrupted, "interrupted");
                }
                continue;
            }
            for (auto& [index, response] : answers(some, left)) {
                out[at + index] = std::move(response);
            }
        }
        return out;
    }

    void run(HttpFlow& flow, std::int64_t timeout_us, std::size_t concurrency, const Interrupt& interrupt) override {
        auto step = HttpFlow::Step::request;
        while (step != HttpFlow::Step::none) {
            std::vector<HttpRequest> requests;
            std::vector<std::uint64_t> numbers;
            step = HttpFlow::Step::request;
            while (step == HttpFlow::Step::request && requests.size() < std::max<std::size_t>(1, concurrency) &&
                   !(interrupt && interrupt())) {
                HttpRequest request;
                std::uint64_t number = 0;
                step = flow.next(request, number);
                if (step == HttpFlow::Step::request) {
                    requests.push_back(std::move(request));
                    numbers.push_back(number);
                }
            }
            if (requests.empty()) {
                if (interrupt && interrupt()) {
                    return;
                }
                if (step == HttpFlow::Step::later) {
                    clock_->sleep_us(kLaterUs);  // nothing is in flight, so the flow only waits for time to pass
                }
                continue;
            }
            for (auto& [index, response] : answers(requests, timeout_us)) {
                flow.answered(numbers[index], std::move(response));
            }
        }
    }

private:
    using Answers = std::vector<std::pair<std::size_t, HttpResponse>>;

    Answers answers(const std::vector<HttpRequest>& requests, std::int64_t timeout_us) {
        Answers out;
        const auto began = clock_->mono_us();
        std::vector<bool> answered(requests.size(), false);
        Status failure(ErrorCode::internal, "the transport's callable gave no answer");
        {
            const py::gil_scoped_acquire acquire;
            try {
                py::list given;
                for (const auto& request : requests) {
                    const auto body = request.body_file.empty() ? request.body : whole(request.body_file);
                    given.append(py::make_tuple(request.method, request.url, request.headers, py::bytes(body)));
                }
                for (const auto& item : (*callable_)(given, timeout_us)) {
                    const auto pair = item.cast<py::tuple>();
                    const auto index = pair[0].cast<std::size_t>();
                    if (index < requests.size() && !answered[index]) {
                        answered[index] = true;
                        out.emplace_back(index, to_response(pair[1].cast<py::dict>()));
                    }
                }
            } catch (const py::error_already_set& error) {
                failure = status_of(error);
            }
        }
        for (std::size_t i = 0; i < requests.size(); ++i) {
            if (!answered[i]) {
                out.emplace_back(i, HttpResponse{});
                out.back().second.error = failure;
            }
        }
        for (auto& [index, response] : out) {
            response.elapsed_us = clock_->mono_us() - began;
        }
        return out;
    }

    static std::string whole(const std::string& path) {
        auto bytes = read_file(path);
        return bytes.ok() ? std::move(bytes.value()) : std::string();
    }

    static HttpResponse to_response(const py::dict& given) {
        HttpResponse out;
        if (given.contains("error_kind")) {
            const auto kind = given["error_kind"].cast<std::string>();
            const auto code = kind == "timeout" ? ErrorCode::timeout : ErrorCode::connection_failed;
            out.error = {code, given.contains("error_message") ? given["error_message"].cast<std::string>() : kind};
            return out;
        }
        out.status = given["status"].cast<long>();
        out.body = given["body"].cast<std::string>();
        if (given.contains("headers")) {
            out.headers = given["headers"].cast<net::Headers>();
        }
        return out;
    }

    std::shared_ptr<py::object> callable_;
    std::shared_ptr<Clock> clock_;
};

class PythonClock final : public Clock {
public:
    explicit PythonClock(py::object object) : object_(held(std::move(object))) {}
    std::int64_t now_us() const override { return ask("now_us"); }
    std::int64_t mono_us() const override { return ask("mono_us"); }
    void sleep_us(std::int64_t us) override {
        const py::gil_scoped_acquire acquire;
        object_->attr("sleep_us")(us);
    }

private:
    std::int64_t ask(const char* method) const {
        const py::gil_scoped_acquire acquire;
        return object_->attr(method)().cast<std::int64_t>();
    }

    std::shared_ptr<py::object> object_;
};

}  // namespace

std::shared_ptr<FileSystem> python_files(py::object object) {
    return std::make_shared<PythonFiles>(std::move(object));
}

std::shared_ptr<net::HttpTransport> python_transport(py::object callable, std::shared_ptr<Clock> clock) {
    return std::make_shared<PythonTransport>(std::move(callable), std::move(clock));
}

std::shared_ptr<Clock> python_clock(py::object object) {
    return std::make_shared<PythonClock>(std::move(object));
}

MakeCurl load_curl() {
    try {
        const auto function = py::module_::import("headgate._curl").attr(kCurlFunction).cast<py::capsule>();
        return reinterpret_cast<MakeCurl>(function.get_pointer<void>());
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_ImportError)) {
            throw;
        }
        throw StatusError{{ErrorCode::not_built, "headgate's HTTP transport cannot be loaded: it needs libcurl (" +
                                                     py::str(error.value()).cast<std::string>() + ")"}};
    }
}

}  // namespace headgate::bindings
