// The only header that names pybind11. It comes first in every file of this folder.
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

// A Status on its way to Python; register_errors() holds the one translator.
struct StatusError {
    Status status;
};

void register_errors(py::module_& module);

// For functions that pybind11 does not wrap: a StatusError (or any other C++ exception) becomes the pending exception.
void set_python_error(std::exception_ptr pointer) noexcept;

inline void check(Status status) {
    if (!status.ok()) {
        throw StatusError{std::move(status)};
    }
}

template <class T>
T take(Result<T> result) {
    check(result.ok() ? Status() : result.status());
    return std::move(result.value());
}

// A reference that may be dropped on any thread.
inline std::shared_ptr<py::object> held(py::object object) {
    return {new py::object(std::move(object)), [](py::object* pointer) {
                const py::gil_scoped_acquire acquire;
                delete pointer;
            }};
}

// What a Python callback raised, as a Status: headgate's own errors keep their kind, others only say their class.
Status status_of(const py::error_already_set& error);

// Runs `work` without the GIL. `work` touches no Python object.
template <class Work>
auto without_gil(Work work) {
    const py::gil_scoped_release release;
    return work();
}

// True when a signal handler raised (Ctrl-C): the exception is then pending, and raise_pending() throws it.
inline Interrupt signals() {
    return [] {
        const py::gil_scoped_acquire acquire;
        return PyErr_Occurred() != nullptr || PyErr_CheckSignals() != 0;
    };
}

// Throws what a signal handler raised meanwhile; call it before anything else after a call that polled signals().
inline void raise_pending() {
    if (PyErr_Occurred() != nullptr) {
        throw py::error_already_set();
    }
}

// without_gil for work that polls signals(): Ctrl-C comes out as what its handler raised.
template <class Work>
auto interruptible(Work work) {
    auto result = without_gil(std::move(work));
    raise_pending();
    return result;
}

}  // namespace headgate::bindings
