"""`headgate serve`: HTTP intake, consumers, sweeps and time-outs from one process."""

from headgate.serve._access import IntakeAccess
from headgate.serve._http import IntakeLimits, IntakeServer
from headgate.serve._loop import OwnThread, Service
from headgate.serve._schedule import Job, Scheduler

__all__ = ["IntakeAccess", "IntakeLimits", "IntakeServer", "Job", "OwnThread", "Scheduler", "Service"]
