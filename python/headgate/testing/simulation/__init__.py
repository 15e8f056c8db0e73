"""Deterministic simulation: one seed drives time, network, disk, crashes and message order around the real rooms.

The rooms are the product's own: collection with its failover and breakers, intake, outbox, queue, ledgers, workers, the
SQS worker, healing, workflows, uploads, and the checkpoint on disk and on S3; in Python and in the C++ core. The disk
is one in memory that forgets what was not synced. The network loses requests and answers, delays, cuts and reorders
them. A process may stop at any of its disk operations or requests; what it held in memory is abandoned, nothing is
rolled back by it, and another life of it opens what is left. The oracle is conservation: every record that was accepted
is exactly one of stored and announced (its effect happened once), dead-lettered with a reason, or pending with an age;
after the faults end, nothing is pending, every workflow has ended, and every event is once in its checkpoint.

Example:
    >>> report = simulate(seed=7)
    >>> report.violations
    []
    >>> report.trace == simulate(seed=7).trace
    True
"""

from headgate.testing.simulation._rooms import ROOMS, Parts
from headgate.testing.simulation._world import Mutant, Report, Simulation, first_failure, simulate

__all__ = ["ROOMS", "Mutant", "Parts", "Report", "Simulation", "first_failure", "simulate"]
