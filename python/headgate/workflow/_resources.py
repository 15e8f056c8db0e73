"""The Resource of a Task state: what an ARN names, and which service integrations Step Functions knows."""

from __future__ import annotations

import re

from headgate.workflow._program import Resource

_LAMBDA = re.compile(r"arn:aws[\w-]*:lambda:[^:]*:[^:]*:function:([^:]+)(?::([^:]+))?$")
_ACTIVITY = re.compile(r"arn:aws[\w-]*:states:[^:]*:[^:]*:activity:([^:]+)$")
_SERVICE = re.compile(
    r"arn:aws[\w-]*:states:[^:]*:[^:]*:((?:aws-sdk:)?[\w-]+):(\w+)(?:\.(sync:2|sync|waitForTaskToken))?$"
)

_NAME = re.compile(r"(?!arn:)[\w./ :-]+")  # a function of the runner's own; Step Functions takes ARNs only
_FOREIGN = re.compile(r"arn:aws[\w-]*:(?!states:|lambda:)[\w-]+:")

RUN, JOB, CALLBACK = "", "sync", "waitForTaskToken"
# service -> action -> the patterns that it may be used with (request-response always may)
INTEGRATIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "lambda": {"invoke": (CALLBACK,)},
    "sqs": {"sendMessage": (CALLBACK,)},
    "sns": {"publish": (CALLBACK,)},
    "dynamodb": dict.fromkeys(("getItem", "putItem", "updateItem", "deleteItem"), ()),
    "events": {"putEvents": (CALLBACK,)},
    "states": {"startExecution": (JOB, "sync:2", CALLBACK)},
    "glue": {"startJobRun": (JOB,)},
    "batch": {"submitJob": (JOB,)},
    "ecs": {"runTask": (JOB, CALLBACK)},
    "apigateway": {"invoke": (CALLBACK,)},
    "http": {"invoke": ()},
    "databrew": {"startJobRun": (JOB,)},
    "mediaconvert": {"createJob": (JOB,)},
    "bedrock": {"invokeModel": (), "createModelCustomizationJob": (JOB,)},
    "athena": {
        "startQueryExecution": (JOB,), "stopQueryExecution": (), "getQueryExecution": (), "getQueryResults": (),
    },
    "codebuild": {
        "startBuild": (JOB,), "stopBuild": (), "batchDeleteBuilds": (), "batchGetReports": (),
        "startBuildBatch": (JOB,), "stopBuildBatch": (), "retryBuildBatch": (JOB,), "deleteBuildBatch": (),
    },
    "sagemaker": {
        "createTrainingJob": (JOB,), "createTransformJob": (JOB,), "createEndpoint": (), "createEndpointConfig": (),
        "createModel": (), "updateEndpoint": (), "createHyperParameterTuningJob": (JOB,),
        "createLabelingJob": (JOB,), "createProcessingJob": (JOB,),
    },
    "eks": {
        "createCluster": (JOB,), "deleteCluster": (JOB,), "createFargateProfile": (JOB,),
        "deleteFargateProfile": (JOB,), "createNodegroup": (JOB,), "deleteNodegroup": (JOB,), "runJob": (JOB,),
        "call": (),
    },
    "elasticmapreduce": {
        "createCluster": (JOB,), "terminateCluster": (JOB,), "addStep": (JOB,), "cancelStep": (),
        "setClusterTerminationProtection": (), "modifyInstanceFleetByName": (), "modifyInstanceGroupByName": (),
    },
    "emr-containers": {"createVirtualCluster": (), "deleteVirtualCluster": (JOB,), "startJobRun": (JOB,)},
    "emr-serverless": {
        "createApplication": (JOB,), "startApplication": (JOB,), "stopApplication": (JOB,),
        "deleteApplication": (JOB,), "startJobRun": (JOB,), "cancelJobRun": (JOB,),
    },
}  # fmt: skip

# (service, action) -> parameters without which Step Functions refuses the definition
REQUIRED: dict[tuple[str, str], tuple[str, ...]] = {
    ("lambda", "invoke"): ("FunctionName",),
    ("sqs", "sendMessage"): ("QueueUrl", "MessageBody"),
    ("dynamodb", "getItem"): ("TableName", "Key"),
    ("dynamodb", "putItem"): ("TableName", "Item"),
    ("dynamodb", "updateItem"): ("TableName", "Key"),
    ("dynamodb", "deleteItem"): ("TableName", "Key"),
    ("states", "startExecution"): ("StateMachineArn",),
    ("glue", "startJobRun"): ("JobName",),
    ("events", "putEvents"): ("Entries",),
}


def is_placeholder(text: str) -> bool:
    """Whether a deployment tool is still to put something there: `${Arn}`, `<arn>`, `{{arn}}`, `%ARN%`, `#{arn}`."""
    return bool(re.search(r"[$#]\{[^}]*\}|\{\{.*\}\}|<.*>|%.+%|\$\w+", text))


def parse_resource(text: str) -> Resource | None:
    """What a Resource names; None for an ARN that nobody knows."""
    if found := _LAMBDA.fullmatch(text):
        return Resource(text, "lambda", "lambda", found[1])
    if found := _ACTIVITY.fullmatch(text):
        return Resource(text, "activity", "activity", found[1])
    if found := _SERVICE.fullmatch(text):
        service, action, pattern = found[1], found[2], found[3] or ""
        if service.startswith("aws-sdk:"):
            # The SDK's calls are too many to list; they take no job pattern.
            return None if pattern.startswith("sync") else Resource(text, "service", service, action, pattern)
        known = INTEGRATIONS.get(service, {}).get(action)
        if known is None or (pattern and pattern not in known):
            return None
        return Resource(text, "service", service, action, pattern)
    service, _, action = text.partition(":")
    action, _, pattern = action.partition(".")
    if action in INTEGRATIONS.get(service, {}):  # the short form that this runner takes as well
        return Resource(text, "service", service, action, pattern)
    if is_placeholder(text) or _NAME.fullmatch(text) or is_foreign(text):
        return Resource(text, "function", "lambda", text)
    return None


def is_foreign(text: str) -> bool:
    """Whether an ARN is one of a service that is neither Lambda nor Step Functions."""
    return bool(_FOREIGN.match(text))
