"""A consumer to start from: it scores a headline with a small word list and finishes the item.

The word list is a stand-in with an honest name, not a model: swap the handler in headgate.toml for your own. What
matters here is the shape: the effect is one conditional update on the transaction that also completes the claim.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from headgate.pipelines.market.sentiment import label_of

if TYPE_CHECKING:
    from headgate.ports import Json, Transaction

MODEL_VERSION = "wordlist-1"
_UP = frozenset(
    [
        "beat",
        "beats",
        "gain",
        "gains",
        "grow",
        "grows",
        "growth",
        "jump",
        "jumps",
        "profit",
        "profits",
        "rally",
        "record",
        "rise",
        "rises",
        "soar",
        "soars",
        "strong",
        "stronger",
        "surge",
        "surges",
        "top",
        "tops",
        "up",
        "upgrade",
        "upgraded",
        "win",
        "wins",
    ]
)
_DOWN = frozenset(
    [
        "cut",
        "cuts",
        "decline",
        "declines",
        "down",
        "downgrade",
        "downgraded",
        "drop",
        "drops",
        "fall",
        "falls",
        "fear",
        "fears",
        "lawsuit",
        "lose",
        "loses",
        "loss",
        "losses",
        "miss",
        "misses",
        "plunge",
        "plunges",
        "risk",
        "risks",
        "sell",
        "slump",
        "slumps",
        "weak",
        "weaker",
        "worst",
    ]
)
_WORD = re.compile(r"[a-z]+")


def score_text(text: str) -> float:
    """(up - down) / (up + down) words, 0 without any; -1 to 1."""
    words = _WORD.findall(text.lower())
    up, down = sum(w in _UP for w in words), sum(w in _DOWN for w in words)
    return (up - down) / (up + down) if up + down else 0.0


def business_key(body: Json) -> str:
    """One analysis per item, however often it is announced; not the source's id, which may stand for two texts."""
    return str(body["key"])


def analyse(body: Json, tx: Transaction) -> Json:
    """Score an item and mark it analyzed; `analyses` counts the effects, so that a second one would show."""
    score = score_text(body["text_for_analysis"])
    label = label_of(score)
    changed = tx.changes(
        "UPDATE items SET status = 'analyzed', sentiment = ?, score = ?, model_version = ?, analyses = analyses + 1"
        " WHERE key = ?",
        (label, score, MODEL_VERSION, body["key"]),
    )
    return {"label": label, "changed": changed}
