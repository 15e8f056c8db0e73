"""Names of what a workflow is deployed as: functions, state machine, pipe, log groups, bucket."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from headgate.errors import InvalidInputError

MAX_FUNCTION_NAME = 64
MAX_STATE_MACHINE_NAME = 80
MAX_PIPE_NAME = 64
_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FUNCTION_ARN = re.compile(r"arn:[a-z0-9-]+:lambda:[a-z0-9-]+:\d{12}:function:[A-Za-z0-9_-]{1,64}(:[A-Za-z0-9$_-]+)?")
_BUCKET_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
MIN_BUCKET_NAME = 3
_FOUR_NUMBERS = re.compile(r"\d+\.\d+\.\d+\.\d+")


class NamingStrategy(StrEnum):
    """How functions get their names.

    AUTO_GENERATED: CloudFormation makes them, with a random suffix; each has to be given in `function_names`.
    EXPLICIT: `{StackName}-{Environment}-{FunctionPurpose}`, the same in every deployment.
    DUAL: both at the same time: what is given in `function_names` keeps its name, the others have explicit ones.
    """

    AUTO_GENERATED = "AUTO_GENERATED"
    EXPLICIT = "EXPLICIT"
    DUAL = "DUAL"


@dataclass(frozen=True)
class Naming:
    """Maps function keys to the names of deployed functions.

    Args:
        stack: the stack's name, for explicit names.
        environment: as "dev" or "prod", for explicit names.
        strategy: see `NamingStrategy`; text is taken too.
        function_names: function key -> name or ARN of a function that exists under another name.

    Example:
        >>> naming = Naming("Scoring", "dev")
        >>> naming.function_name("etlLambda"), naming.log_group("etlLambda")
        ('Scoring-dev-EtlLambda', '/aws/lambda/Scoring-dev-EtlLambda')
        >>> Naming("Scoring", "dev", "DUAL", {"etlLambda": "Stack-Etl-9XK2"}).function_name("etlLambda")
        'Stack-Etl-9XK2'
    """

    stack: str = ""
    environment: str = ""
    strategy: NamingStrategy | str = NamingStrategy.EXPLICIT
    function_names: Mapping[str, str] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """What is wrong with the naming itself, without any function."""
        found = []
        if self.strategy not in list(NamingStrategy):
            found.append(f"naming strategy {self.strategy!r}: expected {', '.join(NamingStrategy)}")
        elif self.strategy != NamingStrategy.AUTO_GENERATED:
            for what, text in (("stack", self.stack), ("environment", self.environment)):
                if not re.fullmatch(r"[A-Za-z0-9_-]+", text if isinstance(text, str) else ""):
                    found.append(f"naming {what} {text!r}: expected letters, digits, '-' and '_'")
            if self.strategy == NamingStrategy.EXPLICIT and self.function_names:
                found.append("naming: function_names are given, which EXPLICIT does not use; expected DUAL")
        return found

    def function_name(self, key: str) -> str:
        """The name of the function of a key.

        Raises:
            InvalidInputError: the strategy has no name for it.
        """
        given = self.function_names.get(key)
        if given is not None and self.strategy != NamingStrategy.EXPLICIT:
            return given
        if self.strategy == NamingStrategy.AUTO_GENERATED:
            message = f"function key {key!r} has no name; expected it in function_names (AUTO_GENERATED)"
            raise InvalidInputError(message)
        return f"{self.stack}-{self.environment}-{function_purpose(key)}"

    def log_group(self, key: str) -> str:
        """Where the function of a key logs."""
        return f"/aws/lambda/{self.function_name(key)}"


def function_purpose(key: str) -> str:
    """The last part of an explicit name: the key with a capital first letter.

    Example:
        >>> function_purpose("filterLambda")
        'FilterLambda'
    """
    return key[:1].upper() + key[1:]


def function_name_problem(name: object) -> str | None:
    """What is wrong with a function's name or ARN, or None."""
    if not isinstance(name, str) or not name.strip():
        return "it is blank"
    if name.startswith("arn:"):
        return None if _FUNCTION_ARN.fullmatch(name) else "it is no ARN of a Lambda function"
    if len(name) > MAX_FUNCTION_NAME:
        return f"it has {len(name)} characters; Lambda allows {MAX_FUNCTION_NAME}"
    return None if _FUNCTION_NAME.fullmatch(name) else "expected letters, digits, '-' and '_'"


def bucket_name_problem(name: object) -> str | None:
    """What is wrong with a bucket's name by S3's rules, or None; a length below 3 is left to the caller.

    Example:
        >>> bucket_name_problem("My_Bucket")
        "expected up to 63 lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
    """
    if not isinstance(name, str) or not name.strip():
        return "it is blank"
    if not _BUCKET_NAME.fullmatch(name):
        return "expected up to 63 lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
    if ".." in name or _FOUR_NUMBERS.fullmatch(name) or name.startswith("xn--"):
        return "S3 takes no two dots in a row, no IP address and nothing that begins with 'xn--'"
    return None


def workflow_bucket_name(environment: str, account: str, prefix: str = "headgate") -> str:
    """The name of the bucket that the stages of an environment share.

    Raises:
        InvalidInputError: S3 would not take the name.

    Example:
        >>> workflow_bucket_name("dev", "123456789012")
        'headgate-workflow-dev-123456789012'
    """
    name = f"{prefix}-workflow-{environment}-{account}"
    problem = bucket_name_problem(name)
    if problem:
        message = f"bucket name {name!r}: {problem}"
        raise InvalidInputError(message)
    return name


def state_machine_name(workflow: str, kind: str) -> str:
    """`{name}-Express` or `{name}-Standard`.

    Example:
        >>> state_machine_name("scoring", "EXPRESS")
        'scoring-Express'
    """
    return f"{workflow}-{kind.capitalize()}"


def pipe_name(workflow: str) -> str:
    """`{name}-event-pipe`.

    Example:
        >>> pipe_name("scoring")
        'scoring-event-pipe'
    """
    return f"{workflow}-event-pipe"


def state_machine_log_group(workflow: str, kind: str) -> str:
    """Where the state machine logs; `/aws/vendedlogs/` needs no resource policy of its own for each log group."""
    return f"/aws/vendedlogs/states/{state_machine_name(workflow, kind)}"
