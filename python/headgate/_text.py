"""Text for eyes: what a stranger wrote, without what controls a terminal or a log."""

from __future__ import annotations

import json
from typing import Any


def printable(text: str) -> str:
    """The text with surrogates and control characters escaped, so that every store and terminal can take it.

    Example:
        >>> printable("a\\nb")
        'a\\\\nb'
    """
    if text.isprintable():
        return text
    shown = (c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return "".join(shown).encode("utf-8", "backslashreplace").decode()


def json_text(value: Any) -> str:
    """A value as indented JSON that a person reads: letters as they are, what controls a terminal escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
