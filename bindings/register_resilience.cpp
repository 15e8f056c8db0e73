#include "guard.hpp"

namespace headgate::bindings {

using namespace resilience;

namespace {

py::dict to_dict(const BreakerSnapshot& s) {
    py::dict out;
    out["state"] = std::string(breaker_state_name(s.state));
    out["opened_at_us"] = s.opened_at_us;
    out["failed_rounds"] = s.failed_rounds;
    out["failures_us"] = std::vector<std::int64_t>(s.failures_us.begin(), s.failures_us.end());
    py::list calls;
    for (const auto& bucket : s.calls) {
        calls.append(py::make_tuple(bucket.at_us, bucket.calls, bucket.failed, bucket.slow));
    }
    out["calls"] = calls;
    out["probes_succeeded"] = s.probes_succeeded;
    return out;
}

std::deque<std::int64_t> times(const py::dict& d) {
    const auto list = d["failures_us"].cast<std::vector<std::int64_t>>();
    return {list.begin(), list.end()};
}

BreakerSnapshot to_snapshot(const py::dict& d) {
    BreakerSnapshot s;
    for (const auto* name : {"state", "opened_at_us", "failed_rounds", "failures_us"}) {
        if (!d.contains(name)) {
            throw StatusError{{ErrorCode::invalid_input, "a circuit breaker's snapshot has no " + std::string(name) +
                                                             "; expected one of snapshot()"}};
        }
    }
    const auto state = py::str(d["state"]).cast<std::string>();
    if (state != "closed" && state != "open" && state != "half_open") {
        throw StatusError{{ErrorCode::invalid_input,
                           "a circuit breaker's snapshot: expected closed, open or half_open as its state"}};
    }
    s.state = state == "open"        ? BreakerState::open
              : state == "half_open" ? BreakerState::half_open
                                     : BreakerState::closed;
    s.opened_at_us = d["opened_at_us"].cast<std::int64_t>();
    s.failed_rounds = d["failed_rounds"].cast<int>();
    s.failures_us = times(d);
    if (d.contains("probes_succeeded")) {
        s.probes_succeeded = d["probes_succeeded"].cast<int>();
    }
    if (d.contains("calls")) {  // a snapshot from before the rates has no calls
        for (const auto& item : d["calls"]) {
            const auto bucket = item.cast<std::vector<std::int64_t>>();
            if (bucket.size() == 4) {
                s.calls.push_back({bucket[0], bucket[1], bucket[2], bucket[3]});
            }
        }
    }
    return s;
}

CircuitBreaker::Listener to_listener(py::object callable) {
    return [callable = held(std::move(callable))](BreakerState from, BreakerState to) {
        const py::gil_scoped_acquire acquire;
        try {
            (*callable)(std::string(breaker_state_name(from)), std::string(breaker_state_name(to)));
        } catch (py::error_already_set& error) {
            error.discard_as_unraisable("a circuit breaker's listener");
        }
    };
}

std::shared_ptr<CircuitBreaker> make_breaker(const BreakerOptions& options, std::shared_ptr<Clock> clock) {
    check(options.check());
    return std::make_shared<CircuitBreaker>(options, std::move(clock));
}

RetryPolicy make_policy(int attempts, std::int64_t base_us, std::int64_t cap_us, std::int64_t total_us) {
    const RetryPolicy policy{attempts, base_us, cap_us, total_us};
    check(policy.check());
    return policy;
}

std::shared_ptr<RetryBudget> make_budget(int capacity, int cost, int refund) {
    if (capacity < 0 || cost < 0 || refund < 0) {
        check({ErrorCode::invalid_input, "a retry budget: a number is negative; expected 0 or more"});
    }
    return std::make_shared<RetryBudget>(capacity, cost, refund);
}

}  // namespace

void register_resilience(py::module_& module) {
    py::class_<Permit, std::shared_ptr<Permit>>(module, "Permit")
        .def("succeeded", &Permit::succeeded, py::arg("elapsed_us") = 0)
        .def("failed", &Permit::failed, py::arg("elapsed_us") = 0)
        .def("give_back", &Permit::give_back)
        .def_property_readonly("is_settled", &Permit::is_settled);
    py::class_<CircuitBreaker, std::shared_ptr<CircuitBreaker>>(module, "CircuitBreaker")
        .def(py::init([](int threshold, std::int64_t window_us, std::int64_t recovery_us, int max_failed_rounds,
                         std::shared_ptr<Clock> clock, double failure_rate, std::int64_t slow_call_us,
                         double slow_call_rate, int minimum_calls, int window_calls, int success_threshold) {
                 return make_breaker({threshold, window_us, recovery_us, max_failed_rounds, failure_rate, slow_call_us,
                                      slow_call_rate, minimum_calls, window_calls, success_threshold},
                                     std::move(clock));
             }),
             py::arg("failure_threshold"), py::arg("window_us"), py::arg("recovery_us"), py::arg("max_failed_rounds"),
             py::arg("clock"), py::arg("failure_rate") = 0.0, py::arg("slow_call_us") = 0,
             py::arg("slow_call_rate") = 0.0, py::arg("minimum_calls") = 10, py::arg("window_calls") = 0,
             py::arg("success_threshold") = 1)
        // The state is pickled. The copy uses the clock of the process that unpickles it.
        .def(py::pickle(
            [](const CircuitBreaker& b) {
                const auto& o = b.options();
                return py::make_tuple(o.failure_threshold, o.window_us, o.recovery_us, o.max_failed_rounds,
                                      o.failure_rate, o.slow_call_us, o.slow_call_rate, o.minimum_calls, o.window_calls,
                                      o.success_threshold, to_dict(b.snapshot()));
            },
            [](const py::tuple& t) {
                auto breaker = make_breaker({t[0].cast<int>(), t[1].cast<std::int64_t>(), t[2].cast<std::int64_t>(),
                                             t[3].cast<int>(), t[4].cast<double>(), t[5].cast<std::int64_t>(),
                                             t[6].cast<double>(), t[7].cast<int>(), t[8].cast<int>(), t[9].cast<int>()},
                                            std::make_shared<SystemClock>());
                breaker->restore(to_snapshot(t[10].cast<py::dict>()));
                return breaker;
            }))
        .def("permit",
             [](std::shared_ptr<CircuitBreaker> b) {
                 auto permit = std::make_shared<Permit>(std::move(b));
                 if (!permit->granted()) {
                     throw StatusError{{ErrorCode::circuit_open, "not called: the circuit breaker is open"}};
                 }
                 return permit;
             })
        .def("reset", [](CircuitBreaker& b) { b.restore({}); })
        .def(
            "add_listener",
            [](CircuitBreaker& b, py::object listener) { return b.add_listener(to_listener(std::move(listener))); },
            py::arg("listener"))
        .def("remove_listener", &CircuitBreaker::remove_listener, py::arg("number"))
        .def("allow", &CircuitBreaker::allow)
        .def("enter", &CircuitBreaker::enter)
        .def("on_success", &CircuitBreaker::on_success, py::arg("elapsed_us") = 0, py::arg("permit") = 0)
        .def("on_failure", &CircuitBreaker::on_failure, py::arg("elapsed_us") = 0, py::arg("permit") = 0)
        .def("on_round", &CircuitBreaker::on_round, py::arg("ok"))
        .def("on_abandoned", &CircuitBreaker::on_abandoned, py::arg("permit") = 0)
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
        .def(py::init(&make_policy), py::arg("max_attempts") = 3, py::arg("base_us") = 200'000,
             py::arg("cap_us") = 5'000'000, py::arg("total_us") = 0)
        .def(py::pickle(
            [](const RetryPolicy& p) { return py::make_tuple(p.max_attempts, p.base_us, p.cap_us, p.total_us); },
            [](const py::tuple& t) {
                return make_policy(t[0].cast<int>(), t[1].cast<std::int64_t>(), t[2].cast<std::int64_t>(),
                                   t[3].cast<std::int64_t>());
            }))
        .def_readonly("max_attempts", &RetryPolicy::max_attempts)
        .def_readonly("base_us", &RetryPolicy::base_us)
        .def_readonly("cap_us", &RetryPolicy::cap_us)
        .def_readonly("total_us", &RetryPolicy::total_us)
        .def("delay_us", &RetryPolicy::delay_us, py::arg("attempt"), py::arg("random"));
    py::class_<RetryBudget, std::shared_ptr<RetryBudget>>(module, "RetryBudget")
        .def(py::init(&make_budget), py::arg("capacity") = 500, py::arg("cost") = 5, py::arg("refund") = 1)
        // A budget belongs to one process, so an unpickled copy is full.
        .def(py::pickle(
            [](const RetryBudget& b) { return py::make_tuple(b.capacity(), b.cost(), b.refund_size()); },
            [](const py::tuple& t) { return make_budget(t[0].cast<int>(), t[1].cast<int>(), t[2].cast<int>()); }))
        .def("take", &RetryBudget::take)
        .def("refund", &RetryBudget::refund)
        .def_property_readonly("tokens", &RetryBudget::tokens);
    py::class_<RateLimiter, std::shared_ptr<RateLimiter>>(module, "RateLimiter")
        .def(py::init([](double rate, int burst, std::shared_ptr<Clock> clock) {
                 return take(RateLimiter::make(rate, burst, std::move(clock)));
             }),
             py::arg("rate"), py::arg("burst"), py::arg("clock"))
        .def(py::pickle([](const RateLimiter& l) { return py::make_tuple(l.rate(), l.burst()); },
                        [](const py::tuple& t) {
                            return take(RateLimiter::make(t[0].cast<double>(), t[1].cast<int>(),
                                                          std::make_shared<SystemClock>()));
                        }))
        .def("try_acquire", &RateLimiter::try_acquire, py::arg("permits") = 1)
        .def(
            "acquire",
            [](RateLimiter& self, std::int64_t timeout_us, int permits) {
                check(interruptible([&] { return self.acquire(timeout_us, signals(), permits); }));
            },
            py::arg("timeout_us"), py::arg("permits") = 1);
    py::class_<Bulkhead, std::shared_ptr<Bulkhead>>(module, "Bulkhead")
        .def(py::init(
                 [](int limit, std::shared_ptr<Clock> clock) { return take(Bulkhead::make(limit, std::move(clock))); }),
             py::arg("limit"), py::arg("clock"))
        .def(py::pickle(
            [](const Bulkhead& b) { return py::make_tuple(b.limit()); },
            [](const py::tuple& t) { return take(Bulkhead::make(t[0].cast<int>(), std::make_shared<SystemClock>())); }))
        .def(
            "enter",
            [](Bulkhead& self, std::int64_t timeout_us) {
                auto status = without_gil([&] { return self.enter(timeout_us, signals()); });
                if (status.ok() && PyErr_Occurred() != nullptr) {
                    self.leave();  // a signal handler has raised, so the caller will not call leave()
                }
                raise_pending();
                check(std::move(status));
            },
            py::arg("timeout_us") = 0)
        .def("leave", &Bulkhead::leave)
        .def_property_readonly("inside", &Bulkhead::inside);
    register_guard(module);
}

}  // namespace headgate::bindings
