"""Consumers: take a message, claim it, run the handler, commit effect and completion together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.consume._process import (
    Burial,
    Consumer,
    ConsumeResult,
    Delivery,
    Handler,
    Outcome,
    Processor,
    Verdict,
)
from headgate.consume._worker import Worker

if TYPE_CHECKING:
    from headgate.consume._inspect import dead_letter, dead_letter_counts, dead_letters
    from headgate.consume._kafka import KafkaWorker
    from headgate.consume._letters import DeadMessage, redrive
    from headgate.consume._sqs import SqsWorker, sqs_batch, sqs_handler

__all__ = [
    "Burial", "ConsumeResult", "Consumer", "DeadMessage", "Delivery", "Handler", "KafkaWorker", "Outcome", "Processor",
    "SqsWorker", "Verdict", "Worker", "dead_letter", "dead_letter_counts", "dead_letters", "redrive", "sqs_batch",
    "sqs_handler",
]  # fmt: skip
_LAZY = {
    "KafkaWorker": "_kafka", "DeadMessage": "_letters", "redrive": "_letters", "SqsWorker": "_sqs",
    "sqs_batch": "_sqs", "sqs_handler": "_sqs", "dead_letter": "_inspect", "dead_letter_counts": "_inspect",
    "dead_letters": "_inspect",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"headgate.consume.{_LAZY[name]}"), name)
    message = f"module 'headgate.consume' has no attribute {name!r}"
    raise AttributeError(message)
