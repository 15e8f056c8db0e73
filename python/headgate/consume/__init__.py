"""Consumers: take a message, claim it, run the handler, commit effect and completion together."""

from headgate.consume._worker import Consumer, ConsumeResult, Handler, Worker

__all__ = ["ConsumeResult", "Consumer", "Handler", "Worker"]
