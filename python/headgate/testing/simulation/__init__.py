"""Deterministic simulation: one seed drives time, network, disk, crashes and message order around the real code.

The simulated processes run the product's own components: collection with its failover and breakers, intake, outbox,
queue, ledgers, workers, the SQS worker, healing, workflows, uploads, and the checkpoint on disk and on S3; in Python
and in the C++ core. The disk is one in memory that forgets what was not synced. The network loses requests and answers,
delays, cuts and reorders them. A process may stop at any of its disk operations or requests; what it held in memory is
abandoned, nothing is rolled back by it, and another life of it opens what is left. The oracle is conservation: every
record that was accepted is exactly one of stored and announced (its effect happened once), dead-lettered with a reason,
or pending with an age; after the faults end, nothing is pending, every workflow has ended, and every event is once in
its checkpoint.

Example:
    >>> report = simulate(seed=7)
    >>> report.violations
    []
    >>> report.trace == simulate(seed=7).trace
    True
"""

from headgate.testing.simulation._components import COMPONENTS, Parts
from headgate.testing.simulation._world import Mutant, Report, Simulation, first_failure, simulate

__all__ = ["COMPONENTS", "Mutant", "Parts", "Report", "Simulation", "first_failure", "simulate"]


def __getattr__(name: str) -> object:
    if name == "ROOMS":  # the earlier name, kept for one release
        import warnings

        warnings.warn("headgate.testing.simulation.ROOMS is now called COMPONENTS", DeprecationWarning, stacklevel=2)
        return COMPONENTS
    message = f"module 'headgate.testing.simulation' has no attribute {name!r}"
    raise AttributeError(message)
