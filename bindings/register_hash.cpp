#include "py.hpp"

#include <array>
#include <charconv>

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

// Set by headgate.identity when it is imported. Never destroyed, because the destructors would run after Python has
// ended.
py::object* plain_rule = nullptr;  // converts a value of another type to one that JSON has
py::object* json_dumps = nullptr;  // encodes a value for the second profile, and returns bytes
constexpr const char* kJsonDumps = "json.dumps";

void feed(CanonicalWriter& writer, PyObject* value, std::size_t depth);

void feed_dict(CanonicalWriter& writer, PyObject* dict, std::size_t depth) {
    check(writer.start_object() ? Status() : writer.status());
    const auto size = PyDict_GET_SIZE(dict);
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    Py_ssize_t at = 0;
    while (PyDict_Next(dict, &at, &key, &value) != 0) {
        if (!PyUnicode_Check(key)) {
            check({ErrorCode::invalid_input, std::string("object keys must be str, not ") + Py_TYPE(key)->tp_name});
        }
        check(writer.key(utf8(key)) ? Status() : writer.status());
        feed(writer, value, depth + 1);
        // The rule for another type runs code of that type, which may change its container.
        if (PyDict_GET_SIZE(dict) != size) {
            check({ErrorCode::invalid_input, "a dict changed while it was read"});
        }
    }
    check(writer.end_object() ? Status() : writer.status());
}

void feed_long(CanonicalWriter& writer, PyObject* value) {
    int overflow = 0;
    const long long small = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow == 0) {
        std::array<char, 24> digits{};
        const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), small).ptr;
        const std::string_view token(digits.data(), static_cast<std::size_t>(end - digits.data()));
        check(writer.number(token, true) ? Status() : writer.status());
        return;
    }
    // str() of a subclass, such as IntEnum, may be any text, so the plain integer is used.
    const auto plain = py::int_(py::handle(value).attr("__index__")());
    std::string text;
    try {  // Python raises ValueError for more than kMostDigits digits
        text = py::cast<std::string>(py::str(plain));
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_ValueError)) {
            throw;
        }
        check({ErrorCode::number_out_of_range,
               "an integer of more than " + std::to_string(json::kMostDigits) + " digits"});
    }
    check(writer.number(text, true) ? Status() : writer.status());
}

// Writes the canonical form of a Python object, without an intermediate JSON text. All of it runs with the GIL held.
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
        feed_long(writer, value);
    } else if (PyFloat_Check(value)) {
        ok = writer.number(PyFloat_AS_DOUBLE(value));
    } else if (PyList_Check(value) || PyTuple_Check(value)) {
        ok = writer.start_array();
        for (Py_ssize_t i = 0; ok && i < PySequence_Fast_GET_SIZE(value); ++i) {
            feed(writer, PySequence_Fast_GET_ITEM(value, i), depth + 1);
        }
        ok = ok && writer.end_array();
    } else {
        if (plain_rule == nullptr) {
            check({ErrorCode::invalid_input, std::string("cannot canonicalise a ") + Py_TYPE(value)->tp_name});
        }
        const auto held = py::reinterpret_borrow<py::object>(value);  // the container may drop its reference meanwhile
        const py::object plainer = (*plain_rule)(held);
        feed(writer, plainer.ptr(), depth + 1);
    }
    check(ok ? Status() : writer.status());
}

// Each thread reuses a writer, which keeps its buffers. A rule may call this code again on the same thread; that call
// gets a writer of its own.
template <class Use>
auto with_canonical(PyObject* value, BigIntegers big_integers, Use use) {
    struct Writers {
        CanonicalWriter refusing{BigIntegers::refuse};
        CanonicalWriter exact{BigIntegers::exact};
        bool busy = false;
    };
    struct Release {
        bool& busy;
        ~Release() { busy = false; }
    };
    thread_local Writers writers;
    if (writers.busy) {
        CanonicalWriter own(big_integers);
        feed(own, value, 0);
        return use(own.view());
    }
    auto& writer = big_integers == BigIntegers::exact ? writers.exact : writers.refusing;
    writers.busy = true;
    const Release release{writers.busy};
    writer.clear();
    feed(writer, value, 0);
    return use(writer.view());
}

PyObject* to_bytes(std::string_view bytes) {
    return PyBytes_FromStringAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size()));
}

PyObject* to_id(std::string_view bytes) {
    const auto id = hash::sha256_hex(bytes);
    return PyUnicode_FromStringAndSize(id.data(), static_cast<Py_ssize_t>(id.size()));
}

// canonical_json and event_id are called for every record. They parse their arguments themselves, which is faster than
// pybind11's dispatch.
template <PyObject* (*use)(std::string_view)>
PyObject* fast(PyObject*, PyObject* const* arguments, Py_ssize_t count, PyObject* names) {
    try {
        if (PyVectorcall_NARGS(static_cast<std::size_t>(count)) != 1) {
            PyErr_SetString(PyExc_TypeError, "expected one object, and big_integers and profile by name");
            return nullptr;
        }
        auto big = BigIntegers::refuse;
        const auto named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
        bool dumps = false;
        for (Py_ssize_t i = 0; i < named; ++i) {
            const auto name = utf8(PyTuple_GET_ITEM(names, i));
            PyObject* given = arguments[count + i];
            const auto text = PyUnicode_Check(given) ? std::string(utf8(given)) : std::string("another type");
            if (name == "big_integers") {
                big = policy(text);
            } else if (name == "profile") {
                if (text != "rfc8785" && text != kJsonDumps) {
                    check({ErrorCode::invalid_input, "profile must be 'rfc8785' or 'json.dumps', not '" + text + "'"});
                }
                dumps = text == kJsonDumps;
            } else {
                PyErr_Format(PyExc_TypeError, "unexpected keyword argument '%U'", PyTuple_GET_ITEM(names, i));
                return nullptr;
            }
        }
        if (dumps && json_dumps != nullptr) {
            const py::object made = (*json_dumps)(py::handle(arguments[0]));
            return use(std::string_view(py::reinterpret_borrow<py::bytes>(made)));
        }
        return with_canonical(arguments[0], big, use);
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (...) {
        set_python_error(std::current_exception());
    }
    return nullptr;
}

constexpr const char* kCanonicalDoc = R"doc(canonical_json(obj, /, *, big_integers="refuse", profile="rfc8785")
--

The canonical JSON of a Python object, as bytes.

Args:
    obj: dict (str keys), list, tuple, str, int, float, bool or None, nested at most 128 levels; and, by the rule of
        headgate.identity.plain: Decimal, datetime, date, UUID, Enum, pydantic models, dataclasses.
    big_integers: "refuse" raises for integers beyond 2**53 - 1, which a double cannot keep apart; "exact" keeps their
        digits (no longer RFC 8785).
    profile: "rfc8785", or "json.dumps": the bytes of json.dumps(obj, sort_keys=True, separators=(",", ":"),
        ensure_ascii=True), for those who must match existing keys.

Raises:
    InvalidInputError: another type, NaN or infinity, a lone surrogate, too deep, or a big integer.)doc";
constexpr const char* kEventIdDoc = R"doc(event_id(obj, /, *, big_integers="refuse", profile="rfc8785")
--

64 hex digits: SHA-256 over the canonical JSON of exactly this object (arguments and errors as of canonical_json).)doc";

PyCFunction erase(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t, PyObject*)) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function));
}

void add_fast(py::module_& module, PyMethodDef& method) {
    const auto name = py::reinterpret_steal<py::object>(PyUnicode_FromString("headgate._core"));
    module.add_object(method.ml_name,
                      py::reinterpret_steal<py::object>(PyCFunction_NewEx(&method, nullptr, name.ptr())));
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

std::vector<std::string_view> views_of(const py::tuple& held) {
    std::vector<std::string_view> views;
    views.reserve(held.size());
    for (const auto& item : held) {
        views.push_back(text_of(item));
    }
    return views;
}

}  // namespace

void register_hash(py::module_& module) {
    static PyMethodDef canonical = {"canonical_json", erase(&fast<to_bytes>), METH_FASTCALL | METH_KEYWORDS,
                                    kCanonicalDoc};
    static PyMethodDef id = {"event_id", erase(&fast<to_id>), METH_FASTCALL | METH_KEYWORDS, kEventIdDoc};
    add_fast(module, canonical);
    add_fast(module, id);
    module.def(
        "set_identity_rules",
        [](py::object plain, py::object dumps) {
            plain_rule = new py::object(std::move(plain));
            json_dumps = new py::object(std::move(dumps));
        },
        py::arg("plain"), py::arg("dumps"), "Sets what turns other types into plain ones, and the second profile.");
    module.def(
        "canonical_texts",
        [](const py::list& texts, unsigned threads, const std::string& big_integers) {
            const py::tuple held(texts);
            const auto views = views_of(held);
            const auto big = policy(big_integers);
            const auto made = take(without_gil([&] { return hash::canonical_texts(views, threads, big); }));
            py::list out(made.size());
            for (std::size_t i = 0; i < made.size(); ++i) {
                out[i] = py::bytes(made[i]);
            }
            return out;
        },
        py::arg("texts"), py::arg("threads") = 0, py::arg("big_integers") = "refuse", "RFC 8785 bytes of JSON texts.");
    module.def(
        "event_ids",
        [](const py::list& texts, unsigned threads, const std::string& big_integers) {
            // The views stay valid without the GIL, because the copy of the caller's list holds references to the
            // texts.
            const py::tuple held(texts);
            const auto views = views_of(held);
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
