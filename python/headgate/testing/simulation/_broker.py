"""A simulated message service: at least once, in any order, and its answers may be lost. And a ledger far away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.ports import Published

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from headgate.ports import Announcement
    from headgate.testing.simulation._network import SimNetwork

MAX_BYTES = 4_000  # limit for one message, and for a batch


class RequestRefusedError(Exception):
    """What boto3 raises for a request that the service refuses."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


class SimQueue:
    """The state of one queue; `client()` gives what a boto3 SQS client would.

    Args:
        rng: decides order and duplicates.
        clock: invisibility ends by it.
    """

    def __init__(self, rng: random.Random, clock: Any) -> None:
        self.messages: dict[str, dict[str, Any]] = {}  # receipt-independent id -> body, visible_us
        self.sent = 0
        self.repeated = 0  # handed out although somebody had it
        self._rng = rng
        self._clock = clock

    def client(self, network: SimNetwork, owner: str, dead_letters: SimQueue | None = None) -> SimQueueClient:
        return SimQueueClient(self, network, owner, dead_letters)

    def send(self, body: str, attributes: dict[str, Any] | None = None) -> None:
        self.sent += 1
        self.messages[f"m{self.sent}"] = {"body": body, "visible_us": 0, "attributes": attributes or {}}

    def move_to(self, other: SimQueue) -> int:
        """What an operator's redrive in the service's console does: body and attributes as they are. Returns how
        many."""
        moved = list(self.messages.values())
        self.messages.clear()
        for message in moved:
            other.send(message["body"], message["attributes"])
        return len(moved)

    def receive(self, most: int, visibility_s: int, *, calm: bool) -> list[dict[str, Any]]:
        now = self._clock.now_us()
        ready = [name for name, message in self.messages.items() if message["visible_us"] <= now]
        self._rng.shuffle(ready)
        for name in ready[:most]:
            # Now and then a message is handed out twice, as the service's own promise allows.
            if calm or self._rng.random() >= 0.1:
                self.messages[name]["visible_us"] = now + visibility_s * 1_000_000
            else:
                self.repeated += 1
        return [
            {
                "MessageId": name,
                "ReceiptHandle": name,
                "Body": self.messages[name]["body"],
                "MessageAttributes": self.messages[name]["attributes"],
            }
            for name in ready[:most]
        ]


class SimQueueClient:
    """The part of boto3's SQS client that publishers and workers use. Its one queue is "q", its dead letters "dead"."""

    def __init__(self, queue: SimQueue, network: SimNetwork, owner: str, dead_letters: SimQueue | None = None) -> None:
        self._queue = queue
        self._dead_letters = dead_letters
        self._network = network
        self._owner = owner

    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[Any]) -> dict[str, Any]:  # noqa: N803
        def send() -> dict[str, Any]:
            if sum(len(entry["MessageBody"].encode()) for entry in Entries) > MAX_BYTES:
                code = "AWS.SimpleQueueService.BatchRequestTooLong"
                raise RequestRefusedError(code)
            for entry in Entries:
                self._queue.send(entry["MessageBody"])
            return {"Successful": [{"Id": entry["Id"]} for entry in Entries], "Failed": []}

        return dict(self._network.reach(self._owner, send))

    def send_message(self, *, QueueUrl: str, MessageBody: str, MessageAttributes: Any = None, **_: Any) -> None:  # noqa: N803
        queue = self._dead_letters if QueueUrl == "dead" and self._dead_letters is not None else self._queue
        self._network.reach(self._owner, lambda: queue.send(MessageBody, dict(MessageAttributes or {})))

    def receive_message(self, *, MaxNumberOfMessages: int, VisibilityTimeout: int, **_: Any) -> dict[str, Any]:  # noqa: N803
        def receive() -> dict[str, Any]:
            calm = self._network.calm
            return {"Messages": self._queue.receive(MaxNumberOfMessages, VisibilityTimeout, calm=calm)}

        return dict(self._network.reach(self._owner, receive))

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> None:  # noqa: N803
        self._network.reach(self._owner, lambda: self._queue.messages.pop(ReceiptHandle, None))

    def change_message_visibility(self, *, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> None:  # noqa: N803
        def change() -> None:
            if ReceiptHandle in self._queue.messages:
                until = self._queue._clock.now_us() + VisibilityTimeout * 1_000_000
                self._queue.messages[ReceiptHandle]["visible_us"] = until

        self._network.reach(self._owner, change)


class SimTopic:
    """Publishes to several queues; what did not reach every one of them is published again.

    Args:
        publishers: of the queues.
        topics: what they subscribed to; other topics have no readers here.
    """

    def __init__(self, publishers: Sequence[Any], topics: Sequence[str]) -> None:
        self._publishers = publishers
        self._topics = topics

    def publish(self, announcements: Sequence[Announcement]) -> Published:
        wanted = [a for a in announcements if a.topic in self._topics]
        unread = [a.row for a in announcements if a.topic not in self._topics]
        answers = [publisher.publish(wanted) for publisher in self._publishers] if wanted else [Published()]
        arrived = set.intersection(*map(set, answers))
        refused = {row: refusal for answer in answers for row, refusal in answer.refused.items()}
        return Published(sorted([*arrived, *unread]), refused)


class FarLedger:
    """The ledger of another machine: calls may not arrive, and answers may be lost.

    Args:
        native: the backend behind the network; everybody shares it.
    """

    def __init__(self, native: Any, network: SimNetwork, owner: str) -> None:
        self._native = native
        self._network = network
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._native, name)

        def call(*arguments: Any, **options: Any) -> Any:
            return self._network.reach(self._owner, lambda: method(*arguments, **options))

        return call
