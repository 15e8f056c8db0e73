"""Consumers: take a message, claim it, run the handler, commit effect and completion together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.consume._messages import current_delivery
from headgate.consume._process import (
    Consumer,
    ConsumeResult,
    DeadLetterCause,
    DeadLetterSink,
    Delivery,
    DeliveryResult,
    Handler,
    Outcome,
    Processor,
)
from headgate.consume._worker import Worker

if TYPE_CHECKING:
    from headgate.consume._dead_letters import DeadMessage
    from headgate.consume._inspect import dead_letter, dead_letter_counts, dead_letters
    from headgate.consume._kafka import KafkaWorker
    from headgate.consume._kafka_lambda import kafka_batch, kafka_handler
    from headgate.consume._redrive import redrive
    from headgate.consume._sqs_dead_letters import SqsLetter, read_letters_sqs, redrive_sqs
    from headgate.consume._sqs_lambda import sqs_batch, sqs_handler
    from headgate.consume._sqs_worker import SqsWorker
    from headgate.consume._streams import dynamodb_stream_batch, dynamodb_stream_handler, kinesis_batch, kinesis_handler

__all__ = [
    "ConsumeResult", "Consumer", "DeadLetterCause", "DeadLetterSink", "DeadMessage", "Delivery", "DeliveryResult",
    "Handler", "KafkaWorker", "Outcome", "Processor", "SqsLetter", "SqsWorker", "Worker", "current_delivery",
    "dead_letter", "dead_letter_counts", "dead_letters", "dynamodb_stream_batch", "dynamodb_stream_handler",
    "kafka_batch", "kafka_handler", "kinesis_batch", "kinesis_handler", "read_letters_sqs", "redrive", "redrive_sqs",
    "sqs_batch", "sqs_handler",
]  # fmt: skip
# Names that are imported when they are first used, because their modules need more than the embedded queue does.
_LAZY = {
    "KafkaWorker": "_kafka", "DeadMessage": "_dead_letters", "redrive": "_redrive", "SqsLetter": "_sqs_dead_letters",
    "SqsWorker": "_sqs_worker", "read_letters_sqs": "_sqs_dead_letters", "redrive_sqs": "_sqs_dead_letters",
    "sqs_batch": "_sqs_lambda", "sqs_handler": "_sqs_lambda", "kinesis_batch": "_streams",
    "kinesis_handler": "_streams", "dynamodb_stream_batch": "_streams", "dynamodb_stream_handler": "_streams",
    "kafka_batch": "_kafka_lambda", "kafka_handler": "_kafka_lambda", "dead_letter": "_inspect",
    "dead_letter_counts": "_inspect", "dead_letters": "_inspect",
}  # fmt: skip
# Earlier names, kept for one release.
_RENAMED = {"Burial": "DeadLetterCause", "Verdict": "DeliveryResult"}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        import warnings

        new = _RENAMED[name]
        warnings.warn(f"headgate.consume.{name} is now called {new}", DeprecationWarning, stacklevel=2)
        return globals()[new]
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"headgate.consume.{_LAZY[name]}"), name)
    message = f"module 'headgate.consume' has no attribute {name!r}"
    raise AttributeError(message)
