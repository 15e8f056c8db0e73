"""dynamodb:getItem, putItem, updateItem and deleteItem on the embedded store.

Items are kept as DynamoDB writes them ({"id": {"S": "x"}}). Of update expressions SET (values, + and -, if_not_exists,
list_append), REMOVE and ADD of numbers are understood; of conditions attribute_exists, attribute_not_exists, = and <>,
joined by AND. Anything else is refused by name.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from headgate.workflow._attempts import TaskRequest
from headgate.workflow._json import to_text
from headgate.workflow._tasks import Port, TaskFailure

if TYPE_CHECKING:
    from headgate.ports import Json

Item = dict[str, Any]
_TABLE = """CREATE TABLE IF NOT EXISTS workflow_items (
    tbl TEXT NOT NULL, key TEXT NOT NULL, doc TEXT NOT NULL, PRIMARY KEY (tbl, key)
) WITHOUT ROWID"""
_KNOWN = {
    "getItem": {"TableName", "Key", "ConsistentRead"},
    "putItem": {
        "TableName", "Item", "ConditionExpression", "ReturnValues", "ExpressionAttributeNames",
        "ExpressionAttributeValues",
    },
    "updateItem": {
        "TableName", "Key", "UpdateExpression", "ConditionExpression", "ReturnValues", "ExpressionAttributeNames",
        "ExpressionAttributeValues",
    },
    "deleteItem": {
        "TableName", "Key", "ConditionExpression", "ReturnValues", "ExpressionAttributeNames",
        "ExpressionAttributeValues",
    },
}  # fmt: skip


class ItemTable:
    """Tables of items in a `LocalDatabase`.

    Args:
        database: the store.
        keys: table -> the names of its key attributes; a table that is not named here does not exist.
    """

    ACTIONS = ("getItem", "putItem", "updateItem", "deleteItem")

    def __init__(self, database: Any, keys: dict[str, tuple[str, ...]]) -> None:
        self._db = database
        self._keys = keys
        database.execute(_TABLE)

    def port(self, action: str) -> Port:
        """The port of an action."""

        def run(request: TaskRequest) -> Json:
            given = request.arguments if isinstance(request.arguments, dict) else {}
            unknown = sorted(set(given) - _KNOWN[action])
            if unknown:
                raise _invalid(f"state {request.state!r}: the local table does not support {', '.join(unknown)}")
            return self._run(action, given)

        return run

    def _run(self, action: str, given: Json) -> Json:
        table = str(given.get("TableName", ""))
        names = self._keys.get(table)
        if names is None:
            cause = (
                "Requested resource not found (Service: AmazonDynamoDBv2; Status Code: 400; Error Code:"
                " ResourceNotFoundException; Request ID: local; Proxy: null)"
            )
            raise TaskFailure("DynamoDB.ResourceNotFoundException", cause)
        source = given.get("Item" if action == "putItem" else "Key")
        if not isinstance(source, dict) or any(name not in source for name in names):
            raise _invalid(f"the key of table {table} has the attributes {', '.join(names)}; one is missing")
        key = to_text({name: source[name] for name in sorted(names)})
        with self._db.transaction() as tx:
            rows = tx.execute("SELECT doc FROM workflow_items WHERE tbl = ? AND key = ?", (table, key))
            old: Item | None = json.loads(rows[0][0]) if rows else None
            if action == "getItem":
                return {} if old is None else {"Item": old}
            expressions = _Expressions(given)
            if "ConditionExpression" in given and not expressions.holds(given["ConditionExpression"], old or {}):
                cause = "The conditional request failed (Service: AmazonDynamoDBv2; Status Code: 400)"
                raise TaskFailure("DynamoDB.ConditionalCheckFailedException", cause)
            new = self._changed(action, given, old, expressions)
            if new is None:
                tx.execute("DELETE FROM workflow_items WHERE tbl = ? AND key = ?", (table, key))
            else:
                tx.execute(
                    "INSERT INTO workflow_items (tbl, key, doc) VALUES (?, ?, ?)"
                    " ON CONFLICT (tbl, key) DO UPDATE SET doc = excluded.doc",
                    (table, key, to_text(new)),
                )
        shown = {"ALL_OLD": old, "ALL_NEW": new}.get(str(given.get("ReturnValues", "NONE")))
        return {"Attributes": shown} if shown else {}

    @staticmethod
    def _changed(action: str, given: Json, old: Item | None, expressions: _Expressions) -> Item | None:
        if action == "putItem":
            return dict(given["Item"])
        if action == "deleteItem":
            return None
        item = {**given["Key"], **(old or {})}
        if "UpdateExpression" in given:
            expressions.update(given["UpdateExpression"], item)
        return item


class _Expressions:
    """Update and condition expressions with their placeholders."""

    def __init__(self, given: Json) -> None:
        self._names = given.get("ExpressionAttributeNames", {})
        self._values = given.get("ExpressionAttributeValues", {})

    def holds(self, text: str, item: Item) -> bool:
        return all(self._condition(part.strip(), item) for part in re.split(r"\s+AND\s+", text, flags=re.IGNORECASE))

    def _condition(self, text: str, item: Item) -> bool:
        if found := re.fullmatch(r"attribute_(not_)?exists\s*\(\s*([#\w.-]+)\s*\)", text, re.IGNORECASE):
            return (self._name(found[2]) in item) is not bool(found[1])
        if found := re.fullmatch(r"([#\w-]+)\s*(=|<>)\s*(:\w+)", text):
            return (item.get(self._name(found[1])) == self._value(found[3])) is (found[2] == "=")
        raise _invalid(f"the local table does not support the condition {text!r}")

    def update(self, text: str, item: Item) -> None:
        """Apply an update expression to an item."""
        before = dict(item)
        clauses = re.split(r"\b(SET|REMOVE|ADD|DELETE)\b", text, flags=re.IGNORECASE)
        if clauses[0].strip():
            raise _invalid(f"the update expression {text!r} begins with no clause")
        for verb, body in zip(clauses[1::2], clauses[2::2], strict=True):
            for part in _commas(body):
                self._apply(verb.upper(), part, item, before)

    def _apply(self, verb: str, part: str, item: Item, before: Item) -> None:
        if verb == "SET":
            target, _, source = part.partition("=")
            attribute = self._name(target.strip())
            item[attribute] = self._operand(source.strip(), before)
        elif verb == "REMOVE":
            item.pop(self._name(part), None)
        elif verb == "ADD":
            name, value = part.split()
            old = before.get(self._name(name), {"N": "0"})
            item[self._name(name)] = _calculated(old, "+", self._value(value))
        else:
            raise _invalid(f"the local table does not support the clause {verb}")

    def _operand(self, text: str, item: Item) -> Any:
        if found := re.fullmatch(r"if_not_exists\s*\(\s*([#\w-]+)\s*,\s*(.+)\)", text, re.IGNORECASE):
            name = self._name(found[1])
            return item[name] if name in item else self._operand(found[2].strip(), item)
        if found := re.fullmatch(r"list_append\s*\((.+)\)", text, re.IGNORECASE):
            parts = [self._operand(part, item) for part in _commas(found[1])]
            return {"L": [entry for part in parts for entry in part["L"]]}
        if found := re.fullmatch(r"(.+?)\s*([+-])\s*(.+)", text):
            return _calculated(self._operand(found[1], item), found[2], self._operand(found[3], item))
        if text.startswith(":"):
            return self._value(text)
        name = self._name(text)
        if name not in item:
            raise _invalid(f"the attribute {name} of an update expression does not exist")
        return item[name]

    def _name(self, text: str) -> str:
        if "." in text or "[" in text:
            raise _invalid(f"the local table does not support the document path {text!r}")
        if text.startswith("#"):
            if text not in self._names:
                raise _invalid(f"ExpressionAttributeNames lacks {text}")
            return str(self._names[text])
        return text

    def _value(self, text: str) -> Any:
        if text not in self._values:
            raise _invalid(f"ExpressionAttributeValues lacks {text}")
        return self._values[text]


def _calculated(left: Any, sign: str, right: Any) -> Json:
    try:
        a, b = Decimal(left["N"]), Decimal(right["N"])
    except (KeyError, TypeError, InvalidOperation):
        raise _invalid("an operand of an update expression is no number") from None
    return {"N": f"{(a + b if sign == '+' else a - b).normalize():f}"}


def _commas(text: str) -> list[str]:
    """The parts between commas that stand in no parentheses."""
    return [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def _invalid(cause: str) -> TaskFailure:
    return TaskFailure("DynamoDB.AmazonDynamoDBException", cause)
