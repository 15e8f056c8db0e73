#include "guard.hpp"

#include <atomic>
#include <cmath>

namespace headgate::bindings {

using namespace resilience;

namespace {

// The attribute of an exception that names the budget under which it was retried, and the sequence number of that time.
constexpr const char* kRetriedBy = "_headgate_retried";

bool is_awaitable(PyObject* object) {
    const auto* methods = Py_TYPE(object)->tp_as_async;
    return methods != nullptr && methods->am_await != nullptr;
}

// Whether `callable` is an `async def` function or method, which is known without a call.
bool is_coroutine_function(PyObject* callable) {
    PyObject* function = PyMethod_Check(callable) ? PyMethod_GET_FUNCTION(callable) : callable;
    if (!PyFunction_Check(function)) {
        return false;
    }
    const auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function));
    return (code->co_flags & CO_COROUTINE) != 0;
}

bool is_number(const py::object& value) {
    return PyFloat_Check(value.ptr()) != 0 || PyLong_Check(value.ptr()) != 0;
}

// Converts seconds, a number or a timedelta, to microseconds. Returns nothing for infinity, for times that are too
// long, and for anything else.
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

std::uint64_t PythonGuard::next_sequence() {
    static std::atomic<std::uint64_t> sequence{0};
    return sequence.fetch_add(1, std::memory_order_relaxed) + 1;
}

Admission PythonGuard::admit() const {
    Admission out;
    check(guard_.admit(out));
    return out;
}

void PythonGuard::wait_for_turn(Admission& admission) const {
    const auto& limiter = policies().limiter;
    admission.has_token = limiter && limiter->try_acquire() == 0;  // without a wait the GIL need not be released
    if (policies().bulkhead || (limiter && !admission.has_token)) {
        // The admission holds its place before a signal handler's exception is thrown, which would lose it otherwise.
        check(interruptible([&] { return guard_.wait_for_turn(admission, signals()); }));
    }
}

bool PythonGuard::is_bad(const py::object& result) const {
    return !hooks_.bad_result.is_none() && py::cast<bool>(py::bool_(hooks_.bad_result(result)));
}

bool PythonGuard::counts(const py::object& error) const {
    if (!PyErr_GivenExceptionMatches(error.ptr(), PyExc_Exception)) {
        return false;  // Ctrl-C and cancellation say nothing about the callee
    }
    if (hooks_.failures_is_predicate) {
        return py::cast<bool>(py::bool_(hooks_.failures(error)));
    }
    return PyErr_GivenExceptionMatches(error.ptr(), hooks_.failures.ptr()) != 0;
}

// The time to wait before the next attempt: the caller's own back-off, or the policy's, but at least what the error
// asks for with its attribute `retry_after_s`. Returns nothing if that is too long for another attempt.
std::optional<std::int64_t> PythonGuard::delay_of(const py::object& subject, int attempt) const {
    std::int64_t delay = 0;
    const py::object own = hooks_.wait.is_none() ? py::object(py::none()) : hooks_.wait(subject, attempt);
    if (!own.is_none() && !is_number(own) && !py::hasattr(own, "total_seconds")) {
        check({ErrorCode::invalid_input, "wait: it gave " + std::string(Py_TYPE(own.ptr())->tp_name) +
                                             "; expected seconds, a timedelta or None"});
    }
    if (own.is_none()) {
        delay = guard_.back_off_us(attempt);
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

// Whether an inner guard with the same budget has already retried this exception. Retrying it again would multiply the
// retries.
bool PythonGuard::was_retried_inside(const py::object& error, std::uint64_t sequence) const {
    const auto* budget = policies().budget.get();
    if (budget == nullptr || error.is_none()) {
        return false;
    }
    const py::object mark = py::getattr(error, kRetriedBy, py::none());
    if (mark.is_none()) {
        return false;
    }
    const auto [by, at] = mark.cast<std::pair<std::uintptr_t, std::uint64_t>>();
    return by == reinterpret_cast<std::uintptr_t>(budget) && at > sequence;
}

void PythonGuard::mark_as_retried(const py::object& error) const {
    const auto* budget = policies().budget.get();
    if (budget == nullptr || error.is_none()) {
        return;
    }
    const auto mark = py::make_tuple(reinterpret_cast<std::uintptr_t>(budget), next_sequence());
    if (PyObject_SetAttrString(error.ptr(), kRetriedBy, mark.ptr()) != 0) {
        PyErr_Clear();  // the exception's class has __slots__
    }
}

std::optional<std::int64_t> PythonGuard::failed(Admission& admission, const py::object& error, const py::object& result,
                                                const AttemptState& state) const {
    if (!error.is_none()) {
        admission.leave();  // others may enter while the predicate runs
        if (!counts(error)) {
            Guard::ignored(admission);
            return std::nullopt;
        }
    }
    guard_.failed(admission, state.elapsed_us);
    if (!guard_.has_retries() || was_retried_inside(error, state.sequence)) {
        return std::nullopt;
    }
    std::optional<std::int64_t> delay;
    if (guard_.may_retry(state.attempt)) {
        delay = delay_of(error.is_none() ? result : error, state.attempt);
        if (delay) {
            delay = guard_.approve_delay(*delay, state.started_us, state.left_us);
        }
    }
    if (!delay) {
        mark_as_retried(error);
    } else if (!hooks_.on_retry.is_none()) {
        hooks_.on_retry(state.attempt, static_cast<double>(*delay) / 1e6, error);
    }
    return delay;
}

py::object PythonGuard::call(const py::args& args, const py::kwargs& kwargs) {
    if (args.empty() || PyCallable_Check(PyTuple_GET_ITEM(args.ptr(), 0)) == 0) {
        throw py::type_error("expected a callable to guard");
    }
    PyObject* const tuple = args.ptr();
    PyObject* const* const items = &PyTuple_GET_ITEM(tuple, 0);
    const auto count = static_cast<std::size_t>(PyTuple_GET_SIZE(tuple));
    if (is_coroutine_function(items[0])) {
        return hooks_.run_async(py::cast(this, py::return_value_policy::reference), args, kwargs);
    }
    auto& clock = *policies().clock;
    const bool timed = guard_.needs_clock();
    AttemptState state;
    state.started_us = timed ? clock.mono_us() : 0;
    state.sequence = policies().budget && policies().retry ? next_sequence() : 0;
    for (;; ++state.attempt) {
        auto admission = admit();
        wait_for_turn(admission);
        const auto began = timed ? clock.mono_us() : 0;
        PyObject* raw = nullptr;
        if (kwargs.empty()) {
            raw = PyObject_Vectorcall(items[0], items + 1, (count - 1), nullptr);
        } else {
            const py::object rest = args[py::slice(1, static_cast<py::ssize_t>(count), 1)];
            raw = PyObject_Call(items[0], rest.ptr(), kwargs.ptr());
        }
        state.elapsed_us = timed ? clock.mono_us() - began : 0;
        std::optional<std::int64_t> delay;
        if (raw != nullptr) {
            auto result = py::reinterpret_steal<py::object>(raw);
            if (state.attempt == 1 && is_awaitable(raw)) {
                return hooks_.run_async(py::cast(this, py::return_value_policy::reference), args, kwargs, result,
                                        py::cast(std::make_shared<Admission>(std::move(admission))));
            }
            if (hooks_.bad_result.is_none() || !is_bad(result)) {
                succeeded(admission, state.elapsed_us);
                return result;
            }
            delay = failed(admission, py::none(), result, state);
            if (!delay || !pause(*delay)) {
                return result;
            }
            continue;
        }
        py::error_already_set error;  // takes the pending exception
        delay = failed(admission, error.value(), py::none(), state);
        if (!delay || !pause(*delay)) {
            throw error;  // NOLINT(misc-throw-by-value-catch-by-reference): it was taken from Python above
        }
    }
}

bool PythonGuard::pause(std::int64_t delay_us) const {
    const auto stop = signals();
    const bool slept = without_gil([&] { return sleep_interruptibly(*policies().clock, delay_us, stop); });
    raise_pending();
    return slept;
}

void register_guard(py::module_& module) {
    py::class_<Admission, std::shared_ptr<Admission>>(module, "Admission").def(py::init<>());
    py::class_<PythonGuard, std::shared_ptr<PythonGuard>>(module, "Guard")
        .def(py::init([](std::shared_ptr<CircuitBreaker> breaker, std::optional<RetryPolicy> retry,
                         std::shared_ptr<RetryBudget> budget, std::shared_ptr<RateLimiter> limiter,
                         std::shared_ptr<Bulkhead> bulkhead, std::int64_t wait_us, py::object failures,
                         py::object bad_result, py::object wait, py::object on_retry, py::object run_async,
                         std::shared_ptr<Clock> clock, std::shared_ptr<Random> random) {
                 const bool is_predicate = !py::isinstance<py::tuple>(failures);
                 return std::make_shared<PythonGuard>(
                     GuardPolicies{std::move(breaker), retry, std::move(budget), std::move(limiter),
                                   std::move(bulkhead), wait_us, std::move(clock), std::move(random)},
                     GuardHooks{std::move(failures), is_predicate, std::move(bad_result), std::move(wait),
                                std::move(on_retry), std::move(run_async)});
             }),
             py::arg("breaker"), py::arg("retry"), py::arg("budget"), py::arg("limiter"), py::arg("bulkhead"),
             py::arg("wait_us"), py::arg("failures"), py::arg("bad_result"), py::arg("wait"), py::arg("on_retry"),
             py::arg("run_async"), py::arg("clock"), py::arg("random"))
        .def("__call__", &PythonGuard::call)
        .def("_ask", [](const PythonGuard& self) { return std::make_shared<Admission>(self.admit()); })
        .def("_try_turn", &PythonGuard::try_turn, py::arg("admission"))
        .def(
            "_give_back", [](const PythonGuard&, Admission& admission) { Guard::ignored(admission); },
            py::arg("admission"))
        .def("_succeeded", &PythonGuard::succeeded, py::arg("admission"), py::arg("elapsed_us"))
        .def(
            "_failed",
            [](const PythonGuard& self, Admission& admission, const py::object& error, const py::object& result,
               int attempt, std::int64_t elapsed_us, std::int64_t started_us, std::uint64_t sequence,
               std::int64_t left_us) {
                return self.failed(admission, error, result, {attempt, elapsed_us, started_us, sequence, left_us});
            },
            py::arg("admission"), py::arg("error"), py::arg("result"), py::kw_only(), py::arg("attempt"),
            py::arg("elapsed_us"), py::arg("started_us"), py::arg("sequence"), py::arg("left_us") = INT64_MAX)
        .def("_is_bad", &PythonGuard::is_bad, py::arg("result"))
        .def_static("_next_sequence", &PythonGuard::next_sequence)
        .def_property_readonly("_wait_us", [](const PythonGuard& self) { return self.policies().wait_us; })
        .def_property_readonly("_clock", [](const PythonGuard& self) { return self.policies().clock; });
    module.def("retry_switch", &retry_switch);
    module.def("set_retry_switch", &set_retry_switch, py::arg("attempts"));
}

}  // namespace headgate::bindings
