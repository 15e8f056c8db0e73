// The only header that includes pybind11. Every file of this folder includes it first, directly or through another
// header.
#pragma once

#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>

#include "headgate/base/clock.hpp"
#include "headgate/base/status.hpp"

namespace headgate::bindings {

namespace py = pybind11;

// An exception that carries a Status to Python. register_errors() registers its translator.
struct StatusError {
    Status status;
};

void register_errors(py::module_& module);

// For functions that pybind11 does not wrap: makes a C++ exception the pending exception of Python.
void set_python_error(std::exception_ptr pointer) noexcept;

// Throws a StatusError unless `status` is ok.
inline void check(Status status) {
    if (!status.ok()) {
        throw StatusError{std::move(status)};
    }
}

// Returns the value of a result, or throws its error.
template <class T>
T take(Result<T> result) {
    check(result.ok() ? Status() : result.status());
    return std::move(result.value());
}

// Holds a reference to a Python object that may be released on any thread, with or without the GIL.
inline std::shared_ptr<py::object> held(py::object object) {
    return {new py::object(std::move(object)), [](py::object* pointer) {
                const py::gil_scoped_acquire acquire;
                delete pointer;
            }};
}

// Converts an exception that a Python callback has raised to a Status. headgate's own errors keep their kind and text.
// Of others only the class is named, because their text may contain secrets.
Status status_of(const py::error_already_set& error);

// Runs `work` with the GIL released. `work` must not use Python objects.
template <class Work>
auto without_gil(Work work) {
    const py::gil_scoped_release release;
    return work();
}

// An Interrupt that is true once a signal handler has raised an exception, as that of Ctrl-C does. The exception is
// then pending, and raise_pending() throws it.
inline Interrupt signals() {
    return [] {
        const py::gil_scoped_acquire acquire;
        return PyErr_Occurred() != nullptr || PyErr_CheckSignals() != 0;
    };
}

// Throws the exception that a signal handler has raised. To be called first after a call that has used signals().
inline void raise_pending() {
    if (PyErr_Occurred() != nullptr) {
        throw py::error_already_set();
    }
}

// without_gil() for work that uses signals(). After Ctrl-C it throws the exception of the signal handler.
template <class Work>
auto interruptible(Work work) {
    auto result = without_gil(std::move(work));
    raise_pending();
    return result;
}

}  // namespace headgate::bindings
