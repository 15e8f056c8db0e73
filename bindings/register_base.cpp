#include "py.hpp"

#include "headgate/base/fault.hpp"
#include "headgate/base/text.hpp"

namespace headgate::bindings {

void register_base(py::module_& module) {
    py::class_<Clock, std::shared_ptr<Clock>>(module, "Clock")
        .def("now_us", &Clock::now_us, "Microseconds since the epoch, UTC.")
        .def("mono_us", &Clock::mono_us, "Microseconds since an arbitrary point.")
        .def(
            "sleep_us",
            [](Clock& self, std::int64_t us) {
                const auto interrupt = signals();
                without_gil([&] { return sleep_interruptibly(self, us, interrupt); });
                raise_pending();
            },
            py::arg("us"), "Sleeps; Ctrl-C ends it.");
    py::class_<SystemClock, Clock, std::shared_ptr<SystemClock>>(module, "SystemClock")
        .def(py::init<std::int64_t>(), py::arg("offset_us") = 0);
    py::class_<ManualClock, Clock, std::shared_ptr<ManualClock>>(module, "ManualClock")
        .def(py::init<std::int64_t>(), py::arg("now_us") = 0)
        .def("advance_us", &ManualClock::advance_us, py::arg("us"));
    py::class_<Random, std::shared_ptr<Random>>(module, "Random").def("token_hex", &Random::token_hex);
    py::class_<SystemRandom, Random, std::shared_ptr<SystemRandom>>(module, "SystemRandom").def(py::init<>());
    py::class_<SeededRandom, Random, std::shared_ptr<SeededRandom>>(module, "SeededRandom")
        .def(py::init<std::uint64_t>(), py::arg("seed"));
    module.def(
        "set_faults", [](const std::string& spec) { check(set_faults(spec)); }, py::arg("spec"),
        "Installs fault points: 'point:kill|stop|fail:hit,...'; empty removes them.");
    module.def(
        "fault_point", [](const std::string& point) { check(fault_point(point)); }, py::arg("point"),
        "Passes a fault point.");
    module.def("process_identity", &process_identity, "'boot id:pid:start time' of this process.");
    module.def("process_is_dead", &process_is_dead, py::arg("identity"), "Whether that process is proved dead here.");
    module.def(
        "parse_timestamp", [](const std::string& text) { return take(parse_timestamp(text)); }, py::arg("text"),
        "Microseconds of an ISO 8601 date-time; naive is UTC.");
    module.def("format_timestamp", &format_timestamp, py::arg("us"), "ISO 8601 in UTC with Z.");
}

}  // namespace headgate::bindings
