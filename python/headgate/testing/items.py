"""What every item store must do: the suite for backends of the items' port."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from headgate._native import core
from headgate.ports import Announcement, DeadLetter, Item, Published, Refusal

_SECOND = 1_000_000
_NOW = 4_000_000_000 * _SECOND  # in the future: a server that expires items by its own clock must not meet ours


class _Collecting:
    """A publisher that remembers, and can refuse."""

    def __init__(self, refuse: bool = False) -> None:
        self.sent: list[Announcement] = []
        self.refuse = refuse

    def publish(self, announcements: Any) -> list[int]:
        if self.refuse:
            return []
        self.sent += announcements
        return [a.row for a in announcements]


class _Judging:
    """A publisher that says which keys it can never send, and which ones wait."""

    def __init__(self, refuse: Any = (), wait: Any = (), away: bool = False) -> None:
        self.sent: list[Announcement] = []
        self.offered: list[Announcement] = []
        self.refuse, self.wait, self.away = refuse, wait, away

    def publish(self, announcements: Any) -> Published:
        self.offered += announcements
        if self.away:
            return Published(is_away=True)
        passing = [a for a in announcements if a.key not in self.refuse and a.key not in self.wait]
        self.sent += passing
        refused = {a.row: Refusal("message_too_large", "9 bytes") for a in announcements if a.key in self.refuse}
        return Published([a.row for a in passing], refused)


def _item(key: str, timestamp: str = "2026-05-20T00:00:00Z", labels: tuple[str, ...] = (), **more: Any) -> Item:
    return Item(key, "market", "feed", timestamp, {"id": key, "text": 'é\n"quoted"', **more}, labels=labels)


class ItemStoreSuite:
    """`open(clock)` gives an empty store of the pipeline "market"."""

    def open(self, clock: Any) -> Any:
        raise NotImplementedError

    def _world(self) -> tuple[Any, Any]:
        clock = core.ManualClock(_NOW)
        return self.open(clock), clock

    def _put(self, store: Any, *items: Item) -> Any:
        return store.put_items(items, "market.items", {i.key: {"key": i.key} for i in items})

    def test_what_is_absent_is_stored_and_announced_once(self) -> None:
        store, _ = self._world()
        first = self._put(store, _item("a"), _item("b"), _item("a", text="another"))
        assert (first.new_keys, first.duplicates) == (("a", "b"), 1)
        second = self._put(store, _item("b", text="changed"), _item("c"))
        assert (second.new_keys, second.duplicates) == (("c",), 1)
        assert [d["id"] for d in store.documents(["c", "a", "none", "b"])] == ["c", "a", "b"]
        assert store.documents(["b"])[0]["text"] == 'é\n"quoted"'
        publisher = _Collecting()
        assert store.publish_outbox(publisher) == 3
        assert sorted((a.topic, a.key) for a in publisher.sent) == [("market.items", k) for k in "abc"]
        assert store.publish_outbox(publisher) == 0
        assert store.status_counts() == {"pending": 3}

    def test_nothing_is_stored_of_nothing(self) -> None:
        store, _ = self._world()
        assert self._put(store).new_keys == ()

    def test_more_than_a_batch(self) -> None:
        store, _ = self._world()
        items = [_item(f"k{i:04d}", labels=("A", "B")) for i in range(230)]
        assert len(self._put(store, *items).new_keys) == 230
        assert self._put(store, *items).duplicates == 230
        assert len(store.latest(["A"], 1000)) == 230

    def test_racing_writers_store_each_item_once(self) -> None:
        store, _ = self._world()
        items = [_item(f"k{i}") for i in range(40)]
        with ThreadPoolExecutor(4) as threads:
            taken = list(threads.map(lambda _: self._put(store, *items), range(4)))
        assert sorted(k for t in taken for k in t.new_keys) == sorted(i.key for i in items)
        assert sum(t.duplicates for t in taken) == 3 * 40

    def test_the_newest_by_label(self) -> None:
        store, _ = self._world()
        self._put(
            store, _item("a", "2026-05-20T00:00:00Z", ("X",)), _item("b", "2026-05-22T00:00:00Z", ("X", "Y", "X")),
            _item("c", "2026-05-21T00:00:00Z", ("Y",)), _item("d", "2026-05-19T00:00:00Z"),
        )  # fmt: skip
        assert [d["id"] for d in store.latest(["X"], 10)] == ["b", "a"]
        assert [d["id"] for d in store.latest(["X", "Y"], 10)] == ["b", "c", "a"]
        assert [d["id"] for d in store.latest([], 2)] == ["b", "c"]
        assert [d["id"] for d in store.latest(["X", "Y"], 1)] == ["b"]
        assert store.latest(["Z"], 10) == []

    def test_an_item_is_widened_and_its_announcement_while_it_waits(self) -> None:
        store, clock = self._world()
        item = _item("a", "2026-05-20T00:00:00Z", ("X",))
        self._put(store, item)
        assert store.documents_by_key(["a", "none"]) == {"a": item.doc}
        wide = {**item.doc, "more": 1}
        assert not store.widen_item("a", "market.items", {"id": "other"}, wide, ("X", "Y"), {"key": "a"})
        assert not store.widen_item("none", "market.items", item.doc, wide, ("X", "Y"), {"key": "none"})
        assert store.widen_item("a", "market.items", item.doc, wide, ("X", "Y"), {"key": "a", "n": 2})
        assert store.latest(["Y"], 5) == store.latest(["X"], 5) == [wide]
        publisher = _Collecting()
        assert store.publish_outbox(publisher) == 1
        assert json.loads(publisher.sent[0].body) == {"key": "a", "n": 2}
        clock.advance_us(1)
        assert store.widen_item("a", "market.items", wide, {**wide, "more": 2}, ("X", "Y", "Z"), {"key": "a", "n": 3})
        assert store.publish_outbox(publisher) == 0  # it was announced once
        assert store.latest(["Z"], 5) == [{**wide, "more": 2}]
        assert store.status_counts() == {"pending": 1}

    def test_an_announcement_that_did_not_arrive_stays(self) -> None:
        store, clock = self._world()
        store.publish("market.new_data", "e1", {"n": 1})
        clock.advance_us(1)
        store.publish("market.alerts", "e2", {"n": 2})
        assert store.publish_outbox(_Collecting(refuse=True)) == 0
        publisher = _Collecting()
        assert store.publish_outbox(publisher, limit=1) == 1
        assert store.publish_outbox(publisher, limit=1) == 1
        assert [(a.topic, a.key, a.body) for a in publisher.sent] == [
            ("market.new_data", "e1", '{"n":1}'), ("market.alerts", "e2", '{"n":2}'),
        ]  # fmt: skip

    def test_what_can_never_be_sent_is_set_aside_and_nothing_behind_it_waits(self) -> None:
        store, clock = self._world()
        self._put(store, _item("large"))
        clock.advance_us(1)
        for n in range(4):
            store.publish("market.alerts", f"e{n}", {"n": n})
            clock.advance_us(1)
        publisher = _Judging(refuse={"large", "e2"})
        assert store.publish_outbox(publisher, {}) == 3
        assert [a.key for a in publisher.sent] == ["e0", "e1", "e3"]
        assert (store.unsent_count(), store.publish_outbox(publisher)) == (0, 0)
        found = sorted(store.dead_letters(), key=lambda x: x["key"])
        assert [(x["stage"], x["source"], x["key"], x["kind"], x["reason"], x["doc"]) for x in found] == [
            ("outbox", "market.alerts", "e2", "message_too_large", "9 bytes", '{"n":2}'),
            ("outbox", "market.items", "large", "message_too_large", "9 bytes", '{"key":"large"}'),
        ]
        assert store.dead_letter_counts() == [
            {"stage": "outbox", "pipeline": "market", "kind": "message_too_large", "letters": 2, "seen": 2}
        ]
        assert store.status_counts() == {"pending": 1}  # the item itself is as it was

    def test_announcements_set_aside_go_back_once(self) -> None:
        store, clock = self._world()
        for _ in range(3):
            store.publish("market.alerts", "same", {"n": 1})
            clock.advance_us(1)
        assert store.publish_outbox(_Judging(refuse={"same"})) == 0
        assert len(store.dead_letters()) == 3  # equal ones are three
        assert (store.redrive_outbox(1), store.redrive_outbox(), store.redrive_outbox()) == (1, 2, 0)
        assert (store.dead_letters(), store.dead_letter_counts(), store.unsent_count()) == ([], [], 3)
        publisher = _Judging()
        assert store.publish_outbox(publisher) == 3
        assert [(a.topic, a.key, a.body) for a in publisher.sent] == [("market.alerts", "same", '{"n":1}')] * 3
        assert len({a.id for a in publisher.sent}) == 3

    def test_what_waits_is_not_overtaken_by_its_key_and_holds_up_no_other(self) -> None:
        store, clock = self._world()
        for n, key in enumerate(("a", "b", "a", "c", "b")):
            store.publish("market.alerts", key, {"n": n})
            clock.advance_us(1)
        failing = _Judging(wait={"a"})
        assert store.publish_outbox(failing, limit=2) + store.publish_outbox(failing, limit=2) == 3
        assert [a.body for a in failing.sent] == ['{"n":1}', '{"n":3}', '{"n":4}']
        assert store.unsent_count() == 2
        later = _Judging()
        assert store.publish_outbox(later) == 2
        assert [a.body for a in later.sent] == ['{"n":0}', '{"n":2}']

    def test_an_announcement_has_the_same_id_until_it_arrived(self) -> None:
        store, clock = self._world()
        store.publish("market.alerts", "a", {})
        clock.advance_us(1)
        store.publish("market.alerts", "a", {})
        first, second = _Judging(away=True), _Judging()
        assert (store.publish_outbox(first), store.publish_outbox(second)) == (0, 2)
        assert [a.id for a in first.offered] == [a.id for a in second.offered]
        assert len({a.id for a in second.offered}) == 2

    def test_dead_letters_keep_what_came_with_them_and_are_found_again(self) -> None:
        store, _ = self._world()
        full = DeadLetter(
            "consume", "billing", "orders", "attempts_exhausted", "ValueError: no", '{"n": 1}', "raw/1", "k\ud800",
            {"trace": "t"}, 5, "m-1",
        )  # fmt: skip
        store.add_dead_letters([full, DeadLetter("intake", "market", "feed", "no_headline", "blank", "{}")])
        assert store.dead_letters(kind="no_headline")[0]["key"] is None
        assert store.dead_letters(stage="intake", pipeline="billing") == []
        (found,) = store.dead_letters(stage="consume", pipeline="billing")
        wanted = ("reason", "key", "headers", "attempts", "message_id", "raw_key")
        assert [found[name] for name in wanted] == ["ValueError: no", "k\\ud800", {"trace": "t"}, 5, "m-1", "raw/1"]
        again = store.dead_letter(str(found["id"]))
        assert {name: again[name] for name in found} == found
        assert (again["redriven"], again["created_us"]) == (0, _NOW)
        assert (store.dead_letter("999"), store.dead_letter("nonsense")) == (None, None)

    def test_small_documents_and_their_swap(self) -> None:
        store, _ = self._world()
        for name in ("collector:market", "breaker:feed"):
            assert store.load_state(name) is None
            assert store.swap_state(name, None, {"v": 1, "x": [1.5, None]})
            assert not store.swap_state(name, None, {"v": 9})
            assert not store.swap_state(name, {"v": 0}, {"v": 9})
            assert store.swap_state(name, {"v": 1, "x": [1.5, None]}, {"v": 2})
            assert store.load_state(name) == {"v": 2}
            store.save_state(name, {"v": 3})
            assert store.load_state(name) == {"v": 3}

    def test_racing_swaps_lose_nothing(self) -> None:
        store, _ = self._world()

        def add(_: int) -> None:
            while True:
                before = store.load_state("n")
                if store.swap_state(
                    "n", before, {"n": (before or {"n": 0})["n"] + 1, "by": core.SystemRandom().token_hex()}
                ):
                    return

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(add, range(20)))
        assert store.load_state("n")["n"] == 20

    def test_events_come_in_their_order(self) -> None:
        store, _ = self._world()
        for n in range(5):
            store.add_collection_event(f"event-{n}", "market", _NOW + n * _SECOND, {"n": n})
        store.add_collection_event("other", "visits", _NOW, {"n": 99})
        assert [e["n"] for e in store.collection_events("market")] == [0, 1, 2, 3, 4]
        assert [e["n"] for e in store.collection_events("market", 2)] == [3, 4]
        assert store.collection_events("none", 1) == []

    def test_dead_letters_are_kept_once_and_any_text_goes(self) -> None:
        store, _ = self._world()
        letter = DeadLetter("intake", "market", "feed", "no_headline", "blank", '{"title": "\\ud800 \x00"}')
        for _ in range(3):
            store.add_dead_letters([letter, letter])
        (found,) = store.dead_letters(10)
        assert (found["stage"], found["source"], found["kind"], found["seen"]) == ("intake", "feed", "no_headline", 6)
        assert found["doc"] == letter.doc

    def test_stale_items_in_the_order_they_are_due(self) -> None:
        store, clock = self._world()
        for key in ("c", "a", "b"):
            self._put(store, _item(key))
        clock.advance_us(_SECOND)
        self._put(store, _item("d"))
        stale = store.stale_pending(_NOW, 10, None)
        assert [(s.key, s.attempts) for s in stale] == [("a", 0), ("b", 0), ("c", 0)]
        page = store.stale_pending(_NOW + _SECOND, 2, None)
        rest = store.stale_pending(_NOW + _SECOND, 10, (page[-1].due_us, page[-1].key))
        assert [s.key for s in [*page, *rest]] == ["a", "b", "c", "d"]

    def test_an_item_is_announced_again_only_as_it_was_read(self) -> None:
        store, clock = self._world()
        self._put(store, _item("a"))
        store.publish_outbox(_Collecting())
        clock.advance_us(10 * _SECOND)
        before = clock.now_us() - _SECOND
        assert store.republish("a", 1, before, "market.items", {}) is False  # another attempt count
        assert store.republish("a", 0, _NOW - 1, "market.items", {}) is False  # not due
        assert store.republish("a", 0, before, "market.items", {"again": True}) is True
        assert store.republish("a", 1, before, "market.items", {}) is False  # its cooldown began
        publisher = _Collecting()
        assert store.publish_outbox(publisher) == 1
        assert (publisher.sent[0].key, publisher.sent[0].body) == ("a", '{"again":true}')
        (full,) = store.full_items(["a", "none"])
        assert (full["republish_attempts"], full["status"], full["doc"]["id"]) == (1, "pending", "a")

    def test_a_quarantined_item_is_left_alone(self) -> None:
        store, clock = self._world()
        self._put(store, _item("a"))
        assert store.quarantine("a", 5) is False
        assert store.quarantine("a", 0) is True
        clock.advance_us(_SECOND)
        assert store.stale_pending(clock.now_us(), 10, None) == []
        assert store.full_items(["a"]) == []
        assert store.status_counts() == {"quarantined": 1}
        assert [d["id"] for d in store.latest([], 10)] == ["a"]

    def test_an_item_ends_once_and_is_swept_no_more(self) -> None:
        store, clock = self._world()
        self._put(store, _item("a"), _item("b"))
        assert (store.item_status("a"), store.item_status("none")) == ("pending", None)
        assert store.end_item("a", "done") is True
        assert store.end_item("a", "billed") is False
        assert store.end_item("none", "done") is False
        assert store.end_item("b", "billed", values={"sentiment": "neutral", "score": 0.5}) is True
        clock.advance_us(_SECOND)
        assert store.stale_pending(clock.now_us(), 10, None) == []
        assert store.republish("a", 0, clock.now_us(), "market.items", {}) is False
        assert store.status_counts() == {"billed": 1, "done": 1}

    def test_what_failed_is_listed_and_released(self) -> None:
        store, _ = self._world()
        self._put(store, _item("a"), _item("b"), _item("c"))
        assert store.end_item("a", "failed", "it will never do") is True
        assert store.quarantine("b", 0, "attempts_exhausted") is True
        found = {x["key"]: (x["status"], x["reason"]) for x in store.stuck_items(10)}
        assert found == {"a": ("failed", "it will never do"), "b": ("quarantined", "attempts_exhausted")}
        assert store.release_items(["a", "c", "none"]) == 1
        assert store.release_items() == 1
        assert store.stuck_items(10) == []
        store.publish_outbox(_Collecting())
        stale = store.stale_pending(_NOW - 1, 10, None)
        assert [(s.key, s.attempts) for s in stale] == [("a", 0), ("b", 0)]  # due at once
        assert store.end_item("a", "quarantined", "dead letter: x") is True
        assert store.end_item("a", "done") is True  # a redrive was handled

    def test_an_announcement_on_its_way_is_evidence(self) -> None:
        store, _ = self._world()
        self._put(store, _item("a"), _item("b"))
        assert [i["held_up"] for i in store.full_items(["a", "b"])] == ["outbox", "outbox"]
        assert sorted(since for _, since in store.unsent_before(_NOW, 10)) == [_NOW, _NOW]
        assert store.unsent_before(_NOW - 1, 10) == []
        assert store.pending_places(_NOW) == {"outbox": 2}
        store.publish_outbox(_Collecting())
        assert [i["held_up"] for i in store.full_items(["b", "a"])] == ["", ""]
        assert store.unsent_before(_NOW, 10) == []
        assert store.pending_places(_NOW) == {"stuck": 2}
        assert store.pending_places(_NOW - 1) == {"moving": 2}

    def test_an_attempt_without_an_announcement(self) -> None:
        store, clock = self._world()
        self._put(store, _item("a"))
        store.publish_outbox(_Collecting())
        clock.advance_us(_SECOND)
        assert store.count_attempt("a", 0, _NOW) is True
        assert store.count_attempt("a", 0, _NOW) is False
        assert store.publish_outbox(_Collecting()) == 0
        assert store.full_items(["a"])[0]["republish_attempts"] == 1
