"""Lambda-style entry points: `handler(event, context)`, configured by headgate.toml and the environment."""

from headgate.handlers._checkpoint import checkpoint
from headgate.handlers._collect import handle_scheduled_collection, should_collect
from headgate.handlers._handlers import consume, upload
from headgate.handlers._heal import heal

collect = handle_scheduled_collection

__all__ = ["checkpoint", "collect", "consume", "handle_scheduled_collection", "heal", "should_collect", "upload"]
