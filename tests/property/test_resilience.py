"""Breaker and tracker against a model written from the specification, over random histories."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headgate._core import ManualClock
from headgate.resilience import BreakerDefaults, make_breaker, make_tracker

SECOND = 1_000_000


class BreakerMachine(RuleBasedStateMachine):
    """Spec 001, decision 5: 5 failures in 300 s, or 3 failed rounds in a row; 60 s; one probe."""

    @initialize()
    def start(self):
        self.clock = ManualClock(10**15)
        self.breaker = make_breaker(self.clock)
        self.state, self.opened, self.failures, self.rounds, self.probing = "closed", 0, [], 0, False

    def now(self):
        return self.clock.now_us()

    def seen(self):
        return "half_open" if self.state == "open" and self.now() >= self.opened + 60 * SECOND else self.state

    def open(self):
        self.state, self.opened, self.probing = "open", self.now(), False

    @rule(seconds=st.sampled_from([0, 1, 30, 59, 60, 61, 240, 299, 300, 301, 900]))
    def time_passes(self, seconds):
        self.clock.advance_us(seconds * SECOND)

    @rule()
    def ask(self):
        expected = self.state == "closed" or (self.seen() == "half_open" and not self.probing)
        assert self.breaker.allow() is expected
        if expected and self.state != "closed":
            self.state, self.probing = "half_open", True

    @rule()
    def success(self):
        self.breaker.on_success()
        if self.state == "half_open":
            self.state, self.opened, self.failures, self.rounds, self.probing = "closed", 0, [], 0, False

    @rule(times=st.integers(1, 4))
    def failure(self, times):
        for _ in range(times):
            self.breaker.on_failure()
            if self.state == "half_open":
                self.open()
                continue
            self.failures = [t for t in self.failures if t >= self.now() - 300 * SECOND] + [self.now()]
            if self.state == "closed" and len(self.failures) >= 5:
                self.open()

    @rule(ok=st.booleans())
    def round(self, ok):
        self.breaker.on_round(ok)
        self.rounds = 0 if ok else self.rounds + 1
        if not ok and self.state == "closed" and self.rounds >= 3:
            self.open()

    @precondition(lambda self: self.probing)
    @rule()
    def abandon(self):
        self.breaker.on_abandoned()
        self.probing = False

    @rule()
    def restart(self):
        """Another process takes over; a probe in flight died with the first."""
        snapshot = self.breaker.snapshot()
        self.breaker = make_breaker(self.clock)
        self.breaker.restore(snapshot)
        self.probing = False

    @invariant()
    def same_state(self):
        assert self.breaker.state == self.seen()
        assert self.breaker.snapshot()["opened_at_us"] == (self.opened if self.state != "closed" else 0)


class RatesMachine(RuleBasedStateMachine):
    """Rates over the last ten calls."""

    @initialize()
    def start(self):
        self.clock = ManualClock(10**15)
        self.options = BreakerDefaults(
            failure_threshold=0, max_failed_collections=0, failure_rate=0.5, slow_call_s=1.0, slow_call_rate=0.8,
            minimum_calls=5, window_calls=10,
        )  # fmt: skip
        self.breaker = make_breaker(self.clock, self.options)
        self.calls, self.open_until = [], None

    @rule(failed=st.booleans(), slow=st.booleans())
    def call(self, failed, slow):
        allowed = self.open_until is None or self.clock.now_us() >= self.open_until
        assert self.breaker.allow() is allowed
        if not allowed:
            return
        (self.breaker.on_failure if failed else self.breaker.on_success)(SECOND if slow else SECOND - 1)
        if self.open_until is not None:  # it was the probe
            if failed or slow:
                self.open_until = self.clock.now_us() + 60 * SECOND
            else:
                self.calls, self.open_until = [], None
            return
        self.calls = [*self.calls, (failed, slow)][-10:]
        n = len(self.calls)
        if n >= 5 and (sum(f for f, _ in self.calls) >= 0.5 * n or sum(s for _, s in self.calls) >= 0.8 * n):
            self.open_until = self.clock.now_us() + 60 * SECOND

    @rule(seconds=st.sampled_from([1, 59, 60]))
    def time_passes(self, seconds):
        self.clock.advance_us(seconds * SECOND)

    @rule()
    def restart(self):
        snapshot = self.breaker.snapshot()
        self.breaker = make_breaker(self.clock, self.options)
        self.breaker.restore(snapshot)


class TrackerMachine(RuleBasedStateMachine):
    """FR-008: three failures within fifteen minutes alert once, until a success."""

    @initialize()
    def start(self):
        self.clock = ManualClock(10**15)
        self.tracker = make_tracker(self.clock)
        self.failures, self.alerted = [], False

    @rule(seconds=st.sampled_from([1, 299, 300, 301, 899, 900, 901]))
    def time_passes(self, seconds):
        self.clock.advance_us(seconds * SECOND)

    @rule()
    def failure(self):
        now = self.clock.now_us()
        self.failures = [t for t in self.failures if t >= now - 900 * SECOND] + [now]
        alerts = not self.alerted and len(self.failures) >= 3
        assert self.tracker.on_failure() is alerts
        self.alerted = self.alerted or alerts

    @rule()
    def success(self):
        assert self.tracker.on_success() is self.alerted
        self.failures, self.alerted = [], False

    @rule()
    def restart(self):
        snapshot = self.tracker.snapshot()
        self.tracker = make_tracker(self.clock)
        self.tracker.restore(snapshot)

    @invariant()
    def same_count(self):
        assert self.tracker.count == sum(t >= self.clock.now_us() - 900 * SECOND for t in self.failures)


SETTINGS = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
for machine in (BreakerMachine, RatesMachine, TrackerMachine):
    machine.TestCase.settings = SETTINGS
TestBreaker = BreakerMachine.TestCase
TestRates = RatesMachine.TestCase
TestTracker = TrackerMachine.TestCase
