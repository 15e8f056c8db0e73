"""Turns a configuration into working objects. Backends are chosen by URL here and connected to the engine."""

from headgate.backends.exports import export_items
from headgate.wiring.app import App
from headgate.wiring.embedded import consume_items, open_intake
from headgate.wiring.references import split_url

__all__ = ["App", "consume_items", "export_items", "open_intake", "split_url"]
