"""Raw first, then parse, validate, identify, store and announce. The engine's front door; it knows no domain."""

from headgate.intake._collect import Adapter, CollectionResult, Collector
from headgate.intake._intake import Intake, Normalised, Pipeline, RawInfo, Reject, Taken
from headgate.intake._replay import replay

__all__ = [
    "Adapter", "CollectionResult", "Collector", "Intake", "Normalised", "Pipeline", "RawInfo", "Reject", "Taken",
    "replay",
]  # fmt: skip
