"""Services that tasks may call, on headgate's own backends: the table of ports of a local runner."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import NotFoundError
from headgate.workflow._attempts import TaskRequest
from headgate.workflow._items import MapObjects
from headgate.workflow._json import to_text
from headgate.workflow._table import ItemTable
from headgate.workflow._tasks import Port, TaskFailure

if TYPE_CHECKING:
    from headgate.ports import Json

Job = Callable[[dict[str, str]], Any] | str | Path
_LAST_LINES = 5


def local_ports(
    *,
    store: Any = None,
    objects: Any = None,
    bucket: str = "workflow",
    tables: Mapping[str, tuple[str, ...]] | None = None,
    jobs: Mapping[str, Job] | None = None,
    clock: Any = None,
) -> dict[str, Port]:
    """The ports that headgate has; pass them to `LocalRunner(ports=...)`, with others of your own beside them.

    Args:
        store: a `LocalStore`: sqs:sendMessage, sns:publish and events:putEvents put messages into its outbox under the
            queue's, topic's or bus's name; dynamodb:* keeps items in its database.
        objects: an object store: aws-sdk:s3:getObject, putObject, listObjectsV2 and deleteObject.
        bucket: the bucket whose keys are the object store's own keys; other buckets are folders in it.
        tables: DynamoDB table -> the names of its key attributes.
        jobs: Glue job -> callable(arguments), or the path of its script, which is run with `--name value` arguments.
        clock: for the times in messages.

    Example:
        >>> sorted(local_ports(jobs={"sum": lambda arguments: None}))
        ['glue:startJobRun']
    """
    ports: dict[str, Port] = {}
    if store is not None:
        messages = Messages(store, clock or store.clock)
        ports |= {
            "sqs:sendMessage": messages.send,
            "sns:publish": messages.notify,
            "events:putEvents": messages.put_events,
        }
        if tables:
            items = ItemTable(store.db, dict(tables))
            ports |= {f"dynamodb:{action}": items.port(action) for action in ItemTable.ACTIONS}
    if objects is not None:
        files = Files(MapObjects(objects, (bucket,)))
        ports |= {f"aws-sdk:s3:{action}": files.port(action) for action in Files.ACTIONS}
    if jobs:
        ports["glue:startJobRun"] = Jobs(jobs).run
    return ports


class Messages:
    """Queues, topics and buses: rows of the outbox, which `headgate` delivers to its consumers.

    A message's id is that of the task's attempt, so that a repeated attempt sends the same id again.
    """

    def __init__(self, store: Any, clock: Any) -> None:
        self._store = store
        self._clock = clock

    def send(self, request: TaskRequest) -> Json:
        """sqs:sendMessage."""
        given = _arguments(request, "QueueUrl", "MessageBody")
        body = given["MessageBody"]
        text = body if isinstance(body, str) else to_text(body)
        number = _message_id(given.get("MessageDeduplicationId") or request.key)
        self._store.publish(_last(given["QueueUrl"]), number, {"messageId": number, "body": text})
        return {"MessageId": number, "MD5OfMessageBody": _md5(text)}

    def notify(self, request: TaskRequest) -> Json:
        """sns:publish."""
        given = _arguments(request, "Message")
        topic = given.get("TopicArn") or given.get("TargetArn")
        if not topic:
            raise TaskFailure("SNS.InvalidParameterException", "Invalid parameter: TopicArn or TargetArn must be given")
        message = given["Message"]
        number = _message_id(given.get("MessageDeduplicationId") or request.key)
        envelope = {
            "Type": "Notification", "MessageId": number, "TopicArn": topic,
            "Message": message if isinstance(message, str) else to_text(message),
            "Timestamp": core.format_timestamp(self._clock.now_us()),
        }  # fmt: skip
        if "Subject" in given:
            envelope["Subject"] = given["Subject"]
        self._store.publish(_last(topic), number, envelope)
        return {"MessageId": number}

    def put_events(self, request: TaskRequest) -> Json:
        """events:putEvents."""
        given = _arguments(request, "Entries")
        answers = []
        for place, entry in enumerate(given["Entries"]):
            number = _message_id(f"{request.key}:{place}")
            event = {
                "version": "0", "id": number, "detail-type": entry.get("DetailType", ""),
                "source": entry.get("Source", ""), "time": core.format_timestamp(self._clock.now_us()),
                "resources": entry.get("Resources", []), "detail": entry.get("Detail", {}),
            }  # fmt: skip
            self._store.publish(_last(entry.get("EventBusName", "default")), number, event)
            answers.append({"EventId": number})
        return {"Entries": answers, "FailedEntryCount": 0}


class Files:
    """aws-sdk:s3 on an object store."""

    ACTIONS = ("getObject", "putObject", "listObjectsV2", "deleteObject")

    def __init__(self, objects: MapObjects) -> None:
        self._objects = objects

    def port(self, action: str) -> Port:
        """The port of an action."""
        return {
            "getObject": self._get, "putObject": self._put, "listObjectsV2": self._list, "deleteObject": self._delete
        }[action]  # fmt: skip

    def _get(self, request: TaskRequest) -> Json:
        given = _arguments(request, "Bucket", "Key")
        try:
            data = self._objects.get(given["Bucket"], given["Key"])
        except NotFoundError:
            cause = "The specified key does not exist. (Service: S3, Status Code: 404, Request ID: local)"
            raise TaskFailure("S3.NoSuchKeyException", cause) from None
        return {"Body": data.decode(errors="replace"), "ContentLength": len(data), "ETag": f'"{_md5(data)}"'}

    def _put(self, request: TaskRequest) -> Json:
        given = _arguments(request, "Bucket", "Key")
        body = given.get("Body", "")
        data = (body if isinstance(body, str) else to_text(body)).encode()
        self._objects.put(given["Bucket"], given["Key"], data)
        return {"ETag": f'"{_md5(data)}"'}

    def _list(self, request: TaskRequest) -> Json:
        given = _arguments(request, "Bucket")
        bucket, prefix = given["Bucket"], given.get("Prefix", "")
        keys = sorted(self._objects.list(bucket, prefix))[: int(given.get("MaxKeys", 1_000))]
        contents = [{"Key": key, "Size": len(self._objects.get(bucket, key))} for key in keys]
        return {"Name": bucket, "Prefix": prefix, "KeyCount": len(keys), "Contents": contents, "IsTruncated": False}

    def _delete(self, request: TaskRequest) -> Json:
        given = _arguments(request, "Bucket", "Key")
        self._objects.objects.remove(self._objects.key(given["Bucket"], given["Key"]))
        return {}


class Jobs:
    """Glue jobs: functions, or scripts that are run in a process of their own."""

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        self._jobs = jobs

    def knows(self, name: str) -> bool:
        """Whether there is a job of this name."""
        return name in self._jobs

    def run(self, request: TaskRequest) -> Json:
        """glue:startJobRun; the job has ended when this returns.

        Raises:
            TaskFailure: there is no such job, or it failed.
        """
        given = _arguments(request, "JobName")
        name = given["JobName"]
        if name not in self._jobs:
            raise TaskFailure(
                "Glue.EntityNotFoundException",
                f"Failed to start job run due to missing metadata (Service: AWSGlue; Status Code: 400): job {name}",
            )
        arguments = {str(key): str(value) for key, value in given.get("Arguments", {}).items()}
        number = f"jr_{_message_id(request.key).replace('-', '')}"
        problem = self._start(self._jobs[name], arguments, request.timeout_s)
        answer: Json = {"JobName": name, "JobRunId": number, "JobRunState": "FAILED" if problem else "SUCCEEDED"}
        if problem:
            raise TaskFailure("States.TaskFailed", to_text({**answer, "ErrorMessage": problem, "Arguments": arguments}))
        return {**answer, "Arguments": arguments} if request.resource.is_sync else {"JobRunId": number}

    @staticmethod
    def _start(job: Job, arguments: dict[str, str], timeout_s: int | None) -> str | None:
        """Run a job; the reason of its failure, or None."""
        if not isinstance(job, str | Path):
            try:
                job(arguments)
            except Exception as error:
                return f"{type(error).__name__}: {error}"
            return None
        words = [
            word for key, value in arguments.items() for word in (key if key.startswith("--") else f"--{key}", value)
        ]
        try:
            done = subprocess.run(  # noqa: S603 - the script is the user's own
                [sys.executable, str(job), *words], capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        if done.returncode == 0:
            return None
        lines = done.stderr.decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        return f"the script ended with {done.returncode}: {' | '.join(lines)}"


def _arguments(request: TaskRequest, *required: str) -> dict[str, Any]:
    """The arguments, if they are an object with what the action needs."""
    given = request.arguments
    missing = [name for name in required if not isinstance(given, dict) or name not in given]
    if missing:
        service = request.resource.service.removeprefix("aws-sdk:")
        message = f"state {request.state!r}: {request.resource.action} needs {', '.join(missing)} among its arguments"
        raise TaskFailure(f"{service[:1].upper()}{service[1:]}.ValidationException", message)
    return dict(given)


def _last(name: str) -> str:
    """The name in a URL or an ARN."""
    return name.rstrip("/").rpartition("/")[2].rpartition(":")[2]


def _message_id(key: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, key))


def _md5(data: str | bytes) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()
