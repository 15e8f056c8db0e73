#include "py.hpp"

#include "headgate/resilience/breaker.hpp"

namespace headgate::bindings {

using namespace resilience;

namespace {

py::dict to_dict(const BreakerSnapshot& s) {
    py::dict out;
    out["state"] = std::string(breaker_state_name(s.state));
    out["opened_at_us"] = s.opened_at_us;
    out["failed_rounds"] = s.failed_rounds;
    out["failures_us"] = std::vector<std::int64_t>(s.failures_us.begin(), s.failures_us.end());
    return out;
}

std::deque<std::int64_t> times(const py::dict& d) {
    const auto list = d["failures_us"].cast<std::vector<std::int64_t>>();
    return {list.begin(), list.end()};
}

BreakerSnapshot to_snapshot(const py::dict& d) {
    BreakerSnapshot s;
    const auto state = d["state"].cast<std::string>();
    s.state = state == "open"        ? BreakerState::open
              : state == "half_open" ? BreakerState::half_open
                                     : BreakerState::closed;
    s.opened_at_us = d["opened_at_us"].cast<std::int64_t>();
    s.failed_rounds = d["failed_rounds"].cast<int>();
    s.failures_us = times(d);
    return s;
}

}  // namespace

void register_resilience(py::module_& module) {
    py::class_<CircuitBreaker, std::shared_ptr<CircuitBreaker>>(module, "CircuitBreaker")
        .def(py::init([](int threshold, std::int64_t window_us, std::int64_t recovery_us, int max_failed_rounds,
                         std::shared_ptr<Clock> clock) {
                 return std::make_shared<CircuitBreaker>(
                     BreakerOptions{threshold, window_us, recovery_us, max_failed_rounds}, std::move(clock));
             }),
             py::arg("failure_threshold"), py::arg("window_us"), py::arg("recovery_us"), py::arg("max_failed_rounds"),
             py::arg("clock"))
        .def("allow", &CircuitBreaker::allow)
        .def("on_success", &CircuitBreaker::on_success)
        .def("on_failure", &CircuitBreaker::on_failure)
        .def("on_round", &CircuitBreaker::on_round, py::arg("ok"))
        .def("on_abandoned", &CircuitBreaker::on_abandoned)
        .def_property_readonly("state",
                               [](const CircuitBreaker& b) { return std::string(breaker_state_name(b.state())); })
        .def("snapshot", [](const CircuitBreaker& b) { return to_dict(b.snapshot()); })
        .def(
            "restore", [](CircuitBreaker& b, const py::dict& d) { b.restore(to_snapshot(d)); }, py::arg("snapshot"));
    py::class_<ConsecutiveFailureTracker, std::shared_ptr<ConsecutiveFailureTracker>>(module,
                                                                                      "ConsecutiveFailureTracker")
        .def(py::init<int, std::int64_t, std::shared_ptr<Clock>>(), py::arg("threshold"), py::arg("window_us"),
             py::arg("clock"))
        .def("on_failure", &ConsecutiveFailureTracker::on_failure)
        .def("on_success", &ConsecutiveFailureTracker::on_success)
        .def_property_readonly("count", &ConsecutiveFailureTracker::count)
        .def("snapshot",
             [](const ConsecutiveFailureTracker& t) {
                 const auto s = t.snapshot();
                 py::dict out;
                 out["failures_us"] = std::vector<std::int64_t>(s.failures_us.begin(), s.failures_us.end());
                 out["alerted"] = s.alerted;
                 return out;
             })
        .def(
            "restore",
            [](ConsecutiveFailureTracker& t, const py::dict& d) {
                t.restore({times(d), d["alerted"].cast<bool>()});
            },
            py::arg("snapshot"));
    py::class_<RetryPolicy>(module, "RetryPolicy")
        .def(py::init([](int attempts, std::int64_t base_us, std::int64_t cap_us) {
                 return RetryPolicy{attempts, base_us, cap_us};
             }),
             py::arg("max_attempts") = 3, py::arg("base_us") = 200'000, py::arg("cap_us") = 5'000'000)
        .def_readonly("max_attempts", &RetryPolicy::max_attempts)
        .def("delay_us", &RetryPolicy::delay_us, py::arg("attempt"), py::arg("random"));
    py::class_<RetryBudget, std::shared_ptr<RetryBudget>>(module, "RetryBudget")
        .def(py::init<int, int, int>(), py::arg("capacity") = 500, py::arg("cost") = 5, py::arg("refund") = 1)
        .def("take", &RetryBudget::take)
        .def("refund", &RetryBudget::refund)
        .def_property_readonly("tokens", &RetryBudget::tokens);
}

}  // namespace headgate::bindings
