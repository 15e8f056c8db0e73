"""`headgate serve`: HTTP intake, consumers, sweeps and time-outs from one process."""

from headgate.serve._http import IntakeLimits, IntakeServer
from headgate.serve._loop import Service

__all__ = ["IntakeLimits", "IntakeServer", "Service"]
