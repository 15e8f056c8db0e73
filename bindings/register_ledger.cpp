#include "py.hpp"

#include "headgate/backends/redis.hpp"
#include "headgate/backends/sqlite.hpp"
#include "headgate/ledger/ledger.hpp"

namespace headgate::bindings {

using namespace ledger;

namespace {

PyObject* interned(ClaimStatus status, bool mismatch) {
    // Never destroyed, because the destructors would run after Python has ended.
    static PyObject* const names[] = {PyUnicode_InternFromString("acquired"), PyUnicode_InternFromString("done"),
                                      PyUnicode_InternFromString("in_progress"),
                                      PyUnicode_InternFromString("mismatch")};
    return Py_NewRef(names[mismatch ? 3 : static_cast<std::size_t>(status)]);
}

PyObject* text(const std::string& value) {
    return PyUnicode_DecodeUTF8(value.data(), static_cast<Py_ssize_t>(value.size()), "replace");
}

// Makes the tuple of which Python makes its Claim: (status, token, until_us, attempts, result, last_error), and as a
// seventh element the fencing token, if there is one.
py::tuple answer(const Claim& claim) {
    const bool mismatch = claim.error.code() == ErrorCode::payload_mismatch;
    if (!mismatch) {
        check(claim.error);
    }
    const Py_ssize_t size = claim.fence != 0 ? 7 : 6;
    py::tuple made(static_cast<std::size_t>(size));
    PyObject* parts[] = {interned(claim.status, mismatch),
                         text(claim.token),
                         PyLong_FromLongLong(claim.until_us),
                         PyLong_FromLong(claim.attempts),
                         PyBytes_FromStringAndSize(claim.result.data(), static_cast<Py_ssize_t>(claim.result.size())),
                         text(claim.last_error),
                         size == 7 ? PyLong_FromLongLong(claim.fence) : nullptr};
    for (Py_ssize_t i = 0; i < size; ++i) {
        if (parts[i] == nullptr) {
            throw py::error_already_set();
        }
        PyTuple_SET_ITEM(made.ptr(), i, parts[i]);
    }
    return made;
}

Claim owned(const std::string& key, const std::string& token) {
    Claim claim;
    claim.key = key;
    claim.token = token;
    return claim;
}

}  // namespace

void register_ledger(py::module_& module) {
    py::class_<Ledger, std::shared_ptr<Ledger>>(module, "Ledger")
        .def(
            "claim",
            [](Ledger& self, const std::vector<std::string>& keys, std::int64_t lease_us,
               const std::vector<std::string>& payloads) {
                std::vector<ClaimRequest> requests;
                requests.reserve(keys.size());
                for (std::size_t i = 0; i < keys.size(); ++i) {
                    requests.push_back({keys[i], lease_us, i < payloads.size() ? payloads[i] : std::string()});
                }
                const auto claims = take(interruptible([&] { return self.claim(requests); }));
                py::list answers(claims.size());
                for (std::size_t i = 0; i < claims.size(); ++i) {
                    answers[i] = answer(claims[i]);
                }
                return answers;
            },
            py::arg("keys"), py::arg("lease_us"), py::arg("payloads"))
        .def(
            "complete",
            [](Ledger& self, const std::vector<std::string>& keys, const std::vector<std::string>& tokens,
               const std::vector<std::string>& results) {
                if (tokens.size() != keys.size() || results.size() != keys.size()) {
                    check({ErrorCode::invalid_input, "as many tokens and results as keys are needed"});
                }
                std::vector<Claim> claims;
                claims.reserve(keys.size());
                for (std::size_t i = 0; i < keys.size(); ++i) {
                    claims.push_back(owned(keys[i], tokens[i]));
                }
                check(interruptible([&] { return self.complete(claims, results); }));
            },
            py::arg("keys"), py::arg("tokens"), py::arg("results"))
        .def(
            "claim_pair",
            [](Ledger& self, const std::string& key, const std::string& legacy_key, std::int64_t lease_us,
               const std::string& payload) {
                const ClaimRequest request{key, lease_us, payload};
                const auto claim = take(interruptible([&] { return self.claim_pair(request, legacy_key); }));
                return py::make_tuple(answer(claim), claim.legacy_token);
            },
            py::arg("key"), py::arg("legacy_key"), py::arg("lease_us"), py::arg("payload"))
        .def(
            "release",
            [](Ledger& self, const std::string& key, const std::string& token, const std::string& error, bool counted) {
                check(interruptible([&] { return self.release(owned(key, token), error, counted); }));
            },
            py::arg("key"), py::arg("token"), py::arg("error"), py::arg("counted") = true)
        .def(
            "renew",
            [](Ledger& self, const std::string& key, const std::string& token, std::int64_t lease_us) {
                return take(interruptible([&] { return self.renew(owned(key, token), lease_us); }));
            },
            py::arg("key"), py::arg("token"), py::arg("lease_us"))
        .def("prune", [](Ledger& self) { return take(interruptible([&] { return self.prune(); })); })
        .def("warnings", [](Ledger& self) { return take(interruptible([&] { return self.warnings(); })); });
    module.def(
        "memory_ledger",
        [](std::int64_t ttl, std::shared_ptr<Clock> clock, std::shared_ptr<Random> random, bool fence) {
            return make_memory_ledger({ttl, fence}, std::move(clock), std::move(random));
        },
        py::arg("done_ttl_us"), py::arg("clock"), py::arg("random"), py::arg("fence") = false);
    module.def(
        "redis_ledger",
        [](const std::string& host, int port, const std::string& username, const std::string& password, int database,
           const std::string& prefix, bool tls, bool verify, const std::string& ca_file, int pool_size,
           std::int64_t timeout_us, std::int64_t reconnect_us, std::int64_t ttl, std::shared_ptr<Clock> clock,
           std::shared_ptr<Random> random, bool fence) {
            return backends::make_redis_ledger({host, port, username, password, database, prefix, tls, verify, ca_file,
                                                pool_size, timeout_us, reconnect_us, signals()},
                                               {ttl, fence}, std::move(clock), std::move(random));
        },
        py::arg("host"), py::arg("port"), py::arg("username"), py::arg("password"), py::arg("database"),
        py::arg("prefix"), py::arg("tls"), py::arg("verify"), py::arg("ca_file"), py::arg("pool_size"),
        py::arg("timeout_us"), py::arg("reconnect_us"), py::arg("done_ttl_us"), py::arg("clock"), py::arg("random"),
        py::arg("fence") = false);
    module.def(
        "redis_script", [](const std::string& name) { return std::string(backends::redis_script(name)); },
        py::arg("name"), "The Lua of one ledger operation.");
    module.def(
        "redis_fence_key", [](const std::string& stored_key) { return backends::redis_fence_key(stored_key); },
        py::arg("stored_key"), "Where the acquisitions of a stored key are counted.");
}

}  // namespace headgate::bindings
