#include "py.hpp"

#include <optional>

#include "headgate/resilience/breaker.hpp"
#include "headgate/resilience/limits.hpp"

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
    if (d.contains("calls")) {  // a snapshot of version 0.1 before rates has none
        for (const auto& item : d["calls"]) {
            const auto bucket = item.cast<std::vector<std::int64_t>>();
            if (bucket.size() == 4) {
                s.calls.push_back({bucket[0], bucket[1], bucket[2], bucket[3]});
            }
        }
    }
    return s;
}

// Retry around breaker around rate limiter around bulkhead around a Python callable; each of them may be missing. The
// policies' locks are never held while Python runs.
class Guard {
public:
    std::shared_ptr<CircuitBreaker> breaker;
    std::optional<RetryPolicy> retry;
    std::shared_ptr<RetryBudget> budget;
    std::shared_ptr<RateLimiter> limiter;
    std::shared_ptr<Bulkhead> bulkhead;
    std::int64_t wait_us = 0;  // at the limiter and the bulkhead, each
    py::object failures;       // exception classes that count as failures and are retried
    std::shared_ptr<Clock> clock;
    std::shared_ptr<Random> random;

    py::object call(const py::args& args, const py::kwargs& kwargs) {
        if (args.empty()) {
            throw py::type_error("expected a callable to guard");
        }
        PyObject* const tuple = args.ptr();
        PyObject* const* const items = &PyTuple_GET_ITEM(tuple, 0);
        const auto count = static_cast<std::size_t>(PyTuple_GET_SIZE(tuple));
        for (int attempt = 1;; ++attempt) {
            const auto permit = enter();
            const bool timed = breaker && breaker->options().slow_call_us > 0;
            const auto started = timed ? clock->mono_us() : 0;
            PyObject* result = nullptr;
            if (kwargs.empty()) {
                result = PyObject_Vectorcall(items[0], items + 1, (count - 1), nullptr);
            } else {
                const py::object rest = args[py::slice(1, static_cast<py::ssize_t>(count), 1)];
                result = PyObject_Call(items[0], rest.ptr(), kwargs.ptr());
            }
            const auto elapsed = timed ? clock->mono_us() - started : 0;
            if (bulkhead) {
                bulkhead->leave();
            }
            if (result != nullptr) {
                if (breaker) {
                    breaker->on_success(elapsed, permit);
                }
                if (budget) {
                    budget->refund();
                }
                return py::reinterpret_steal<py::object>(result);
            }
            py::error_already_set error;  // takes the pending exception
            const bool counts = error.matches(failures);
            if (breaker && counts) {
                breaker->on_failure(elapsed, permit);
            } else if (breaker) {
                breaker->on_abandoned(permit);  // a wrong argument says nothing of the callee's health
            }
            const bool again = counts && retry && attempt < retry->max_attempts &&
                               (!breaker || breaker->state() == BreakerState::closed) && (!budget || budget->take());
            if (!again) {
                throw error;
            }
            const auto delay = retry->delay_us(attempt, *random);
            const auto stop = signals();
            const bool slept = without_gil([&] { return sleep_interruptibly(*clock, delay, stop); });
            raise_pending();
            if (!slept) {
                throw error;
            }
        }
    }

private:
    std::uint64_t enter() {
        const auto permit = breaker ? breaker->enter() : 0;
        if (breaker && permit == 0) {
            throw StatusError{{ErrorCode::circuit_open, "not called: the circuit breaker is open"}};
        }
        Status refused;
        if (limiter && limiter->try_acquire() != 0) {
            refused = interruptible([&] { return limiter->acquire(wait_us, signals()); });
        }
        if (refused.ok() && bulkhead) {
            refused = interruptible([&] { return bulkhead->enter(wait_us, signals()); });
        }
        if (!refused.ok()) {
            if (breaker) {
                breaker->on_abandoned(permit);
            }
            throw StatusError{refused};
        }
        return permit;
    }
};

}  // namespace

void register_resilience(py::module_& module) {
    py::class_<CircuitBreaker, std::shared_ptr<CircuitBreaker>>(module, "CircuitBreaker")
        .def(py::init([](int threshold, std::int64_t window_us, std::int64_t recovery_us, int max_failed_rounds,
                         std::shared_ptr<Clock> clock, double failure_rate, std::int64_t slow_call_us,
                         double slow_call_rate, int minimum_calls, int window_calls) {
                 return std::make_shared<CircuitBreaker>(
                     BreakerOptions{threshold, window_us, recovery_us, max_failed_rounds, failure_rate, slow_call_us,
                                    slow_call_rate, minimum_calls, window_calls},
                     std::move(clock));
             }),
             py::arg("failure_threshold"), py::arg("window_us"), py::arg("recovery_us"), py::arg("max_failed_rounds"),
             py::arg("clock"), py::arg("failure_rate") = 0.0, py::arg("slow_call_us") = 0,
             py::arg("slow_call_rate") = 0.0, py::arg("minimum_calls") = 10, py::arg("window_calls") = 0)
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
    py::class_<RateLimiter, std::shared_ptr<RateLimiter>>(module, "RateLimiter")
        .def(py::init([](double rate, int burst, std::shared_ptr<Clock> clock) {
                 return take(RateLimiter::make(rate, burst, std::move(clock)));
             }),
             py::arg("rate"), py::arg("burst"), py::arg("clock"))
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
        .def(
            "enter",
            [](Bulkhead& self, std::int64_t timeout_us) {
                check(interruptible([&] { return self.enter(timeout_us, signals()); }));
            },
            py::arg("timeout_us") = 0)
        .def("leave", &Bulkhead::leave)
        .def_property_readonly("inside", &Bulkhead::inside);
    py::class_<Guard>(module, "Guard")
        .def(py::init([](std::shared_ptr<CircuitBreaker> breaker, std::optional<RetryPolicy> retry,
                         std::shared_ptr<RetryBudget> budget, std::shared_ptr<RateLimiter> limiter,
                         std::shared_ptr<Bulkhead> bulkhead, std::int64_t wait_us, py::object failures,
                         std::shared_ptr<Clock> clock, std::shared_ptr<Random> random) {
                 return Guard{std::move(breaker),  retry,   std::move(budget),   std::move(limiter),
                              std::move(bulkhead), wait_us, std::move(failures), std::move(clock),
                              std::move(random)};
             }),
             py::arg("breaker"), py::arg("retry"), py::arg("budget"), py::arg("limiter"), py::arg("bulkhead"),
             py::arg("wait_us"), py::arg("failures"), py::arg("clock"), py::arg("random"))
        .def("__call__", &Guard::call);
}

}  // namespace headgate::bindings
