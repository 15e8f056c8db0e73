#include "py.hpp"

namespace headgate::bindings {
namespace {

// Makes the exception of an error. Set by headgate.errors when it is imported. Never destroyed, because the destructor
// would run after Python has ended.
py::object* factory = nullptr;

// Raises a StatusError in Python. Leaves every other exception to other translators.
void translate(std::exception_ptr pointer) {
    try {
        if (pointer) {
            std::rethrow_exception(pointer);
        }
    } catch (const StatusError& error) {
        const std::string kind(error_kind(error.status.code()));
        if (factory == nullptr) {
            PyErr_SetString(PyExc_RuntimeError, (kind + ": " + error.status.message()).c_str());
            return;
        }
        // The message may contain a file name that is not UTF-8.
        const auto message = py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
            error.status.message().data(), static_cast<Py_ssize_t>(error.status.message().size()), "backslashreplace"));
        const py::object instance = (*factory)(kind, message);
        PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(instance.ptr())), instance.ptr());
    }
}

}  // namespace

void set_python_error(std::exception_ptr pointer) noexcept {
    try {
        translate(pointer);
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
}

Status status_of(const py::error_already_set& error) {
    const auto name = error.type().attr("__name__").cast<std::string>();
    const auto kind = py::getattr(error.value(), "kind", py::none());
    const auto text = py::getattr(kind, "value", py::none());
    if (!py::isinstance<py::str>(text)) {
        return {ErrorCode::internal, "a callback raised " + name};
    }
    const auto wanted = text.cast<std::string>();
    for (auto code = static_cast<int>(ErrorCode::internal); code <= static_cast<int>(ErrorCode::last_); ++code) {
        if (error_kind(static_cast<ErrorCode>(code)) == wanted) {
            return {static_cast<ErrorCode>(code), py::str(error.value()).cast<std::string>()};
        }
    }
    return {ErrorCode::internal, "a callback raised " + name};
}

void register_errors(py::module_& module) {
    py::register_local_exception_translator(translate);
    module.def(
        "set_error_factory", [](py::object callable) { factory = new py::object(std::move(callable)); },
        py::arg("factory"), "Sets factory(kind, message) -> exception for errors of the core.");
    module.def(
        "error_kinds",
        [] {
            py::list out;
            for (const auto kind : all_error_kinds()) {
                out.append(py::str(kind.data(), kind.size()));
            }
            return out;
        },
        "Every kind the core can raise, in the frozen order.");
}

}  // namespace headgate::bindings
