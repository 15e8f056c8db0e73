#include "guard.hpp"

#include <atomic>
#include <cmath>

namespace headgate::bindings {

using namespace resilience;

namespace {

constexpr std::int64_t kBulkheadPollUs = 10'000;
constexpr const char* kRetriedBy = "_headgate_retried";
std::atomic<int> retry_switch_value{-1};

bool is_awaitable(PyObject* object) {
    const auto* methods = Py_TYPE(object)->tp_as_async;
    return methods != nullptr && methods->am_await != nullptr;
}

// What is certain without a call: an `async def`, as a function or as a method.
bool is_coroutine_function(PyObject* callable) {
    PyObject* function = PyMethod_Check(callable) ? PyMethod_GET_FUNCTION(callable) : callable;
    if (!PyFunction_Check(function)) {
        return false;
    }
    const auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function));
    return (code->co_flags & CO_COROUTINE) != 0;
}

// Seconds as a number or a timedelta, as microseconds; nothing for infinity. Raises for what is no time.
bool is_number(const py::object& value) {
    return PyFloat_Check(value.ptr()) != 0 || PyLong_Check(value.ptr()) != 0;
}

std::optional<std::int64_t> to_us(const py::object& seconds) {
    const bool is_delta = py::hasattr(seconds, "total_seconds");
    const auto given = is_delta ? py::object(seconds.attr("total_seconds")()) : seconds;
    if (!is_number(given)) {
        return std::nullopt;
    }
    const auto value = PyFloat_AsDouble(given.ptr());
    if (PyErr_Occurred() != nullptr) {
        PyErr_Clear();  // a whole number beyond every double
        return std::nullopt;
    }
    if (std::isnan(value) || value > 9e12) {
        return std::nullopt;
    }
    return static_cast<std::int64_t>(std::ceil(std::max(0.0, value) * 1e6));
}

}  // namespace

int retry_switch() noexcept {
    return retry_switch_value.load(std::memory_order_relaxed);
}

void set_retry_switch(int attempts) noexcept {
    retry_switch_value.store(attempts, std::memory_order_relaxed);
}

std::uint64_t Guard::next_sequence() {
    static std::atomic<std::uint64_t> sequence{0};
    return sequence.fetch_add(1, std::memory_order_relaxed) + 1;
}

Admission Guard::ask() const {
    Admission out;
    out.permit = Permit(breaker);
    if (!out.permit.granted()) {
        throw StatusError{{ErrorCode::circuit_open, "not called: the circuit breaker is open"}};
    }
    return out;
}

void Guard::wait_for_turn(Admission& admission) const {
    if (limiter && limiter->try_acquire() != 0) {
        check(interruptible([&] { return limiter->acquire(wait_us, signals()); }));
    }
    if (bulkhead) {
        auto status = without_gil([&] { return bulkhead->enter(wait_us, signals()); });
        if (status.ok()) {
            admission.entered(bulkhead);  // before a signal handler's exception, which would lose the place
        }
        raise_pending();
        check(std::move(status));
    }
}

std::int64_t Guard::try_turn(Admission& admission) const {
    const auto now = clock->mono_us();
    if (admission.wait_until_us < 0) {
        admission.wait_until_us = now + wait_us;
    }
    if (limiter && !admission.has_token) {
        const auto token_us = limiter->try_acquire();
        if (token_us > admission.wait_until_us - now) {
            check({ErrorCode::unavailable, "the rate limit lets no call through in time"});
        }
        if (token_us != 0) {
            return token_us;
        }
        admission.has_token = true;
        admission.wait_until_us = now + wait_us;
    }
    if (bulkhead) {
        if (!bulkhead->try_enter()) {
            check(now >= admission.wait_until_us ? Status(ErrorCode::busy, "the bulkhead is full") : Status());
            return kBulkheadPollUs;
        }
        admission.entered(bulkhead);
    }
    return 0;
}

bool Guard::is_bad(const py::object& result) const {
    return !bad_result.is_none() && py::cast<bool>(py::bool_(bad_result(result)));
}

bool Guard::counts(const py::object& error) const {
    if (!PyErr_GivenExceptionMatches(error.ptr(), PyExc_Exception)) {
        return false;  // Ctrl-C and cancellation say nothing of the callee
    }
    if (failures_is_predicate) {
        return py::cast<bool>(py::bool_(failures(error)));
    }
    return PyErr_GivenExceptionMatches(error.ptr(), failures.ptr()) != 0;
}

// How long to wait before the next attempt: the caller's own back-off, or the policy's, but never shorter than the
// error asks for with `retry_after_s`. Nothing: so long that there is no next attempt.
std::optional<std::int64_t> Guard::delay_of(const py::object& subject, int attempt) const {
    std::int64_t delay = 0;
    py::object own = wait.is_none() ? py::object(py::none()) : wait(subject, attempt);
    if (!own.is_none() && !is_number(own) && !py::hasattr(own, "total_seconds")) {
        check({ErrorCode::invalid_input, "wait: it gave " + std::string(Py_TYPE(own.ptr())->tp_name) +
                                             "; expected seconds, a timedelta or None"});
    }
    if (own.is_none()) {
        delay = retry->delay_us(attempt, *random);
    } else if (const auto us = to_us(own)) {
        delay = *us;
    } else {
        return std::nullopt;
    }
    const py::object asked = py::getattr(subject, "retry_after_s", py::none());
    if (!asked.is_none()) {
        const auto us = to_us(asked);  // what cannot be read is longer than anybody waits
        if (!us) {
            return std::nullopt;
        }
        delay = std::max(delay, *us);
    }
    return delay;
}

void Guard::succeeded(Admission& admission, std::int64_t elapsed_us) const {
    admission.leave();
    admission.permit.succeeded(elapsed_us);
    if (budget) {
        budget->refund();
    }
}

std::optional<std::int64_t> Guard::failed(Admission& admission, const py::object& error, const py::object& result,
                                          int attempt, std::int64_t elapsed_us, std::int64_t started_us,
                                          std::uint64_t sequence, std::int64_t left_us) const {
    admission.leave();
    if (!error.is_none() && !counts(error)) {
        admission.permit.give_back();  // a wrong argument says nothing of the callee's health
        return std::nullopt;
    }
    admission.permit.failed(elapsed_us);
    const int limit = retry_switch();
    if (!retry || limit == 0) {
        return std::nullopt;
    }
    const py::object& subject = error.is_none() ? result : error;
    if (budget && !error.is_none()) {
        // An inner guard of the same budget has retried this very failure: its retries are not multiplied.
        const py::object mark = py::getattr(error, kRetriedBy, py::none());
        if (!mark.is_none()) {
            const auto [by, at] = mark.cast<std::pair<std::uintptr_t, std::uint64_t>>();
            if (by == reinterpret_cast<std::uintptr_t>(budget.get()) && at > sequence) {
                return std::nullopt;
            }
        }
    }
    std::optional<std::int64_t> delay;
    const int most = limit > 0 ? std::min(limit, retry->max_attempts) : retry->max_attempts;
    if (attempt < most && (!breaker || breaker->state() == BreakerState::closed)) {
        delay = delay_of(subject, attempt);
        if (delay && limit > 0) {
            delay = 0;
        }
        if (delay && retry->total_us > 0 &&
            *delay > retry->total_us - std::min(retry->total_us, clock->mono_us() - started_us)) {
            delay.reset();
        }
        if (delay && *delay >= left_us) {
            delay.reset();
        }
        if (delay && budget && !budget->take()) {
            delay.reset();
        }
    }
    if (!delay && budget && !error.is_none()) {
        const auto mark = py::make_tuple(reinterpret_cast<std::uintptr_t>(budget.get()), next_sequence());
        if (PyObject_SetAttrString(error.ptr(), kRetriedBy, mark.ptr()) != 0) {
            PyErr_Clear();  // an exception without room for attributes
        }
    }
    if (delay && !on_retry.is_none()) {
        on_retry(attempt, static_cast<double>(*delay) / 1e6, error);
    }
    return delay;
}

py::object Guard::call(const py::args& args, const py::kwargs& kwargs) {
    if (args.empty() || PyCallable_Check(PyTuple_GET_ITEM(args.ptr(), 0)) == 0) {
        throw py::type_error("expected a callable to guard");
    }
    PyObject* const tuple = args.ptr();
    PyObject* const* const items = &PyTuple_GET_ITEM(tuple, 0);
    const auto count = static_cast<std::size_t>(PyTuple_GET_SIZE(tuple));
    if (is_coroutine_function(items[0])) {
        return run_async(py::cast(this, py::return_value_policy::reference), args, kwargs);
    }
    const auto started = started_us();
    const auto sequence = budget && retry ? next_sequence() : 0;
    const bool timed = needs_clock();
    for (int attempt = 1;; ++attempt) {
        auto admission = ask();
        wait_for_turn(admission);
        const auto began = timed ? clock->mono_us() : 0;
        PyObject* raw = nullptr;
        if (kwargs.empty()) {
            raw = PyObject_Vectorcall(items[0], items + 1, (count - 1), nullptr);
        } else {
            const py::object rest = args[py::slice(1, static_cast<py::ssize_t>(count), 1)];
            raw = PyObject_Call(items[0], rest.ptr(), kwargs.ptr());
        }
        const auto elapsed = timed ? clock->mono_us() - began : 0;
        std::optional<std::int64_t> delay;
        if (raw != nullptr) {
            auto result = py::reinterpret_steal<py::object>(raw);
            if (attempt == 1 && is_awaitable(raw)) {
                return run_async(py::cast(this, py::return_value_policy::reference), args, kwargs, result,
                                 py::cast(std::make_shared<Admission>(std::move(admission))));
            }
            if (bad_result.is_none() || !is_bad(result)) {
                succeeded(admission, elapsed);
                return result;
            }
            delay = failed(admission, py::none(), result, attempt, elapsed, started, sequence);
            if (!delay || !pause(*delay)) {
                return result;
            }
            continue;
        }
        py::error_already_set error;  // takes the pending exception
        delay = failed(admission, error.value(), py::none(), attempt, elapsed, started, sequence);
        if (!delay || !pause(*delay)) {
            throw error;
        }
    }
}

bool Guard::pause(std::int64_t delay_us) const {
    const auto stop = signals();
    const bool slept = without_gil([&] { return sleep_interruptibly(*clock, delay_us, stop); });
    raise_pending();
    return slept;
}

void register_guard(py::module_& module) {
    py::class_<Admission, std::shared_ptr<Admission>>(module, "Admission").def(py::init<>());
    py::class_<Guard, std::shared_ptr<Guard>>(module, "Guard")
        .def(py::init([](std::shared_ptr<CircuitBreaker> breaker, std::optional<RetryPolicy> retry,
                         std::shared_ptr<RetryBudget> budget, std::shared_ptr<RateLimiter> limiter,
                         std::shared_ptr<Bulkhead> bulkhead, std::int64_t wait_us, py::object failures,
                         py::object bad_result, py::object wait, py::object on_retry, py::object run_async,
                         std::shared_ptr<Clock> clock, std::shared_ptr<Random> random) {
                 auto out = std::make_shared<Guard>();
                 out->breaker = std::move(breaker);
                 out->retry = retry;
                 out->budget = std::move(budget);
                 out->limiter = std::move(limiter);
                 out->bulkhead = std::move(bulkhead);
                 out->wait_us = wait_us;
                 out->failures_is_predicate = !py::isinstance<py::tuple>(failures);
                 out->failures = std::move(failures);
                 out->bad_result = std::move(bad_result);
                 out->wait = std::move(wait);
                 out->on_retry = std::move(on_retry);
                 out->run_async = std::move(run_async);
                 out->clock = std::move(clock);
                 out->random = std::move(random);
                 return out;
             }),
             py::arg("breaker"), py::arg("retry"), py::arg("budget"), py::arg("limiter"), py::arg("bulkhead"),
             py::arg("wait_us"), py::arg("failures"), py::arg("bad_result"), py::arg("wait"), py::arg("on_retry"),
             py::arg("run_async"), py::arg("clock"), py::arg("random"))
        .def("__call__", &Guard::call)
        .def("_ask", [](const Guard& self) { return std::make_shared<Admission>(self.ask()); })
        .def("_try_turn", &Guard::try_turn, py::arg("admission"))
        .def(
            "_give_back",
            [](const Guard&, Admission& admission) {
                admission.leave();
                admission.permit.give_back();
            },
            py::arg("admission"))
        .def("_succeeded", &Guard::succeeded, py::arg("admission"), py::arg("elapsed_us"))
        .def("_failed", &Guard::failed, py::arg("admission"), py::arg("error"), py::arg("result"), py::arg("attempt"),
             py::arg("elapsed_us"), py::arg("started_us"), py::arg("sequence"), py::arg("left_us") = INT64_MAX)
        .def("_is_bad", &Guard::is_bad, py::arg("result"))
        .def_static("_next_sequence", &Guard::next_sequence)
        .def_readonly("_wait_us", &Guard::wait_us)
        .def_readonly("_clock", &Guard::clock);
    module.def("retry_switch", &retry_switch);
    module.def("set_retry_switch", &set_retry_switch, py::arg("attempts"));
}

}  // namespace headgate::bindings
