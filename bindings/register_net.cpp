#include "py.hpp"

#include "headgate/backends/curl.hpp"
#include "headgate/net/failover.hpp"

namespace headgate::bindings {

using namespace net;

namespace {

py::list to_list(const Headers& headers) {
    py::list out;
    for (const auto& [name, value] : headers) {
        // Header bytes are Latin-1 by RFC 9110.
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
    return out;
}

// Calls Python's sink with the GIL held and keeps its exception for the caller.
struct PythonSink {
    py::object callable;
    std::exception_ptr raised;

    Result<std::string> operator()(const std::string& source, const HttpRequest& request,
                                   const HttpResponse& response) {
        const py::gil_scoped_acquire acquire;
        try {
            return py::cast<std::string>(
                callable(source, request.url, response.status, to_list(response.headers), py::bytes(response.body)));
        } catch (...) {
            raised = std::current_exception();
            return Status(ErrorCode::internal, "the raw sink raised");
        }
    }
};

py::dict fetch(Failover& self, const std::vector<Source>& sources, py::object sink) {
    auto python_sink = std::make_shared<PythonSink>(PythonSink{std::move(sink), nullptr});
    const auto interrupt = signals();
    const RawSink raw = [python_sink](const std::string& source, const HttpRequest& request,
                                      const HttpResponse& response) {
        return (*python_sink)(source, request, response);
    };
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
                 return HttpRequest{method, url, headers, body};
             }),
             py::arg("url"), py::arg("headers"), py::arg("method") = "GET", py::arg("body") = "")
        .def_readonly("url", &HttpRequest::url);
    py::class_<Source>(module, "Source")
        .def(py::init([](const std::string& name, const std::vector<HttpRequest>& requests, std::int64_t budget_us,
                         std::shared_ptr<resilience::CircuitBreaker> breaker) {
                 return Source{name, requests, budget_us, std::move(breaker)};
             }),
             py::arg("name"), py::arg("requests"), py::arg("budget_us"), py::arg("breaker"));
    py::class_<HttpTransport, std::shared_ptr<HttpTransport>>(module, "HttpTransport");
    module.def(
        "curl_transport",
        [](const std::string& ca_file, const std::string& user_agent, std::shared_ptr<Clock> clock) {
            backends::CurlOptions options;
            options.ca_file = ca_file;
            options.user_agent = user_agent;
            return backends::make_curl_transport(options, std::move(clock));
        },
        py::arg("ca_file"), py::arg("user_agent"), py::arg("clock"));
    py::class_<Failover, std::shared_ptr<Failover>>(module, "Failover")
        .def(py::init([](const resilience::RetryPolicy& retry, std::int64_t return_after_us, std::size_t concurrency,
                         std::shared_ptr<HttpTransport> transport, std::shared_ptr<Clock> clock,
                         std::shared_ptr<Random> random, std::shared_ptr<resilience::RetryBudget> budget) {
                 return std::make_shared<Failover>(FailoverOptions{retry, return_after_us, concurrency},
                                                   std::move(transport), std::move(clock), std::move(random),
                                                   std::move(budget));
             }),
             py::arg("retry"), py::arg("return_after_us"), py::arg("concurrency"), py::arg("transport"),
             py::arg("clock"), py::arg("random"), py::arg("budget"))
        .def("fetch", &fetch, py::arg("sources"), py::arg("sink"))
        .def_property("secondary_since_us", &Failover::secondary_since_us, &Failover::set_secondary_since_us);
}

}  // namespace headgate::bindings
