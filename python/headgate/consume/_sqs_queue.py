"""Attributes of SQS queues, warnings that follow from them, and which errors of SQS are final."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from headgate.errors import AccessError, ConfigError, HeadgateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headgate.consume._consumer import Consumer
    from headgate.idempotency import Ledger

log = logging.getLogger("headgate.consume")
MAX_MESSAGE_BYTES = 1_048_576  # body and attributes; a queue may allow less
_NO_QUEUE = ("NonExistentQueue", "QueueDoesNotExist")
_DENIED = ("AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "UnrecognizedClientException")
_REFUSED = (
    "InvalidParameterValue", "InvalidMessageContents", "InvalidAttributeValue", "InvalidParameterCombination",
    "MissingParameter", "ReceiptHandleIsInvalid", "MessageNotInflight", "UnsupportedOperation",
)  # fmt: skip


def error_code(error: BaseException) -> str:
    """The code of a boto3 error without its namespace, or the exception's type."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    return str(code).rpartition("#")[2].rpartition(".")[2] or type(error).__name__


def is_refusal(error: BaseException) -> bool:
    """Whether SQS would refuse the same call again."""
    return error_code(error) in _REFUSED


def raise_if_final(error: Exception) -> None:
    """Raise what no waiting fixes.

    Raises:
        ConfigError: there is no such queue.
        AccessError: SQS refuses the credentials.
        HeadgateError: the error itself, if it is one of ours.
    """
    code = error_code(error)
    if code in _NO_QUEUE:
        message = "there is no such SQS queue"
        raise ConfigError(message) from None
    if code in _DENIED:
        message = f"SQS refuses: {code}"
        raise AccessError(message) from None
    if isinstance(error, HeadgateError):
        raise error


def read_attributes(client: Any, url: str) -> dict[str, str]:
    """A queue's attributes; empty where they cannot be read.

    Raises:
        ConfigError: there is no such queue.
    """
    ask = getattr(client, "get_queue_attributes", None)
    if ask is None:
        return {}
    try:
        return dict(ask(QueueUrl=url, AttributeNames=["All"])["Attributes"])
    except Exception as error:
        if error_code(error) in _NO_QUEUE:
            raise_if_final(error)
        log.warning("could not read the attributes of an SQS queue", extra={"error": error_code(error)})
        return {}


def max_receive_count(attributes: Mapping[str, str]) -> int | None:
    """After how many receives the queue itself moves a message to its dead-letter queue; None: never."""
    try:
        return int(json.loads(attributes.get("RedrivePolicy", "{}"))["maxReceiveCount"])
    except (ValueError, KeyError, TypeError):
        return None


def set_up_warnings(
    attributes: Mapping[str, str],
    dead_attributes: Mapping[str, str],
    consumer: Consumer,
    ledger: Ledger,
    *,
    buries: bool,
    timeout_s: float | None = None,
) -> list[str]:
    """What about queue, ledger and consumer weakens the guarantees, one sentence each.

    Args:
        attributes: of the queue; empty: not known.
        dead_attributes: of the worker's own dead-letter queue.
        consumer, ledger: what runs.
        buries: whether the worker sends dead letters itself.
        timeout_s: how long a Lambda invocation lasts at most.
    """  # fmt: skip
    if not attributes:
        return ledger.warnings()
    retention_s = float(attributes.get("MessageRetentionPeriod", 345_600))
    found = ledger.warnings(retention=retention_s)
    most = max_receive_count(attributes)
    if most is not None and most < consumer.max_attempts:
        found.append(
            f"the queue's redrive policy moves a message after {most} receives, fewer than max_attempts = "
            f"{consumer.max_attempts}: raise maxReceiveCount or lower max_attempts"
        )
    if most is None and not buries:
        found.append(
            f"the queue has no redrive policy and the consumer no dead-letter queue: a message that always fails comes "
            f"back for {retention_s:g} s and is then deleted by SQS"
        )
    room = int(dead_attributes.get("MaximumMessageSize", MAX_MESSAGE_BYTES))
    size = int(attributes.get("MaximumMessageSize", MAX_MESSAGE_BYTES))
    if dead_attributes and room < size:
        found.append(
            f"the dead-letter queue takes {room} bytes and the queue {size}: larger messages cannot become dead letters"
        )
    visibility_s = float(attributes.get("VisibilityTimeout", 30))
    if timeout_s is not None and visibility_s < timeout_s:
        found.append(
            f"the queue's visibility timeout of {visibility_s:g} s is shorter than the function's time-out of "
            f"{timeout_s:g} s: a message is delivered again while it is being handled"
        )
    return found
