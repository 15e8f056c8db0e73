"""What an execution environment keeps from one invocation to the next."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from headgate.backends._aws_clients import kept_clients

if TYPE_CHECKING:
    from collections.abc import Callable


def keeps_clients(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose boto3 clients stay open for the next invocation in the same process, as long as the variables
    and files that boto3 reads are the same."""

    @functools.wraps(handler, updated=())
    def handle(event: Any, context: Any = None) -> Any:
        with kept_clients(os.environ):
            return handler(event, context)

    return handle
