#include "adapters.hpp"

#include <atomic>
#include <cmath>
#include <optional>

#include "headgate/net/failover.hpp"
#include "headgate/net/retry.hpp"

namespace headgate::bindings {

using namespace net;

namespace {

py::list to_list(const Headers& headers) {
    py::list out;
    for (const auto& [name, value] : headers) {
        // By RFC 9110 the bytes of a header are Latin-1.
        out.append(
            py::make_tuple(py::bytes(name).attr("decode")("latin-1"), py::bytes(value).attr("decode")("latin-1")));
    }
    return out;
}

py::dict to_dict(const Attempt& a) {
    py::dict out;
    out["source"] = a.source;
    out["request"] = a.request;
    out["attempt"] = a.number;
    out["outcome"] = std::string(error_kind(a.outcome));
    out["message"] = a.message;
    out["status"] = a.status;
    out["duration_ms"] = a.elapsed_us / 1000;
    out["breaker_before"] = a.breaker_before;
    out["breaker_after"] = a.breaker_after;
    out["hedged"] = a.hedged;
    return out;
}

// Ends calls of other threads: what they wait for is cut within 50 ms.
class CancelToken {
public:
    void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
    bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

private:
    std::atomic<bool> cancelled_{false};
};

Interrupt signals_or(const std::shared_ptr<CancelToken>& token) {
    if (!token) {
        return signals();
    }
    return [token, ctrl_c = signals()] { return token->cancelled() || ctrl_c(); };
}

BodyShape to_body_shape(const std::string& name) {
    if (name == "array") {
        return BodyShape::json_array;
    }
    if (name == "object") {
        return BodyShape::json_object;
    }
    if (name != "json" && name != "anything") {
        check({ErrorCode::invalid_input, "expect: '" + name + "'; expected array, object, json or anything"});
    }
    return name == "json" ? BodyShape::json : BodyShape::anything;
}

// A source's own look at a body: `check(index, body)` raises for one that it cannot read. The exception's text may
// quote the body, so that the failure names its class only; a signal handler's exception ends the fetch.
std::function<Status(std::size_t, const HttpResponse&)> to_check(const py::object& check) {
    if (check.is_none()) {
        return {};
    }
    return [callable = held(check)](std::size_t index, const HttpResponse& response) -> Status {
        const py::gil_scoped_acquire acquire;
        try {
            (*callable)(index, py::bytes(response.body));
            return {};
        } catch (py::error_already_set& error) {
            if (!error.matches(PyExc_Exception)) {
                error.restore();
                return {ErrorCode::interrupted, "interrupted"};
            }
            const auto text = status_of(error).message();
            return {ErrorCode::malformed_response, "answered 200 with a body that its source cannot read: " + text};
        }
    };
}

py::list perform(HttpTransport& self, const std::vector<HttpRequest>& requests, std::int64_t timeout_us,
                 std::size_t concurrency, const std::shared_ptr<CancelToken>& cancel) {
    const SystemClock clock;
    const auto responses = interruptible(
        [&] { return self.perform(requests, Deadline::after(clock, timeout_us), concurrency, signals_or(cancel)); });
    py::list out;
    for (const auto& response : responses) {
        py::dict one;
        one["status"] = response.status;
        one["headers"] = to_list(response.headers);
        one["body"] = py::bytes(response.body);
        one["elapsed_us"] = response.elapsed_us;
        one["error_kind"] = response.error.ok() ? std::string() : std::string(error_kind(response.error.code()));
        one["error_message"] = response.error.message();
        out.append(std::move(one));
    }
    return out;
}

// Calls Python's sink with the GIL held and keeps its exception for the caller.
struct PythonSink {
    py::object callable;
    std::exception_ptr raised;

    Result<std::string> operator()(const std::string& source, const HttpRequest& request, const HttpResponse& response,
                                   int attempt) {
        const py::gil_scoped_acquire acquire;
        try {
            return py::cast<std::string>(callable(source, request.url, response.status, to_list(response.headers),
                                                  py::bytes(response.body), attempt));
        } catch (...) {
            raised = std::current_exception();
            return Status(ErrorCode::internal, "the raw sink raised");
        }
    }
};

py::dict fetch(Failover& self, const std::vector<FailoverSource>& sources, py::object sink,
               const std::shared_ptr<CancelToken>& cancel) {
    for (std::size_t i = 0; i < sources.size(); ++i) {
        for (std::size_t before = 0; before < i; ++before) {
            if (sources[before].name == sources[i].name) {
                check({ErrorCode::invalid_input,
                       "sources: two are named '" + sources[i].name + "'; expected a name of its own for each"});
            }
        }
    }
    auto python_sink = std::make_shared<PythonSink>(PythonSink{std::move(sink), nullptr});
    const auto interrupt = signals_or(cancel);
    const RawSink raw = [python_sink](const std::string& source, const HttpRequest& request,
                                      const HttpResponse& response,
                                      int attempt) { return (*python_sink)(source, request, response, attempt); };
    auto fetched = without_gil([&] { return self.fetch(sources, raw, interrupt); });
    raise_pending();
    if (python_sink->raised) {
        std::rethrow_exception(python_sink->raised);
    }
    py::list attempts;
    for (const auto& attempt : fetched.attempts) {
        attempts.append(to_dict(attempt));
    }
    py::list bodies;
    for (const auto& response : fetched.responses) {
        bodies.append(py::bytes(response.body));
    }
    py::dict out;
    out["source"] = fetched.source;
    out["is_failover"] = fetched.is_failover;
    out["bodies"] = bodies;
    out["raw_keys"] = fetched.raw_keys;
    out["numbers"] = fetched.numbers;
    out["attempts"] = attempts;
    out["elapsed_us"] = fetched.elapsed_us;
    out["error_kind"] = fetched.error.ok() ? std::string() : std::string(error_kind(fetched.error.code()));
    out["error_message"] = fetched.error.message();
    return out;
}

}  // namespace

void register_net(py::module_& module) {
    py::class_<HttpRequest>(module, "HttpRequest")
        .def(py::init([](const std::string& url, const Headers& headers, const std::string& method,
                         const std::string& body) {
                 HttpRequest request{method, url, headers, body};
                 check(check_request(request));
                 return request;
             }),
             py::arg("url"), py::arg("headers"), py::arg("method") = "GET", py::arg("body") = "")
        .def(py::pickle(
            [](const HttpRequest& r) { return py::make_tuple(r.method, r.url, r.headers, py::bytes(r.body)); },
            [](const py::tuple& t) {
                return HttpRequest{t[0].cast<std::string>(), t[1].cast<std::string>(), t[2].cast<Headers>(),
                                   t[3].cast<std::string>()};
            }))
        .def_readonly("url", &HttpRequest::url)
        .def_readonly("method", &HttpRequest::method);
    py::class_<FailoverSource>(module, "Source")
        .def(py::init([](const std::string& name, const std::vector<HttpRequest>& requests, std::int64_t budget_us,
                         std::shared_ptr<resilience::CircuitBreaker> breaker, const std::string& expect,
                         const py::object& check, bool may_probe) {
                 return FailoverSource{
                     name, requests, budget_us, std::move(breaker), to_body_shape(expect), to_check(check), may_probe};
             }),
             py::arg("name"), py::arg("requests"), py::arg("budget_us"), py::arg("breaker"),
             py::arg("expect") = "array", py::arg("check") = py::none(), py::arg("may_probe") = true)
        .def_readonly("name", &FailoverSource::name);
    py::class_<CancelToken, std::shared_ptr<CancelToken>>(module, "CancelToken")
        .def(py::init<>())
        .def("cancel", &CancelToken::cancel)
        .def_property_readonly("cancelled", &CancelToken::cancelled);
    py::class_<HttpTransport, std::shared_ptr<HttpTransport>>(module, "HttpTransport")
        .def("perform", &perform, py::arg("requests"), py::arg("timeout_us"), py::arg("concurrency") = 8,
             py::arg("cancel") = std::shared_ptr<CancelToken>())
        .def_property_readonly("abandoned_lookups", &HttpTransport::abandoned_lookups);
    module.def(
        "curl_transport",
        [](const std::string& ca_file, const std::string& user_agent, std::shared_ptr<Clock> clock,
           std::int64_t connect_timeout_us, int max_redirects, std::size_t max_body, long max_per_host) {
            backends::CurlOptions options;
            options.ca_file = ca_file;
            options.user_agent = user_agent;
            check(check_request({"GET", "", {{"User-Agent", user_agent}}}));
            options.connect_timeout_us = connect_timeout_us;
            options.max_redirects = max_redirects;
            options.max_body = max_body;
            options.max_per_host = max_per_host;
            return load_curl()(options, std::move(clock));
        },
        py::arg("ca_file"), py::arg("user_agent"), py::arg("clock"), py::arg("connect_timeout_us") = 5'000'000,
        py::arg("max_redirects") = 3, py::arg("max_body") = 32 * 1024 * 1024, py::arg("max_per_host") = 8);
    // What advise_retry() says of an answer: nothing, or the seconds to wait at least (infinity: longer than anybody
    // waits).
    module.def(
        "retry_wait_s",
        [](long status, const Headers& headers, const std::shared_ptr<Clock>& clock) -> std::optional<double> {
            HttpResponse response;
            response.status = status;
            response.headers = headers;
            const auto advice = advise_retry(response, classify(response, BodyShape::anything), *clock);
            if (!advice.may_retry) {
                return std::nullopt;
            }
            return advice.wait_us == kWaitUnknown ? HUGE_VAL : static_cast<double>(advice.wait_us) / 1e6;
        },
        py::arg("status"), py::arg("headers"), py::arg("clock"));
    module.def("call_transport", &python_transport, py::arg("answer"), py::arg("clock"));
    py::class_<Failover, std::shared_ptr<Failover>>(module, "Failover")
        .def(py::init([](const resilience::RetryPolicy& retry, std::int64_t return_after_us, std::size_t concurrency,
                         std::shared_ptr<HttpTransport> transport, std::shared_ptr<Clock> clock,
                         std::shared_ptr<Random> random, std::shared_ptr<resilience::RetryBudget> budget,
                         std::int64_t total_us, std::int64_t hedge_us) {
                 return std::make_shared<Failover>(
                     FailoverOptions{retry, return_after_us, concurrency, total_us, hedge_us}, std::move(transport),
                     std::move(clock), std::move(random), std::move(budget));
             }),
             py::arg("retry"), py::arg("return_after_us"), py::arg("concurrency"), py::arg("transport"),
             py::arg("clock"), py::arg("random"), py::arg("budget"), py::arg("total_us") = 0, py::arg("hedge_us") = 0)
        .def("fetch", &fetch, py::arg("sources"), py::arg("sink"), py::arg("cancel") = std::shared_ptr<CancelToken>())
        .def_property_readonly("transport", &Failover::transport)
        .def_property("secondary_since_us", &Failover::secondary_since_us, &Failover::set_secondary_since_us);
}

}  // namespace headgate::bindings
