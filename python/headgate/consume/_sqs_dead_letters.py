"""Dead-letter queues on SQS: sending dead letters, looking at them, and sending them back (redrive)."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from headgate._text import printable
from headgate.consume._sqs_messages import (
    Attributes,
    SqsDelivery,
    attributes_size,
    is_fifo,
    own_fields,
    parse_count,
    read_message,
    user_attributes,
    with_own_fields,
)
from headgate.consume._sqs_queue import MAX_MESSAGE_BYTES, error_code, is_refusal, raise_if_final, read_attributes
from headgate.errors import TransientError
from headgate.idempotency._options import check_count, check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from headgate.consume._messages import DeadLetterCause, Delivery

log = logging.getLogger("headgate.consume")
_MAX_REASON = 500
_MAX_BATCH = 10  # ReceiveMessage returns so many messages at most
_COUNTS = (
    "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed",
)  # fmt: skip
_LOOK_S = 300  # how long dead letters that are looked at stay invisible to others


class DeadLetterRefusedError(Exception):
    """The dead-letter queue can never accept this message, for example because it is too large."""


class SqsDeadLetterQueue:
    """Sends dead letters to an SQS queue: body, attributes and group as received, and ours beside them.

    The attribute `headgate-redrive` is already the number of the letter's next life, so that a dead letter that AWS's
    own redrive brings back unchanged is a message of its own and is handled once.
    """

    def __init__(self, client: Any, url: str, consumer: str, source_url: str) -> None:
        self.url = url
        # A standard queue with groups is a fair queue, and so is its dead-letter queue. The group of a FIFO queue goes
        # to a standard queue as an attribute, since not every service takes it there as the message's own.
        self._names_group = not is_fifo(url) and is_fifo(source_url)
        self._client = client
        self._consumer = consumer
        self.limit_bytes: int | None = None

    def __call__(self, delivery: Delivery, cause: DeadLetterCause, tx: Any) -> None:
        """Send one.

        Raises:
            TransientError: the queue cannot be reached.
            DeadLetterRefusedError: the queue refuses the message, however little is added to it.
        """
        dead_letter = cast("SqsDelivery", delivery)
        room = self._limit() - len(dead_letter.body.encode("utf-8", "surrogatepass"))
        refusal = f"{len(dead_letter.body.encode('utf-8', 'surrogatepass'))} bytes"
        for attributes in self._attribute_sets(dead_letter, cause):
            if attributes_size(attributes) > room:
                continue
            try:
                group = "" if self._names_group else dead_letter.group
                sending = _sending(dead_letter, attributes, self.url, _dead_letter_id(dead_letter), group)
                self._client.send_message(QueueUrl=self.url, **sending)
            except Exception as error:
                if not is_refusal(error):
                    message = f"the dead-letter queue did not take the message: {error_code(error)}"
                    raise TransientError(message) from None
                refusal = error_code(error)
                continue
            if "headgate-error" not in attributes and "headgate" not in attributes:
                about = {"consumer": self._consumer, "message_id": dead_letter.message_id, "kind": str(cause.kind)}
                log.warning("no room in the dead letter for its reason", extra=about)
            return
        message = f"the dead-letter queue refuses the message: {refusal}"
        raise DeadLetterRefusedError(message)

    def _attribute_sets(self, dead_letter: SqsDelivery, cause: DeadLetterCause) -> Iterator[Attributes]:
        """What goes beside the body, from everything to the user's attributes alone."""
        redrive = {"redrive": str(dead_letter.redrive + 1)}
        if dead_letter.group and self._names_group:
            redrive["group"] = dead_letter.group
        about = {
            **redrive, "error-kind": str(cause.kind), "error": printable(cause.reason)[:_MAX_REASON] or "-",
            "attempts": str(cause.attempts), "consumer": printable(self._consumer),
            "source-id": dead_letter.message_id or "-",
        }  # fmt: skip
        yield with_own_fields(dead_letter.attributes, about)
        yield with_own_fields(dead_letter.attributes, redrive)
        yield dead_letter.attributes

    def _limit(self) -> int:
        if self.limit_bytes is None:
            known = read_attributes(self._client, self.url)
            self.limit_bytes = int(known.get("MaximumMessageSize", MAX_MESSAGE_BYTES))
        return self.limit_bytes


@dataclass(frozen=True)
class SqsLetter:
    """A dead letter of an SQS queue, as `redrive_sqs` shows it to a filter.

    Attributes:
        body: as received.
        headers: name and bytes of its message attributes.
        message_id: of the dead letter itself.
        source_id: the message id that it had in its queue, or an empty text: SQS moved it there itself.
        error_kind, error, attempts, consumer: why it is a dead letter; empty and 0 where SQS moved it.
        redrive: the number of its next life.
        group: its MessageGroupId, or an empty text.
    """

    body: str
    headers: tuple[tuple[str, bytes], ...]
    message_id: str
    source_id: str = ""
    error_kind: str = ""
    error: str = ""
    attempts: int = 0
    consumer: str = ""
    redrive: int = 0
    group: str = ""

    @property
    def value(self) -> bytes:
        """The body as UTF-8."""
        return self.body.encode("utf-8", "surrogatepass")


def redrive_sqs(
    client: Any,
    dead_letter_url: str,
    queue_url: str,
    *,
    where: Callable[[SqsLetter], bool] | None = None,
    limit: int | None = None,
    wait_s: int = 1,
) -> int:
    """Send the dead letters of an SQS queue back to their queue. Returns how many.

    Each dead letter is sent and then deleted. Sent twice (a crash between the two, or manually) it is still handled
    once: it carries the number of its next life. Our attributes are taken off, `headgate-redrive` excepted; the body
        and the
    user's attributes go back as they are. In a FIFO queue of dead letters the dead letters of a group that follow one
    which `where` leaves stay as well, so that the group keeps its order.

    Args:
        client: a boto3 SQS client.
        dead_letter_url: where the dead letters are; also those that SQS's own redrive policy moved there.
        queue_url: where they go.
        where: which ones to send; default all.
        limit: at most so many.
        wait_s: ends when no dead letter came for so long, in seconds, 20 at most.

    Raises:
        ConfigError: an option is wrong, or one of the queues does not exist.
        AccessError: SQS refuses the credentials.
        TransientError: a dead letter could not be sent; it stays, and those before it are sent.

    Example:
        >>> redrive_sqs(boto3.client("sqs"), dead_url, url,                             # doctest: +SKIP
        ...             where=lambda letter: letter.error_kind == "attempts_exhausted")
        17
    """  # fmt: skip
    for name, url in (("dead_letter_url", dead_letter_url), ("queue_url", queue_url)):
        check_name(f"redrive_sqs: {name}", url)
    if limit is not None:
        check_count("redrive_sqs: limit", limit, 0)
    sent = 0
    held: dict[str, str] = {}  # message id -> receipt, of dead letters that stay
    blocked: set[str] = set()
    ordered = is_fifo(dead_letter_url)
    try:
        while limit is None or sent < limit:
            found = _receive(client, dead_letter_url, _MAX_BATCH if limit is None else limit - sent, wait_s)
            fresh = [message for message in found if message["MessageId"] not in held]
            held.update({message["MessageId"]: message["ReceiptHandle"] for message in found})
            if not found:
                break
            for message in fresh:
                delivery = read_message("", message)
                group = delivery.group
                if (ordered and group in blocked) or (where is not None and not where(_dead_letter(delivery, message))):
                    blocked.add(group)
                    continue
                _send_back(client, queue_url, delivery, message)
                sent += 1
                if _delete(client, dead_letter_url, message):
                    del held[message["MessageId"]]
    finally:
        _make_visible(client, dead_letter_url, held)
    return sent


def read_letters_sqs(client: Any, dead_letter_url: str, *, limit: int = 100, wait_s: int = 1) -> list[SqsLetter]:
    """Look at the dead letters of an SQS queue and leave them there.

    SQS counts the look as a receive, and the dead letters are invisible to others until it ends.

    Args:
        client: a boto3 SQS client.
        dead_letter_url: the queue.
        limit: at most so many.
        wait_s: ends when no dead letter came for so long, in seconds, 20 at most.

    Raises:
        ConfigError: an option is wrong, or there is no such queue.
        AccessError: SQS refuses the credentials.
        TransientError: SQS cannot be reached.
    """
    check_name("read_letters_sqs: dead_letter_url", dead_letter_url)
    check_count("read_letters_sqs: limit", limit, 0)
    held: dict[str, str] = {}
    dead_letters: list[SqsLetter] = []
    try:
        while len(dead_letters) < limit:
            found = _receive(client, dead_letter_url, limit - len(dead_letters), wait_s)
            fresh = [message for message in found if message["MessageId"] not in held]
            held.update({message["MessageId"]: message["ReceiptHandle"] for message in found})
            if not found:
                break
            dead_letters += [_dead_letter(read_message("", message), message) for message in fresh]
    finally:
        _make_visible(client, dead_letter_url, held)
    return dead_letters


def count_letters_sqs(client: Any, dead_letter_url: str) -> int:
    """How many messages a queue holds by SQS's own count, those that somebody looks at included.

    Args:
        client: a boto3 SQS client.
        dead_letter_url: the queue.

    Raises:
        ConfigError: there is no such queue.
        AccessError: SQS refuses the credentials, or the look.
        TransientError: SQS cannot be reached.
    """
    try:
        answer = client.get_queue_attributes(QueueUrl=dead_letter_url, AttributeNames=list(_COUNTS))
    except Exception as error:
        raise_if_final(error)
        message = f"SQS cannot be reached: {error_code(error)}"
        raise TransientError(message) from None
    return sum(int(answer["Attributes"].get(name, 0)) for name in _COUNTS)


def dead_letter_url_of(client: Any, queue_url: str) -> str:
    """The queue to which a queue's own redrive policy moves messages; an empty text: it has none.

    Raises:
        ConfigError: there is no such queue.
        AccessError: SQS refuses the credentials, or the look.
        TransientError: SQS cannot be reached.
    """
    try:
        found = client.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["RedrivePolicy"])
        policy = json.loads(found.get("Attributes", {}).get("RedrivePolicy", "{}"))
        account, _, name = policy.get("deadLetterTargetArn", "").rpartition(":")
        if not name:
            return ""
        return str(client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account.rpartition(":")[2])["QueueUrl"])
    except Exception as error:
        raise_if_final(error)
        message = f"SQS cannot be reached: {error_code(error)}"
        raise TransientError(message) from None


def _dead_letter(delivery: SqsDelivery, message: Mapping[str, Any]) -> SqsLetter:
    ours = own_fields(message.get("MessageAttributes") or {})
    headers = tuple((name, value or b"") for name, value in delivery.headers if name in delivery.attributes)
    return SqsLetter(
        delivery.body, headers, delivery.message_id, ours.get("source-id", ""), ours.get("error-kind", ""),
        ours.get("error", ""), parse_count(ours.get("attempts", "")) or 0, ours.get("consumer", ""),
        _next_life(ours), delivery.group or ours.get("group", ""),
    )  # fmt: skip


def _next_life(ours: Mapping[str, str]) -> int:
    """Dead letters of release 0.1 say why they are dead letters, and not which life comes next."""
    return parse_count(ours.get("redrive", "")) or (1 if "error-kind" in ours else 0)


def _send_back(client: Any, url: str, delivery: SqsDelivery, message: Mapping[str, Any]) -> None:
    ours = own_fields(message.get("MessageAttributes") or {})
    life = _next_life(ours)
    user = user_attributes(delivery.attributes)
    attributes = with_own_fields(user, {"redrive": str(life)}) if life else user
    group = delivery.group or ours.get("group", "")
    group = group if delivery.group or is_fifo(url) else ""
    digest = hashlib.sha256(f"{delivery.message_id}#{life}".encode()).hexdigest()
    try:
        client.send_message(QueueUrl=url, **_sending(delivery, attributes, url, digest, group))
    except Exception as error:
        raise_if_final(error)
        message_text = f"SQS did not take a dead letter back: {error_code(error)}"
        raise TransientError(message_text) from None


def _delete(client: Any, url: str, message: Mapping[str, Any]) -> bool:
    try:
        client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    except Exception as error:
        # It may be sent again, as the same life: it is handled once.
        log.warning("a dead letter was sent and not deleted", extra={"error": error_code(error)})
        return False
    return True


def _receive(client: Any, url: str, most: int, wait_s: int) -> list[Any]:
    try:
        answer = client.receive_message(
            QueueUrl=url, MaxNumberOfMessages=min(_MAX_BATCH, most), WaitTimeSeconds=wait_s, VisibilityTimeout=_LOOK_S,
            MessageAttributeNames=["All"], AttributeNames=["All"],
        )  # fmt: skip
    except Exception as error:
        raise_if_final(error)
        message = f"SQS cannot be reached: {error_code(error)}"
        raise TransientError(message) from None
    return list(answer.get("Messages", ()))


def _make_visible(client: Any, url: str, held: Mapping[str, str]) -> None:
    for receipt in held.values():
        try:
            client.change_message_visibility(QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=0)
        except Exception as error:
            log.warning("a dead letter stays invisible", extra={"error": error_code(error), "seconds": _LOOK_S})


def _dead_letter_id(dead_letter: SqsDelivery) -> str:
    """The same for the same message, so that a FIFO queue keeps a dead letter that is sent twice once."""
    known = f"{dead_letter.message_id or dead_letter.body}#{dead_letter.redrive}"
    return hashlib.sha256(known.encode("utf-8", "surrogatepass")).hexdigest()


def _sending(dead_letter: SqsDelivery, attributes: Attributes, url: str, digest: str, group: str) -> dict[str, Any]:
    """The parameters of SendMessage: body and attributes, the trace, and what the target's type wants."""
    sending: dict[str, Any] = {"MessageBody": dead_letter.body, "MessageAttributes": attributes}
    if dead_letter.trace:
        sending["MessageSystemAttributes"] = {
            "AWSTraceHeader": {"DataType": "String", "StringValue": dead_letter.trace}
        }
    if is_fifo(url):
        # Without a group of its own, a message of a standard queue is a group by itself: it waits for no other.
        sending |= {"MessageGroupId": group or dead_letter.message_id or digest, "MessageDeduplicationId": digest}
    elif group:
        sending["MessageGroupId"] = group
    return sending
