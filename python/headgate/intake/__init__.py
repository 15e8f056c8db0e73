"""Raw first, then parse, validate, identify, store and announce. The engine's front door; it knows no domain."""

from headgate.intake._alerts import Alert, AlertRules
from headgate.intake._collect import Adapter, CollectionResult, Collector
from headgate.intake._freshness import AlwaysOpen, Freshness, check_freshness, is_believable
from headgate.intake._intake import Intake, Taken
from headgate.intake._letters import LetterFilter, ReplayedLetters, replay_letters
from headgate.intake._pipeline import NewItem, Normalised, Pipeline, RawInfo, Reject
from headgate.intake._replay import replay

__all__ = [
    "Adapter", "Alert", "AlertRules", "AlwaysOpen", "CollectionResult", "Collector", "Freshness", "Intake",
    "LetterFilter", "NewItem", "Normalised", "Pipeline", "RawInfo", "Reject", "ReplayedLetters", "Taken",
    "check_freshness", "is_believable", "replay", "replay_letters",
]  # fmt: skip
