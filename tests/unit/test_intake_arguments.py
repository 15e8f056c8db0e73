"""What is handed to the front door and to an item's end: bytes, JSON and whole texts, or one sentence."""

from __future__ import annotations

import json

import pytest

from headgate import items
from headgate.errors import InvalidInputError
from headgate.intake import Intake
from headgate.pipelines.market import PIPELINE, TiingoSource

HALF = "\ud800"


@pytest.fixture
def intake(store, objects, clock):
    return Intake(PIPELINE, store, objects, clock, {"tiingo": TiingoSource()})


def test_a_body_is_bytes_and_its_context_json(intake, store):
    for body in ("[]", None, [1], 5):
        with pytest.raises(InvalidInputError, match="body: got .*; expected the bytes"):
            intake.accept("tiingo", body)
    for context in ("x", [1], {"x": {1}}, {"x": float("nan")}):
        with pytest.raises(InvalidInputError, match="context: got"):
            intake.accept("tiingo", b"[]", context)
    assert store.collection_events("market", 9) == []
    body = json.dumps([{"id": 1, "title": "T", "publishedDate": "2026-01-01T00:00:00Z", "tickers": ["a"]}]).encode()
    for given in (body, bytearray(body), memoryview(body)):
        assert intake.accept("tiingo", given, {"batch": 1}).taken == 1


class Store:
    def __init__(self):
        self.ended = []

    def end_item(self, key, status, reason, values):
        self.ended.append((key, status, reason))
        return True


def test_an_item_ends_with_texts_that_can_be_stored():
    store = Store()
    with items.use(store):
        assert items.fail("k", "bad " + HALF)  # it ended the handler with an error of the core
        with pytest.raises(InvalidInputError, match="finish: sentiment holds half a surrogate pair"):
            items.finish("k", sentiment=HALF)
        for status in (None, 5, HALF):
            with pytest.raises(InvalidInputError, match="is no final status"):
                items.finish("k", status)
    assert store.ended == [("k", "failed", "bad \\ud800")]
