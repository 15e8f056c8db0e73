#include "py.hpp"

#include "headgate/hash/identity.hpp"
#include "headgate/json/reader.hpp"

namespace headgate::bindings {
namespace {

using json::BigIntegers;
using json::CanonicalWriter;

BigIntegers policy(const std::string& name) {
    if (name != "refuse" && name != "exact") {
        check({ErrorCode::invalid_input, "big_integers must be 'refuse' or 'exact', not '" + name + "'"});
    }
    return name == "exact" ? BigIntegers::exact : BigIntegers::refuse;
}

std::string_view utf8(PyObject* text) {
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(text, &size);
    if (data == nullptr) {
        PyErr_Clear();
        check({ErrorCode::invalid_unicode, "a string holds a lone surrogate"});
    }
    return {data, static_cast<std::size_t>(size)};
}

void feed(CanonicalWriter& writer, PyObject* value, std::size_t depth);

void feed_dict(CanonicalWriter& writer, PyObject* dict, std::size_t depth) {
    check(writer.start_object() ? Status() : writer.status());
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    Py_ssize_t at = 0;
    while (PyDict_Next(dict, &at, &key, &value) != 0) {
        if (!PyUnicode_Check(key)) {
            check({ErrorCode::invalid_input, std::string("object keys must be str, not ") + Py_TYPE(key)->tp_name});
        }
        check(writer.key(utf8(key)) ? Status() : writer.status());
        feed(writer, value, depth + 1);
    }
    check(writer.end_object() ? Status() : writer.status());
}

// Straight from the objects, without going through text. Everything here runs with the GIL.
void feed(CanonicalWriter& writer, PyObject* value, std::size_t depth) {
    if (depth > json::ReadOptions{}.max_depth) {
        check({ErrorCode::nesting_too_deep,
               "nested deeper than " + std::to_string(json::ReadOptions{}.max_depth) + " levels"});
    }
    bool ok = true;
    if (PyUnicode_Check(value)) {
        ok = writer.string(utf8(value));
    } else if (PyDict_Check(value)) {
        feed_dict(writer, value, depth);
    } else if (value == Py_None) {
        ok = writer.null();
    } else if (PyBool_Check(value)) {
        ok = writer.boolean(value == Py_True);
    } else if (PyLong_Check(value)) {
        int overflow = 0;
        const long long small = PyLong_AsLongLongAndOverflow(value, &overflow);
        // str() of a subclass (IntEnum, say) may be anything: take the plain integer.
        ok = overflow == 0
                 ? writer.number(std::to_string(small), true)
                 : writer.number(py::cast<std::string>(py::str(py::int_(py::handle(value).attr("__index__")()))), true);
    } else if (PyFloat_Check(value)) {
        ok = writer.number(PyFloat_AS_DOUBLE(value));
    } else if (PyList_Check(value) || PyTuple_Check(value)) {
        ok = writer.start_array();
        const auto size = PySequence_Fast_GET_SIZE(value);
        for (Py_ssize_t i = 0; ok && i < size; ++i) {
            feed(writer, PySequence_Fast_GET_ITEM(value, i), depth + 1);
        }
        ok = ok && writer.end_array();
    } else {
        check({ErrorCode::invalid_input, std::string("cannot canonicalise a ") + Py_TYPE(value)->tp_name +
                                             "; expected dict, list, tuple, str, int, float, bool or None"});
    }
    check(ok ? Status() : writer.status());
}

// The writers keep their buffers from call to call. Nothing below runs foreign code, so no second call can come in
// between on this thread.
const CanonicalWriter& written(const py::object& value, const std::string& big_integers) {
    thread_local CanonicalWriter refusing(BigIntegers::refuse);
    thread_local CanonicalWriter exact(BigIntegers::exact);
    auto& writer = policy(big_integers) == BigIntegers::exact ? exact : refusing;
    writer.clear();
    feed(writer, value.ptr(), 0);
    return writer;
}

std::string_view text_of(const py::handle& item) {
    if (PyUnicode_Check(item.ptr())) {
        return utf8(item.ptr());
    }
    char* data = nullptr;
    Py_ssize_t size = 0;
    if (!PyBytes_Check(item.ptr()) || PyBytes_AsStringAndSize(item.ptr(), &data, &size) != 0) {
        check({ErrorCode::invalid_input,
               std::string("expected JSON text as str or bytes, not ") + Py_TYPE(item.ptr())->tp_name});
    }
    return {data, static_cast<std::size_t>(size)};
}

}  // namespace

void register_hash(py::module_& module) {
    module.def(
        "canonical_json",
        [](const py::object& value, const std::string& big_integers) {
            const auto& writer = written(value, big_integers);
            return py::bytes(writer.view().data(), writer.view().size());
        },
        py::arg("value"), py::arg("big_integers") = "refuse", "RFC 8785 bytes of a Python object.");
    module.def(
        "canonical_json_text",
        [](const py::object& text, const std::string& big_integers) {
            const auto view = text_of(text);
            const auto out = take(json::canonicalize(view, policy(big_integers)));
            return py::bytes(out);
        },
        py::arg("text"), py::arg("big_integers") = "refuse", "RFC 8785 bytes of JSON text.");
    module.def(
        "event_id",
        [](const py::object& value, const std::string& big_integers) {
            return hash::sha256_hex(written(value, big_integers).view());
        },
        py::arg("value"), py::arg("big_integers") = "refuse", "64 hex digits of the object's identity.");
    module.def(
        "event_ids",
        [](const py::list& texts, unsigned threads, const std::string& big_integers) {
            // The views stay valid: the caller's list is copied (references held) before the GIL goes.
            const py::tuple held(texts);
            std::vector<std::string_view> views;
            views.reserve(held.size());
            for (const auto& item : held) {
                views.push_back(text_of(item));
            }
            const auto big = policy(big_integers);
            return take(without_gil([&] { return hash::event_ids(views, threads, big); }));
        },
        py::arg("texts"), py::arg("threads") = 0, py::arg("big_integers") = "refuse", "Identities of JSON texts.");
    module.def(
        "sha256_hex", [](const py::bytes& data) { return hash::sha256_hex(std::string_view(data)); }, py::arg("data"),
        "SHA-256 of bytes.");
    module.def(
        "dedup_key",
        [](const py::str& headline, const py::str& source, const py::str& date) {
            return hash::dedup_key(utf8(headline.ptr()), utf8(source.ptr()), utf8(date.ptr()));
        },
        py::arg("headline"), py::arg("source"), py::arg("date"), "32 hex digits over headline|source|YYYY-MM-DD.");
}

}  // namespace headgate::bindings
