"""DynamoDB's own form of documents, and the expressions that write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.errors import InvalidInputError

if TYPE_CHECKING:
    from headgate.ports import Json

_DAY_S = 86_400


def expiry(from_us: int, days: int) -> int:
    """TTL, epoch seconds."""
    return from_us // 1_000_000 + days * _DAY_S


def assignments(values: Json, form: str = "{value}") -> tuple[str, Json, Json]:
    """What follows SET, with its names and values; every name goes through a placeholder."""
    sets = ", ".join(f"#a{i} = " + form.format(name=f"#a{i}", value=f":a{i}") for i in range(len(values)))
    names = {f"#a{i}": name for i, name in enumerate(values)}
    return sets, names, {f":a{i}": value for i, value in enumerate(values.values())}


def encoded(doc: Json) -> Json:
    """The service's own form of texts, numbers, truth values and lists of texts: all that is kept outside JSON texts.

    Raises:
        InvalidInputError: a value of another kind.
    """
    out: Json = {}
    for name, value in doc.items():
        if isinstance(value, str):
            out[name] = {"S": value}
        elif isinstance(value, list):
            out[name] = {"L": [{"S": v} for v in value]}
        elif isinstance(value, bool):
            out[name] = {"BOOL": value}
        elif isinstance(value, int | float):
            out[name] = {"N": str(value)}
        else:
            message = f"{name.lstrip(':')}: expected a text, a number, a truth value or a list of texts, got a "
            raise InvalidInputError(message + type(value).__name__)
    return out


def decoded(item: Json) -> Json:
    out: Json = {}
    for name, typed in item.items():
        if "N" in typed:
            number = typed["N"]
            out[name] = int(number) if number.lstrip("-").isdigit() else float(number)
        else:
            out[name] = [v["S"] for v in typed["L"]] if "L" in typed else typed.get("S", typed.get("BOOL"))
    return out
