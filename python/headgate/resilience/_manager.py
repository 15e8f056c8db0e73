"""Named breakers whose state outlives the process and is shared between nodes.

A node's own failures open its own breaker at once. Other nodes join in only when `quorum` nodes say so, so that one bad
node cannot open a breaker for all. When the store is lost every node decides alone.
"""

from __future__ import annotations

import logging
import socket
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

from headgate._forks import watch
from headgate._native import core
from headgate.errors import IntegrityError
from headgate.resilience._build import BreakerDefaults, make_breaker
from headgate.resilience._checks import check_type, count_of, to_us

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headgate.ports import Clock, Json, SharedStateStore

log = logging.getLogger("headgate.resilience")
_FORMAT = 1
_FORGET_US = 24 * 3600 * 1_000_000  # what a node said so long ago says nothing
_TRIES = 64  # of a conditional write that loses races: each loss is another one's success
_SKEW_US = 5_000_000  # a time that is further ahead was written by a clock that was wrong (the core's kClockSkewUs)


class CircuitBreakerManager:
    """Breakers by name.

    Args:
        store: where the nodes meet; None keeps the breakers in this process.
        clock: of all breakers.
        options: of every breaker that has none of its own.
        named: options by name.
        node: this machine; processes of one node share one row. A probe is of one process, whatever its node.
        refresh_s: how long what others said may be believed (CIRCUIT_BREAKER_CACHE_TTL).
        quorum: nodes that must have opened a breaker before it is open for the others.

    Example:
        >>> breakers = CircuitBreakerManager()
        >>> breakers.allow("feed")
        True
        >>> breakers.failure("feed")
        >>> breakers.state("feed")
        'closed'
    """

    def __init__(
        self,
        store: SharedStateStore | None = None,
        clock: Clock | None = None,
        *,
        options: BreakerDefaults | None = None,
        named: Mapping[str, BreakerDefaults] | None = None,
        node: str | None = None,
        refresh_s: float = 60.0,
        quorum: int = 2,
    ) -> None:
        self._store = store
        self._clock: Clock = clock or core.SystemClock()
        self._options = options or BreakerDefaults()
        self._named = dict(named or {})
        self.node = node or socket.gethostname()
        self._after_fork()
        watch(self)
        self._refresh_us = to_us(refresh_s, "refresh_s")
        self._quorum = count_of(quorum, "quorum", 1)
        for name, options_of in [("options", self._options), *self._named.items()]:
            check_type(options_of, BreakerDefaults, name)
        self._breakers: dict[str, Any] = {}
        self._views: dict[str, _View] = {}
        self.store_failures = 0  # reads and writes of shared state that failed: decisions were local

    def _after_fork(self) -> None:
        """A child is a process of its own: it has no probe of its parent's."""
        self._owner = uuid.uuid4().hex

    def breaker(self, name: str) -> Any:
        """This node's breaker, as the store last knew it.

        The core's own object: what is told to it directly is shared at the next `publish`.
        """
        if name not in self._breakers:
            self._breakers[name] = make_breaker(self._clock, self._options_of(name))
            self._views[name] = _View()
            self.refresh(name)
        return self._breakers[name]

    def allow(self, name: str) -> bool:
        """Whether a call may go out. Every allowed call ends in `success`, `failure` or `abandoned`."""
        return self.enter(name) != 0

    def enter(self, name: str) -> int:
        """`allow` with a permit: 0, or a number to tell the outcome with, so that a late one closes nothing."""
        breaker = self.breaker(name)
        view = self._views[name]
        if self._clock.mono_us() - view.read_mono_us >= self._refresh_us:
            self.refresh(name)
        own_closed = breaker.state == "closed"
        if own_closed and self._clock.now_us() < view.others_open_until_us:
            return 0
        permit = int(breaker.enter())
        if permit == 0:
            return 0
        if own_closed and not view.others_open_until_us:
            return permit
        # After an opening one probe goes out, of all processes together.
        if self._take_probe(name):
            view.probing = True
            return permit
        breaker.on_abandoned(permit)
        return 0

    def success(self, name: str, elapsed_s: float = 0.0, permit: int = 0) -> None:
        """The call answered."""
        breaker, view = self.breaker(name), self._views[name]
        before = breaker.state
        breaker.on_success(int(elapsed_s * 1e6), permit)
        closed = before != "closed" and breaker.state == "closed"
        if closed or (view.probing and before == "closed"):
            view.probing = False
            view.others_open_until_us = 0
            self.publish(name, cleared=True)
        elif view.probing or breaker.state != before:
            view.probing = False
            self.publish(name)

    def failure(self, name: str, elapsed_s: float = 0.0, permit: int = 0) -> None:
        """The call failed."""
        breaker, view = self.breaker(name), self._views[name]
        breaker.on_failure(int(elapsed_s * 1e6), permit)
        view.probing = False
        self.publish(name)

    def abandoned(self, name: str, permit: int = 0) -> None:
        """The call never went out, or says nothing of the callee: a probe is another's to send."""
        self.breaker(name).on_abandoned(permit)
        view = self._views[name]
        if view.probing:
            view.probing = False
            self._give_probe_back(name)

    def state(self, name: str) -> str:
        """closed, open or half_open, as this node sees it."""
        own = str(self.breaker(name).state)
        shared = self._clock.now_us() < self._views[name].others_open_until_us
        return "open" if own == "closed" and shared else own

    def states(self) -> dict[str, str]:
        """Of every breaker that was used."""
        return {name: self.state(name) for name in sorted(self._breakers)}

    def handle(self, name: str) -> BreakerHandle:
        """A breaker by this name that speaks like the core's own, for `Call` and `CallFailover`."""
        return BreakerHandle(self, name)

    # --- the shared document: {"format", "nodes": {node: {"at_us", "snapshot"}}, "cleared_us",
    #     "probe": {"node", "owner", "until_us"} | None}

    def refresh(self, name: str) -> None:
        """Read what this node's other processes and the other nodes say."""
        if name not in self._breakers:
            self.breaker(name)
            return
        view = self._views[name]
        view.read_mono_us = self._clock.mono_us()
        doc = self._load(name)
        if doc is None:
            return
        own = doc["nodes"].get(self.node)
        if own is not None and own["at_us"] > view.own_at_us:
            view.own_at_us = own["at_us"]
            mine = self._breakers[name].snapshot()
            self._breakers[name].restore(_merged(mine, own["snapshot"], view.failed_rounds))
            view.failed_rounds = own["snapshot"]["failed_rounds"]
        self._take_clearing(name, doc)
        view.others_open_until_us = self._others_open_until(name, doc)

    def _take_clearing(self, name: str, doc: Json) -> None:
        """A probe of another process has succeeded since this breaker opened: it is closed here too."""
        snapshot = self._breakers[name].snapshot()
        cleared = doc.get("cleared_us") or 0
        if snapshot["state"] != "closed" and snapshot["opened_at_us"] <= cleared <= self._clock.now_us() + _SKEW_US:
            self._breakers[name].restore({**_CLOSED})

    def adopt(self, name: str) -> bool:
        """Read what is shared, and open this node's breaker when a quorum of the others has opened theirs.

        For those who use the core's breaker directly, as a collection's failover does.

        Returns:
            Whether this process may send the probe of a breaker that is half-open; another one sends it otherwise.
            `publish` gives the probe back.
        """
        self.refresh(name)
        breaker, view = self._breakers[name], self._views[name]
        if breaker.state == "closed" and self._clock.now_us() < view.others_open_until_us:
            opened = view.others_open_until_us - int(self._options_of(name).recovery_s * 1e6)
            breaker.restore({**breaker.snapshot(), "state": "open", "opened_at_us": opened})
        if breaker.state != "half_open":
            return True
        return self._take_probe(name)

    def publish(self, name: str, *, cleared: bool = False) -> None:
        """Tell the others what this node knows; a lost store is counted and logged, never raised.

        Args:
            name: the breaker.
            cleared: a probe succeeded: the callee is well again for every node.
        """
        breaker, view = self.breaker(name), self._views[name]
        now = self._clock.now_us()

        def change(doc: Json) -> Json:
            nodes = {k: v for k, v in doc["nodes"].items() if now - v["at_us"] < _FORGET_US}
            own = doc["nodes"].get(self.node)
            if not cleared:
                self._take_clearing(name, doc)  # or an opening that is over would be told again
            snapshot = breaker.snapshot()
            if cleared:
                nodes = {}
            elif own is not None and own["at_us"] > view.own_at_us:  # another process of this node spoke meanwhile
                snapshot = _merged(snapshot, own["snapshot"], view.failed_rounds)
                breaker.restore(snapshot)
                view.own_at_us, view.failed_rounds = own["at_us"], own["snapshot"]["failed_rounds"]
                snapshot = breaker.snapshot()  # their failures together may have opened it
            nodes[self.node] = {"at_us": max(now, (own or {"at_us": 0})["at_us"] + 1), "snapshot": snapshot}
            probe = doc["probe"]
            if cleared or (probe is not None and probe.get("owner") == self._owner):
                probe = None
            since = now if cleared else doc.get("cleared_us") or 0
            return {"format": _FORMAT, "nodes": nodes, "probe": probe, "cleared_us": since}

        written = self._change(name, change)
        if written is not None:
            own = written["nodes"][self.node]
            view.own_at_us, view.failed_rounds = own["at_us"], own["snapshot"]["failed_rounds"]
            view.others_open_until_us = self._others_open_until(name, written)

    def _take_probe(self, name: str) -> bool:
        now = self._clock.now_us()
        recovery = int(self._options_of(name).recovery_s * 1e6)

        def change(doc: Json) -> Json | None:
            probe = doc["probe"]
            taken = (
                probe is not None
                and probe.get("owner") != self._owner
                and now < probe["until_us"] <= now + recovery + _SKEW_US  # one further ahead was a wrong clock's
            )
            mine = {"node": self.node, "owner": self._owner, "until_us": now + recovery}
            return None if taken else {**doc, "probe": mine}

        if self._store is None:
            return True
        failures = self.store_failures
        written = self._change(name, change)
        return written is not None or self.store_failures > failures  # without the store: the local decision

    def _give_probe_back(self, name: str) -> None:
        def change(doc: Json) -> Json | None:
            probe = doc["probe"]
            return {**doc, "probe": None} if probe is not None and probe.get("owner") == self._owner else None

        self._change(name, change)

    def _others_open_until(self, name: str, doc: Json) -> int:
        """When the opening that a quorum of the other nodes agrees on ends; 0: they do not."""
        recovery = int(self._options_of(name).recovery_s * 1e6)
        now = self._clock.now_us()
        opened = {
            node: entry["snapshot"]["opened_at_us"]
            for node, entry in doc["nodes"].items()
            if node != self.node and entry["snapshot"]["state"] == "open" and now - entry["at_us"] < _FORGET_US
        }
        ends = sorted(at + recovery for at in opened.values() if at <= now + _SKEW_US)
        return ends[-self._quorum] if len(ends) >= self._quorum else 0

    def _options_of(self, name: str) -> BreakerDefaults:
        return self._named.get(name, self._options)

    def _load(self, name: str) -> Json | None:
        if self._store is None:
            return None
        try:
            return _checked(self._store.load_state(_key(name)))
        except Exception as error:
            self._lost(name, error)
            return None

    def _change(self, name: str, change: Callable[[Json], Json | None]) -> Json | None:
        """The document as written; None: nothing was, or the store is lost."""
        if self._store is None:
            return None
        try:
            for _ in range(_TRIES):
                before = self._store.load_state(_key(name))
                after = change(_checked(before) or {"format": _FORMAT, "nodes": {}, "probe": None, "cleared_us": 0})
                if after is None:
                    return None
                if self._store.swap_state(_key(name), before, after):
                    return after
        except Exception as error:
            self._lost(name, error)
        return None

    def _lost(self, name: str, error: Exception) -> None:
        self.store_failures += 1
        log.warning("breaker state is local", extra={"breaker": name, "error": type(error).__name__})


def _checked(doc: Any) -> Json | None:
    """A shared document that can be read. Another program's, a damaged one or one of a later version is a lost store:
    decisions are local, and it is left as it is.

    Raises:
        IntegrityError: it is none.
    """
    if doc is None:
        return None
    try:
        probe = doc["probe"]
        good = doc["format"] == _FORMAT and (probe is None or isinstance(probe["until_us"], int))
        for entry in doc["nodes"].values():
            snapshot = entry["snapshot"]
            good &= isinstance(entry["at_us"], int) and isinstance(snapshot["failed_rounds"], int)
            good &= snapshot["state"] in ("closed", "open", "half_open")
            # The core's own reading of it: a snapshot that it refuses is none.
            make_breaker().restore({**snapshot, "opened_at_us": int(snapshot["opened_at_us"])})
        good &= isinstance(doc.get("cleared_us") or 0, int)
    except Exception:
        good = False
    if not good:
        message = "the shared state of a circuit breaker is damaged, or of another version"
        raise IntegrityError(message)
    found: Json = doc
    return found


class BreakerHandle:
    """One of a manager's breakers with the core's own methods; what it is told is shared."""

    def __init__(self, manager: CircuitBreakerManager, name: str) -> None:
        self._manager, self._name = manager, name

    @property
    def state(self) -> str:
        return self._manager.state(self._name)

    def allow(self) -> bool:
        return self._manager.allow(self._name)

    def enter(self) -> int:
        return self._manager.enter(self._name)

    def on_success(self, elapsed_us: int = 0, permit: int = 0) -> None:
        self._manager.success(self._name, elapsed_us / 1e6, permit)

    def on_failure(self, elapsed_us: int = 0, permit: int = 0) -> None:
        self._manager.failure(self._name, elapsed_us / 1e6, permit)

    def on_abandoned(self, permit: int = 0) -> None:
        self._manager.abandoned(self._name, permit)


class _View:
    """What this process knows of one breaker's shared document."""

    def __init__(self) -> None:
        self.read_mono_us = -(10**15)
        self.own_at_us = 0
        self.failed_rounds = 0  # of this node, as the document last had it
        self.others_open_until_us = 0
        self.probing = False


def _key(name: str) -> str:
    return f"breaker:{name}"


_CLOSED: Json = {
    "state": "closed", "opened_at_us": 0, "failed_rounds": 0, "failures_us": [], "calls": [], "probes_succeeded": 0,
}  # fmt: skip


def _merged(ours: Json, theirs: Json, rounds_before: int) -> Json:
    """Two processes of one node: every failure and every failed round counts once, and the later opening stands.

    Args:
        ours: this process's snapshot.
        theirs: the node's row, which another process has written since.
        rounds_before: the node's failed rounds as this process last read or wrote them.
    """
    newer = theirs if theirs["opened_at_us"] >= ours["opened_at_us"] else ours
    failures: list[int] = sorted((Counter(ours["failures_us"]) | Counter(theirs["failures_us"])).elements())
    since = ours["failed_rounds"] - rounds_before
    # Fewer than before: a success has ended the run here, and what follows it counts alone.
    rounds = theirs["failed_rounds"] + since if since >= 0 else ours["failed_rounds"]
    return {**newer, "failures_us": failures, "failed_rounds": rounds}
