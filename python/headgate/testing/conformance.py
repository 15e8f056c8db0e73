"""What every backend of a port must do, as pytest classes: subclass one, give it your backend, inherit the contract.

Example:
    class TestMyLedger(LedgerSuite):
        def open(self, clock): return Ledger.open("mine://", clock=clock)
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import SkipTest

from headgate._native import core
from headgate.errors import (
    ConflictError,
    DuplicateError,
    InvalidInputError,
    Kind,
    NotFoundError,
    StaleLeaseError,
)

_SECOND = 1_000_000


def _raises(error: type[Exception], call: Any, *arguments: Any) -> Exception:
    """pytest.raises without pytest, which users of the suites may not have imported."""
    try:
        call(*arguments)
    except error as caught:
        return caught
    message = f"expected {error.__name__}"
    raise AssertionError(message)


class LedgerSuite:
    """The idempotency ledger. `open(clock)` gives an empty one whose done keys live 100 s.

    `open_with(clock, fence=..., legacy_keys=...)` gives one with these options; a suite without it skips their tests.
    """

    done_ttl = 100.0
    expires_by_wall_clock = False  # the server forgets done keys itself, by its own clock

    def open(self, clock: Any) -> Any:
        raise NotImplementedError

    def open_with(self, clock: Any, *, fence: bool = False, legacy_keys: bool = False) -> Any:
        message = f"{type(self).__name__} has no open_with(): fences and legacy keys are not tested"
        raise SkipTest(message)

    def _world(self, **options: bool) -> tuple[Any, Any]:
        # In the future: a server that expires items by its own clock (DynamoDB) must not meet ours.
        clock = core.ManualClock(4_000_000_000 * _SECOND)
        return self.open_with(clock, **options) if options else self.open(clock), clock

    def test_claim_complete_done(self) -> None:
        ledger, _ = self._world()
        claim = ledger.claim("k", 10)
        assert (claim.status, claim.attempts) == ("acquired", 1)
        assert ledger.claim("k", 10).status == "in_progress"
        ledger.complete(claim, {"n": 1})
        again = ledger.claim("k", 10)
        assert (again.status, again.result) == ("done", {"n": 1})

    def test_in_progress_tells_until_when(self) -> None:
        ledger, _ = self._world()
        claim = ledger.claim("k", 10)
        assert ledger.claim("k", 99).until == claim.until

    def test_an_overtaken_owner_is_powerless(self) -> None:
        """A outlives its lease, B takes over, A ends: B's lock, a third caller and the stored result stay right."""
        ledger, clock = self._world()
        a = ledger.claim("k", 10)
        clock.advance_us(11 * _SECOND)
        b = ledger.claim("k", 10)
        assert (b.status, b.attempts) == ("acquired", 2)
        for call in (ledger.complete, ledger.release, ledger.renew):
            _raises(StaleLeaseError, call, a)
        assert ledger.claim("k", 10).status == "in_progress"
        ledger.complete(b, "b")
        _raises(StaleLeaseError, ledger.complete, a)
        assert ledger.claim("k", 10).result == "b"

    def test_the_stored_result_never_changes(self) -> None:
        ledger, _ = self._world()
        claim = ledger.claim("k", 10)
        ledger.complete(claim, "first")
        ledger.complete(claim, "again")  # by its own owner: an answer may have been lost
        _raises(StaleLeaseError, ledger.release, claim)
        _raises(StaleLeaseError, ledger.renew, claim)
        assert ledger.claim("k", 10).result == "first"

    def test_a_released_claim_is_spent(self) -> None:
        ledger, _ = self._world()
        claim = ledger.claim("k", 10)
        ledger.release(claim, "boom")
        ledger.release(claim, "boom")  # again: nothing changes
        for call in (ledger.complete, ledger.renew):
            _raises(StaleLeaseError, call, claim)
        assert ledger.claim("k", 10).attempts == 2
        _raises(StaleLeaseError, ledger.release, claim)

    def test_attempts_survive_a_crash(self) -> None:
        ledger, clock = self._world()
        for attempt in (1, 2, 3):
            assert ledger.claim("k", 10).attempts == attempt
            clock.advance_us(10 * _SECOND)

    def test_a_done_key_is_forgotten_after_its_time(self) -> None:
        ledger, clock = self._world()
        first = ledger.claim("k", 10, payload="p")
        ledger.release(first, "boom")
        ledger.complete(ledger.claim("k", 10, payload="p"), 1)
        clock.advance_us(int(self.done_ttl) * _SECOND - 1)
        assert ledger.claim("k", 10, payload="p").status == "done"
        clock.advance_us(1)
        if not self.expires_by_wall_clock:
            again = ledger.claim("k", 10, payload="another")
            assert (again.status, again.attempts, again.last_error) == ("acquired", 1, "")

    def test_one_of_many_wins(self) -> None:
        ledger, _ = self._world()
        with ThreadPoolExecutor(8) as threads:
            statuses = list(threads.map(lambda _: ledger.claim("k", 10).status, range(40)))
        assert sorted(statuses) == ["acquired"] + ["in_progress"] * 39

    def test_warnings_are_sentences(self) -> None:
        ledger, _ = self._world()
        assert all(isinstance(text, str) and text for text in ledger.warnings())
        (found,) = set(ledger.warnings(retention=self.done_ttl + 1)) - set(ledger.warnings())
        assert "retention" in found

    def test_release_keeps_attempts_and_error(self) -> None:
        ledger, _ = self._world()
        ledger.release(ledger.claim("k", 10), "boom")
        again = ledger.claim("k", 10)
        assert (again.status, again.attempts, again.last_error) == ("acquired", 2, "boom")

    def test_renew_extends_the_lease(self) -> None:
        ledger, clock = self._world()
        claim = ledger.claim("k", 10)
        clock.advance_us(9 * _SECOND)
        assert ledger.renew(claim, 10) == clock.now_us() / 1e6 + 10
        clock.advance_us(9 * _SECOND)
        assert ledger.claim("k", 10).status == "in_progress"
        clock.advance_us(1 * _SECOND)
        assert ledger.claim("k", 10).status == "acquired"

    def test_another_payload_under_the_same_key_is_refused(self) -> None:
        ledger, _ = self._world()
        claim = ledger.claim("k", 10, payload="p1")
        _raises(ConflictError, lambda: ledger.claim("k", 10, payload="p2"))
        ledger.complete(claim)
        _raises(ConflictError, lambda: ledger.claim("k", 10, payload="p2"))
        assert ledger.claim("k", 10, payload="p1").status == "done"
        assert ledger.claim("k", 10).status == "done"  # a caller without a payload does not check
        other = ledger.claim_many(["k", "new"], 10, payloads=["p2", "p3"])
        assert [c.status for c in other] == ["mismatch", "acquired"]

    def test_batches_answer_per_key(self) -> None:
        ledger, _ = self._world()
        ledger.claim("busy", 10)
        ledger.complete(ledger.claim("done", 10), 1)
        claims = ledger.claim_many(["new", "busy", "done"], 10)
        assert [c.status for c in claims] == ["acquired", "in_progress", "done"]
        more = ledger.claim_many([f"k{i}" for i in range(50)], 10)
        ledger.complete_many(more, list(range(50)))
        assert [c.result for c in ledger.claim_many([f"k{i}" for i in range(50)], 10)] == list(range(50))

    def test_keys_and_results_may_hold_any_text(self) -> None:
        ledger, _ = self._world()
        digest = core.sha256_hex(("x" * 5_000).encode())
        keys = [
            "a b", "ключ", "x" * 500, "a:b\n{}", "%s", "\x00nul", "x" * 5_000, "x" * 4_999 + "y", "\U0001f600" * 5_000,
            digest, f"#{digest}", f"v1#{digest}", f"v1:{digest}", "\x1b[31m\x7f\x85", "{", "}{", "a{}b", " ",
        ]  # fmt: skip
        for key in keys:
            claim = ledger.claim(key, 10)
            assert claim.status == "acquired", key[:40]
            ledger.complete(claim, {"text": key, "none": None, "nested": [1, 2.5, True]})
        for key in keys:
            assert ledger.claim(key, 10).result == {"text": key, "none": None, "nested": [1, 2.5, True]}

    def test_leases_and_keys_are_checked_where_they_enter(self) -> None:
        ledger, _ = self._world()
        held = ledger.claim("held", 10)
        for lease in (0, -1, 0.0009, float("nan"), float("inf"), 367 * 86_400, True, "10", None):
            _raises(InvalidInputError, ledger.claim, "k", lease)
            _raises(InvalidInputError, ledger.claim_many, ["k"], lease)
            _raises(InvalidInputError, ledger.renew, held, lease)
        assert ledger.claim("held", 10).status == "in_progress"
        for key in ("", None, 5, b"k", "caf\udce9"):
            _raises(InvalidInputError, ledger.claim, key, 10)
            _raises(InvalidInputError, ledger.claim_many, ["k", key], 10)
        found = _raises(InvalidInputError, ledger.claim, "caf\udce9", 10)
        assert getattr(found, "kind", None) is Kind.INVALID_UNICODE
        _raises(InvalidInputError, lambda: ledger.claim("k", 10, payload="caf\udce9"))
        _raises(InvalidInputError, lambda: ledger.claim_many(["k", "l"], 10, payloads=["p"]))
        _raises(InvalidInputError, ledger.claim_many, "kl", 10)
        _raises(InvalidInputError, ledger.complete_many, [held], [])
        assert ledger.claim("k", 366 * 86_400).status == "acquired"  # nothing of it was claimed
        assert ledger.claim("short", 0.001).status == "acquired"

    def test_an_attempt_that_was_none_is_given_back_once(self) -> None:
        ledger, _ = self._world()
        ledger.release(ledger.claim("k", 10, payload="p"), "boom")
        second = ledger.claim("k", 10)
        assert (second.attempts, second.last_error) == (2, "boom")
        ledger.release(second, counted=False)
        ledger.release(second, counted=False)  # again: nothing changes
        third = ledger.claim("k", 10)
        assert (third.attempts, third.last_error) == (2, "boom")
        ledger.release(third, "away", counted=False)
        ledger.release(third, "away", counted=False)
        fourth = ledger.claim("k", 10)
        assert (fourth.attempts, fourth.last_error) == (2, "away")
        ledger.release(fourth, "late")
        ledger.release(fourth, counted=False)  # it was counted: a release decides that once
        assert ledger.claim("k", 10).attempts == 3
        _raises(StaleLeaseError, lambda: ledger.release(fourth, counted=False))

    def test_the_only_attempt_may_be_given_back(self) -> None:
        ledger, _ = self._world()
        claim = ledger.claim("k", 10, payload="p")
        ledger.release(claim, counted=False)
        _raises(ConflictError, lambda: ledger.claim("k", 10, payload="q"))  # it still stands for the same
        again = ledger.claim("k", 10, payload="p")
        assert (again.status, again.attempts, again.last_error) == ("acquired", 1, "")
        ledger.complete(again, 1)
        _raises(StaleLeaseError, lambda: ledger.release(again, counted=False))
        assert ledger.claim("k", 10).result == 1

    def test_errors_of_any_text_are_kept(self) -> None:
        ledger, _ = self._world()
        for error, kept in (
            ("caf\udce9.txt", "caf\\udce9.txt"),
            ("nul\x00 and \x1b[31m", "nul\\x00 and \\x1b[31m"),
            ("two\n\tlines \U0001f600", "two\n\tlines \U0001f600"),
            ("x" * 2_000, "x" * 500),
            ("\udc80" * 400, ("\\udc80" * 400)[:500]),
        ):
            ledger.release(ledger.claim("k", 10), error)
            again = ledger.claim("k", 10)
            assert again.last_error == kept
            ledger.release(again, "")
        _raises(InvalidInputError, ledger.release, again, ValueError("no text"))

    def test_a_result_that_cannot_be_kept_completes_all_the_same(self) -> None:
        ledger, _ = self._world()
        circular: list[Any] = []
        circular.append(circular)
        assert ledger.complete(ledger.claim("plain", 10), (1, "a")) is True
        assert ledger.claim("plain", 10).result == [1, "a"]  # JSON: a tuple comes back as a list
        for name, result in (("type", object()), ("circular", circular), ("keys", {1: "a", "1": "b"})):
            assert ledger.complete(ledger.claim(name, 10), result) is False
            again = ledger.claim(name, 10)
            assert (again.status, again.result) == ("done", None)
        claims = ledger.claim_many(["one", "two", "three"], 10)
        assert ledger.complete_many(claims, [{1, 2}, object(), None]) == [True, False, True]
        assert [c.result for c in ledger.claim_many(["one", "two", "three"], 10)] == [[1, 2], None, None]
        mine = ledger.claim("mine", 10)
        assert ledger.complete(mine, object(), serializer=lambda _: '{"own": 1}') is True
        assert ledger.claim("mine", 10).result == {"own": 1}

    def test_without_the_option_there_is_no_fence(self) -> None:
        ledger, _ = self._world()
        assert ledger.claim("k", 10).fence is None
        assert [c.fence for c in ledger.claim_many(["k", "l"], 10)] == [None, None]

    def test_fences_only_grow(self) -> None:
        ledger, clock = self._world(fence=True)
        fences = []
        first = ledger.claim("k", 10)
        fences.append(first.fence)
        assert ledger.claim("k", 10).fence is None  # in progress
        clock.advance_us(11 * _SECOND)
        fences.append(ledger.claim("k", 10).fence)  # overtaken
        other = ledger.claim("other", 10)
        clock.advance_us(11 * _SECOND)
        third = ledger.claim("k", 10)
        fences.append(third.fence)
        ledger.release(third, "boom")
        fourth = ledger.claim("k", 10)
        fences.append(fourth.fence)
        ledger.release(fourth, counted=False)
        fifth = ledger.claim("k", 10)
        fences.append(fifth.fence)
        assert (fifth.attempts, fifth.last_error) == (4, "boom")
        ledger.complete(fifth, 1)
        done = ledger.claim("k", 10)
        assert (done.status, done.result, done.fence) == ("done", 1, None)
        clock.advance_us(int(self.done_ttl) * _SECOND)
        ledger.prune()
        if not self.expires_by_wall_clock:
            again = ledger.claim("k", 10)
            assert (again.status, again.attempts) == ("acquired", 1)  # forgotten; its fence is not
            fences.append(again.fence)
        assert all(type(fence) is int for fence in [*fences, other.fence])
        assert fences == sorted(set(fences)), fences
        batch = [claim.fence for claim in ledger.claim_many([f"b{i}" for i in range(5)], 10)]
        assert None not in batch

    def test_fences_follow_the_order_of_acquisitions(self) -> None:
        ledger, _ = self._world(fence=True)

        def take_and_give_back(_: int) -> tuple[int, int] | None:
            claim = ledger.claim("k", 100)
            if claim.status != "acquired":
                return None
            ledger.release(claim, "again")
            return claim.attempts, claim.fence

        with ThreadPoolExecutor(8) as threads:
            found = sorted(pair for pair in threads.map(take_and_give_back, range(60)) if pair is not None)
        assert [attempt for attempt, _ in found] == list(range(1, len(found) + 1))
        fences = [fence for _, fence in found]
        assert fences == sorted(set(fences)), fences

    def test_another_payload_with_a_fence(self) -> None:
        ledger, _ = self._world(fence=True)
        ledger.claim("k", 10, payload="p1")
        _raises(ConflictError, lambda: ledger.claim("k", 10, payload="p2"))
        assert ledger.claim("k", 10, payload="p1").status == "in_progress"

    def test_a_legacy_key_that_does_not_count_is_not_claimed(self) -> None:
        ledger, _ = self._world()
        ledger.complete(ledger.claim("old", 10), 1)
        assert ledger.claim("new", 10, legacy_key="old").status == "acquired"
        _raises(InvalidInputError, lambda: ledger.claim("new2", 10, legacy_key="caf\udce9"))

    def test_both_keys_are_held_renewed_and_completed(self) -> None:
        ledger, clock = self._world(legacy_keys=True)
        claim = ledger.claim("new", 10, legacy_key="old")
        assert (claim.status, claim.attempts) == ("acquired", 1)
        assert [c.status for c in ledger.claim_many(["new", "old"], 10)] == ["in_progress", "in_progress"]
        clock.advance_us(9 * _SECOND)
        assert ledger.renew(claim, 10) == clock.now_us() / 1e6 + 10
        clock.advance_us(9 * _SECOND)
        assert [c.status for c in ledger.claim_many(["new", "old"], 10)] == ["in_progress", "in_progress"]
        assert ledger.complete(claim, {"n": 1}) is True
        ledger.complete(claim, {"n": 2})  # again: nothing changes
        for found in (*ledger.claim_many(["new", "old"], 10), ledger.claim("new", 10, legacy_key="old")):
            assert (found.status, found.result) == ("done", {"n": 1})
        assert ledger.claim("same", 10, legacy_key="same").status == "acquired"

    def test_what_is_done_or_in_progress_under_either_key_is_so(self) -> None:
        ledger, _ = self._world(legacy_keys=True)
        ledger.complete(ledger.claim("old", 10), "by the old one")
        found = ledger.claim("new", 10, legacy_key="old")
        assert (found.status, found.result, found.key) == ("done", "by the old one", "new")
        free = ledger.claim("new", 10)
        assert (free.status, free.attempts) == ("acquired", 1)  # it was not left held
        held = ledger.claim("old2", 10)
        busy = ledger.claim("new2", 10, legacy_key="old2")
        assert (busy.status, busy.until, busy.token) == ("in_progress", held.until, "")
        newer = ledger.claim("new2", 20)
        assert (newer.status, newer.attempts) == ("acquired", 1)
        ledger.release(held, "boom")
        busy = ledger.claim("new2", 10, legacy_key="old2")
        assert (busy.status, busy.until) == ("in_progress", newer.until)
        again = ledger.claim("old2", 10)
        assert (again.status, again.attempts, again.last_error) == ("acquired", 2, "boom")
        ledger.release(again)
        ledger.complete(newer, "by the new one")
        found = ledger.claim("new2", 10, legacy_key="old2")
        assert (found.status, found.result) == ("done", "by the new one")
        _raises(StaleLeaseError, ledger.complete, ledger.claim("new2", 10, legacy_key="old2"))

    def test_both_keys_are_released_and_their_attempts_go_on(self) -> None:
        ledger, clock = self._world(legacy_keys=True)
        for _ in range(2):
            ledger.release(ledger.claim("old", 10), "old boom")
        claim = ledger.claim("new", 10, legacy_key="old")
        assert (claim.status, claim.attempts, claim.last_error) == ("acquired", 3, "old boom")
        ledger.release(claim, counted=False)
        ledger.release(claim, counted=False)
        claim = ledger.claim("new", 10, legacy_key="old")
        assert (claim.attempts, claim.last_error) == (3, "old boom")
        ledger.release(claim, "new boom")
        assert [(c.attempts, c.last_error) for c in ledger.claim_many(["new", "old"], 10)] == [
            (2, "new boom"),
            (4, "new boom"),
        ]
        clock.advance_us(11 * _SECOND)
        stale = ledger.claim("new", 10, legacy_key="old")
        clock.advance_us(11 * _SECOND)
        ledger.complete(ledger.claim("old", 10), "a worker of before overtook it")
        for call in (ledger.complete, ledger.renew, ledger.release):
            _raises(StaleLeaseError, call, stale)
        found = ledger.claim("new", 10, legacy_key="old")
        assert (found.status, found.result) == ("done", "a worker of before overtook it")

    def test_another_payload_under_a_legacy_key_is_refused(self) -> None:
        ledger, _ = self._world(legacy_keys=True)
        ledger.complete(ledger.claim("old", 10, payload="p1"), 1)
        _raises(ConflictError, lambda: ledger.claim("new", 10, payload="p2", legacy_key="old"))
        assert ledger.claim("new", 10, payload="p1", legacy_key="old").status == "done"
        assert ledger.claim("new", 10, payload="p2").status == "acquired"

    def test_workers_of_both_versions_never_both_win(self) -> None:
        ledger, _ = self._world(legacy_keys=True)

        def old(_: int) -> str:
            return str(ledger.claim("old", 100).status)

        def new(_: int) -> str:
            return str(ledger.claim("new", 100, legacy_key="old").status)

        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda i: (old if i % 2 else new)(i), range(40)))
        assert sorted(found) == ["acquired"] + ["in_progress"] * 39

    def test_a_pair_of_keys_has_one_fence(self) -> None:
        ledger, _ = self._world(fence=True, legacy_keys=True)
        first = ledger.claim("new", 10, legacy_key="old")
        ledger.release(first, "boom")
        second = ledger.claim("new", 10, legacy_key="old")
        assert second.attempts == 2
        assert second.fence > first.fence
        ledger.complete(second, 1)
        assert ledger.claim("old", 10).result == 1


class ObjectStoreSuite:
    """The object store. `open()` gives an empty one."""

    def open(self) -> Any:
        raise NotImplementedError

    def test_put_get_list_remove(self) -> None:
        objects = self.open()
        objects.put("a/b", b"\x00one")
        objects.put("a/b", b"two")
        objects.put("c", b"")
        assert objects.get("a/b") == b"two"
        assert objects.get("c") == b""
        assert objects.list() == ["a/b", "c"]
        assert objects.list("a/") == ["a/b"]
        objects.remove("a/b")
        objects.remove("a/b")
        assert not objects.exists("a/b")

    def test_a_conditional_put_creates_once(self) -> None:
        objects = self.open()
        objects.put("k", b"1", True)
        _raises(DuplicateError, objects.put, "k", b"2", True)
        assert objects.get("k") == b"1"

    def test_only_a_missing_object_is_not_found(self) -> None:
        _raises(NotFoundError, self.open().get, "nothing")

    def test_keys_stay_inside(self) -> None:
        objects = self.open()
        for key in ("../x", "/x", "a/../../x", "", "a//b", "a/"):
            _raises(InvalidInputError, objects.put, key, b"x")
