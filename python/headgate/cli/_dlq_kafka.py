"""`headgate dlq` for consumers whose queue is a Kafka topic: their dead letters lie in another topic.

Lists show nothing that a message brought along: bodies, keys, headers and reasons may hold anything. `show_letter`
gives one letter whole, on request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from headgate.consume._dead_letters import OWN_HEADERS
from headgate.consume._redrive import LetterReader
from headgate.consume._redrive import redrive as send_back
from headgate.errors import NotFoundError

if TYPE_CHECKING:
    from headgate.config import ConsumerConfig
    from headgate.consume._dead_letters import DeadMessage
    from headgate.ports import Json
    from headgate.wiring import App

_MOST_DIGITS = 19  # of a partition or an offset
_TIMEOUT_S = 10.0


def list_letters(app: App, name: str, config: ConsumerConfig, *, limit: int = 100) -> list[Json]:
    """A consumer's dead letters, those of each partition oldest first, without what the messages held.

    Args:
        app: not used; a letter is found by its consumer's settings alone.
        name: the consumer. Letters of others in the same topic are left out.
        config: its settings.
        limit: at most so many.

    Raises:
        ConfigError: there is no such topic.
        TransientError: the brokers do not answer.
    """
    reader = LetterReader(_settings(config), _topic(config), _TIMEOUT_S)
    found: list[Json] = []
    try:
        for letter in reader.dead_letters(from_start=True):
            if letter.consumer in {"", name}:
                found.append(_redacted(letter))
            if len(found) == limit:
                break
    finally:
        reader.close()
    return found


def count_letters(app: App, name: str, config: ConsumerConfig) -> dict[str, int]:
    """A consumer's dead letters that `headgate dlq redrive` has not sent back, by kind.

    Args:
        app: not used.
        name: the consumer. Letters of others in the same topic are left out.
        config: its settings.

    Raises:
        ConfigError: there is no such topic.
        AccessError: the broker refuses the credentials.
        TransientError: the brokers do not answer.
    """
    reader = LetterReader(_settings(config), _topic(config), _TIMEOUT_S, _group(name, config))
    counts: dict[str, int] = {}
    try:
        for letter in reader.dead_letters(from_start=False):
            if letter.consumer in {"", name}:
                counts[letter.error_kind] = counts.get(letter.error_kind, 0) + 1
    finally:
        reader.close()
    return counts


def show_letter(app: App, name: str, config: ConsumerConfig, ident: str) -> Json:
    """One dead letter with all that is known of it: reason, key, headers, and the body as text.

    Args:
        app: not used.
        name: the consumer.
        config: its settings.
        ident: the letter's id in a list: its partition and offset in the dead-letter topic, as "0-17".

    Returns:
        What a list shows, and reason, key, headers, timestamp_ms, body. A body that is not UTF-8 has its other bytes
        escaped; that of a tombstone is None.

    Raises:
        NotFoundError: there is no such letter.
        ConfigError: there is no such topic.
        TransientError: the brokers do not answer.
    """
    partition, _, offset = ident.removeprefix(f"{_topic(config)}-").partition("-")
    letter = None
    if all(number.isascii() and number.isdecimal() and len(number) < _MOST_DIGITS for number in (partition, offset)):
        reader = LetterReader(_settings(config), _topic(config), _TIMEOUT_S)
        try:
            letter = reader.letter_at(int(partition), int(offset))
        finally:
            reader.close()
    if letter is None or letter.consumer not in {"", name}:
        message = f"there is no dead letter {ident} of consumer {name}; `headgate dlq list {name}` shows their ids"
        raise NotFoundError(message)
    headers = [[header, _text(value)] for header, value in letter.headers if header not in OWN_HEADERS]
    return {
        **_redacted(letter), "reason": letter.error, "key": _text(letter.key), "headers": headers,
        "timestamp_ms": letter.timestamp_ms, "body": _text(letter.value),
    }  # fmt: skip


def redrive(app: App, name: str, config: ConsumerConfig, *, limit: int | None = None, dry_run: bool = False) -> int:
    """Send a consumer's dead letters back to the topic they came from; how many.

    Args:
        app: not used.
        name: the consumer. Letters of others in the same topic stay; see `headgate.consume.redrive`.
        config: its settings.
        limit: at most so many.
        dry_run: only count.

    Raises:
        ConfigError: there is no such topic.
        TransientError: the brokers do not answer.
    """
    return send_back(
        _settings(config), _topic(config), where=lambda letter: letter.consumer in {"", name}, limit=limit,
        dry_run=dry_run, topic=config.topic, group=_group(name, config),
    )  # fmt: skip


def _redacted(letter: DeadMessage) -> Json:
    return {
        "id": letter.place.removeprefix(f"{letter.dead_letter_topic}-"), "stage": "consume",
        "pipeline": letter.consumer, "source": letter.topic, "kind": letter.error_kind, "attempts": letter.attempts,
        "message_id": letter.message_id, "redrive": letter.redrive, "size_bytes": len(letter.value or b""),
    }  # fmt: skip


def _topic(config: ConsumerConfig) -> str:
    return config.dead_letters or f"{config.topic}.DLQ"


def _group(name: str, config: ConsumerConfig) -> str:
    """The consumer group that remembers which letters were sent back."""
    return f"headgate-redrive-{_topic(config)}-{name}"


def _settings(config: ConsumerConfig) -> dict[str, Any]:
    """The settings that the consumer's worker has; see `App.worker`."""
    _, _, rest = config.queue.partition("://")
    place, _, query = rest.partition("?")
    return {"bootstrap.servers": place.strip("/"), **dict(parse_qsl(query))}


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")
