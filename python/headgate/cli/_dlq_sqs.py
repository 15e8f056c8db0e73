"""`headgate dlq` for consumers whose queue is SQS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.errors import ConfigError

if TYPE_CHECKING:
    from headgate.consume import SqsLetter
    from headgate.wiring import App


def dlq_sqs(app: App, action: str, name: str, limit: int | None = 100, message_id: str = "") -> Any:
    """List, show or redrive the dead letters of a configured consumer on SQS.

    Args:
        app: the configuration's parts.
        action: "list" (without bodies: they may hold anything, and a terminal's history is no place for them), "show"
            (one letter with its body and attributes) or "redrive".
        name: the consumer's.
        limit: at most so many letters; None: all. A list without a limit ends at 10,000.
        message_id: for "show": the letter's, as the list says it.

    Returns:
        What to print: a list of objects, one object, or {consumer: how many went back}.

    Raises:
        ConfigError: there is no such consumer, its queue is not on SQS, its dead-letter queue is not configured, or
            there is no such letter.
        TransientError: SQS cannot be reached.
    """
    from headgate.backends.publish import sqs_client
    from headgate.consume import read_letters_sqs, redrive_sqs
    from headgate.wiring import split_url

    where = f"consumers.{name}"
    consumer = app.consumer_config(name)
    if not is_sqs(consumer.queue):
        message = f"{where}.queue: expected sqs://queue-url for dead letters on SQS, got {consumer.queue!r}"
        raise ConfigError(message)
    _, place, settings = split_url(consumer.queue)
    client, url = sqs_client(place, settings)
    if not consumer.dead_letters:
        message = (
            f"{where}.dead_letters: missing, so that the queue's own redrive policy keeps the dead letters; set it to "
            'the URL of that dead-letter queue, or use "Start DLQ redrive" in the console of SQS'
        )
        raise ConfigError(message)
    if action == "redrive":
        return {name: redrive_sqs(client, consumer.dead_letters, url, limit=limit)}
    letters = read_letters_sqs(client, consumer.dead_letters, limit=10_000 if limit is None else limit)
    if action == "list":
        return [_summary(letter) for letter in letters]
    for letter in letters:
        if letter.message_id == message_id:
            headers = {header: value.decode("utf-8", "backslashreplace") for header, value in letter.headers}
            return {**_summary(letter), "body": letter.body, "headers": headers, "group": letter.group}
    message = f"dlq show: there is no letter {message_id!r} among the first {len(letters)} of {name}"
    raise ConfigError(message)


def count_letters(app: App, name: str) -> tuple[str, int]:
    """The dead-letter queue of a consumer on SQS, the configured one or that of its queue's own redrive policy, and
    how many messages it holds. An empty URL: there is no such queue, so that none is lost sight of and none is counted.

    Raises:
        ConfigError, AccessError, TransientError: as `headgate.consume.read_letters_sqs`.
    """
    from headgate.backends.publish import sqs_client
    from headgate.consume._sqs_dead_letters import count_letters_sqs, dead_letter_url_of
    from headgate.wiring import split_url

    consumer = app.consumer_config(name)
    _, place, settings = split_url(consumer.queue)
    client, url = sqs_client(place, settings)
    letters = consumer.dead_letters or dead_letter_url_of(client, url)
    return (letters, count_letters_sqs(client, letters)) if letters else ("", 0)


def is_sqs(queue: str) -> bool:
    """Whether a consumer's configured queue is one of SQS."""
    return queue.startswith("sqs://")


def _summary(letter: SqsLetter) -> dict[str, Any]:
    return {
        "message_id": letter.message_id, "consumer": letter.consumer, "kind": letter.error_kind, "reason": letter.error,
        "attempts": letter.attempts, "source_id": letter.source_id, "redrive": letter.redrive,
        "bytes": len(letter.value),
    }  # fmt: skip
