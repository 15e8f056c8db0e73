"""`App`: all objects that one configuration describes."""

from __future__ import annotations

from headgate.wiring.healing import Healing
from headgate.wiring.sources import Sources


class App(Sources, Healing):
    """All objects that one configuration describes. Each is opened when it is first used.

    The methods are in the modules of this package: `stores`, `alerts`, `sources`, `consumers`, `jobs` and `healing`.

    Args:
        config: see `headgate.config.load`.
        user_agent: how this process names itself to the sources that it asks.
        extra_groups: (group, topic) of the consumers that `headgate serve` adds.
        longest_delay_us: longest time from storage to delivery that this app has relayed.

    Example:
        >>> from headgate.config import load
        >>> app = App(load("headgate.toml"))                        # doctest: +SKIP
        >>> app.collect().status                                    # doctest: +SKIP
        'ok'
    """
