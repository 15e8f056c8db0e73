#include "py.hpp"

#include "headgate/backends/redis.hpp"
#include "headgate/backends/sqlite.hpp"
#include "headgate/ledger/ledger.hpp"

namespace headgate::bindings {

using namespace ledger;

void register_ledger(py::module_& module) {
    py::class_<Claim>(module, "Claim")
        .def(py::init<>())
        .def_readonly("key", &Claim::key)
        .def_property_readonly("status", [](const Claim& c) { return std::string(claim_status_name(c.status)); })
        .def_readonly("token", &Claim::token)
        .def_readonly("until_us", &Claim::until_us)
        .def_readonly("attempts", &Claim::attempts)
        .def_property_readonly("result", [](const Claim& c) { return py::bytes(c.result); })
        .def_property_readonly("last_error",
                               [](const Claim& c) {
                                   return py::reinterpret_steal<py::str>(PyUnicode_DecodeUTF8(
                                       c.last_error.data(), static_cast<Py_ssize_t>(c.last_error.size()), "replace"));
                               })
        .def("raise_for_error", [](const Claim& c) { check(c.error); });
    py::class_<Ledger, std::shared_ptr<Ledger>>(module, "Ledger")
        .def(
            "claim",
            [](Ledger& self, const std::vector<std::string>& keys, std::int64_t lease_us,
               const std::vector<std::string>& payloads) {
                std::vector<ClaimRequest> requests;
                for (std::size_t i = 0; i < keys.size(); ++i) {
                    requests.push_back({keys[i], lease_us, i < payloads.size() ? payloads[i] : std::string()});
                }
                return take(interruptible([&] { return self.claim(requests); }));
            },
            py::arg("keys"), py::arg("lease_us"), py::arg("payloads"))
        .def(
            "complete",
            [](Ledger& self, const std::vector<Claim>& claims, const std::vector<std::string>& results) {
                check(interruptible([&] { return self.complete(claims, results); }));
            },
            py::arg("claims"), py::arg("results"))
        .def(
            "release",
            [](Ledger& self, const Claim& claim, const std::string& error) {
                check(interruptible([&] { return self.release(claim, error); }));
            },
            py::arg("claim"), py::arg("error"))
        .def(
            "renew",
            [](Ledger& self, const Claim& claim, std::int64_t lease_us) {
                return take(interruptible([&] { return self.renew(claim, lease_us); }));
            },
            py::arg("claim"), py::arg("lease_us"))
        .def("prune", [](Ledger& self) { return take(interruptible([&] { return self.prune(); })); });
    module.def(
        "memory_ledger",
        [](std::int64_t ttl, std::shared_ptr<Clock> clock, std::shared_ptr<Random> random) {
            return make_memory_ledger({ttl}, std::move(clock), std::move(random));
        },
        py::arg("done_ttl_us"), py::arg("clock"), py::arg("random"));
    module.def(
        "redis_ledger",
        [](const std::string& host, int port, const std::string& username, const std::string& password, int database,
           const std::string& prefix, std::int64_t ttl, std::shared_ptr<Clock> clock, std::shared_ptr<Random> random) {
            return backends::make_redis_ledger({host, port, username, password, database, prefix, 5'000'000, signals()},
                                               {ttl}, std::move(clock), std::move(random));
        },
        py::arg("host"), py::arg("port"), py::arg("username"), py::arg("password"), py::arg("database"),
        py::arg("prefix"), py::arg("done_ttl_us"), py::arg("clock"), py::arg("random"));
}

}  // namespace headgate::bindings
