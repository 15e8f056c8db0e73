"""Lambda-style entry points: `handler(event, context)`, configured by headgate.toml and the environment."""

from headgate.handlers._checkpoint import checkpoint
from headgate.handlers._handlers import collect, consume, heal, upload

__all__ = ["checkpoint", "collect", "consume", "heal", "upload"]
