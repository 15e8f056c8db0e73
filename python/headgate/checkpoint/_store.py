"""One checkpoint object on S3, step by step; `update` does a whole run in the core."""

from __future__ import annotations

import io
from typing import Any

from headgate.checkpoint._places import s3_location, s3_url
from headgate.checkpoint._table import Checkpoint
from headgate.errors import (
    AccessError,
    ConflictError,
    IntegrityError,
    InvalidInputError,
    Kind,
    NotFoundError,
    about_checkpoint,
)

_FOOTER = b"headgate"


class CheckpointStore:
    """Loads and saves the checkpoint `s3://bucket/key`.

    A save replaces what the same store has loaded (or nothing, if there was nothing): one conditional write, so of two
    racing savers one gets a ConflictError and loses no events of the other. Every failure is a CheckpointError too.

    Args:
        bucket: its name.
        key: of the Parquet file.
        **options: region, endpoint, profile, as in s3:// URLs.

    Example:
        >>> store = CheckpointStore("my-bucket", "checkpoints/events.parquet")     # doctest: +SKIP
        >>> store.save(store.load().add_events(events))                            # doctest: +SKIP
        's3://my-bucket/checkpoints/events.parquet'
    """

    def __init__(self, bucket: str, key: str, **options: str) -> None:
        self._place = s3_location(s3_url(bucket, key, **options))
        self._seen: str | None = None  # the ETag that a save replaces; "" when there was nothing
        self._kept = False  # by update(), with a ledger

    def _call(self, name: str, **more: Any) -> Any:
        return self._place.call(name, Key=self._place.key, **more)

    @about_checkpoint()
    def exists(self) -> bool:
        """Whether there is a checkpoint. Only a definite "no such object" is False.

        Raises:
            AccessError: also when S3 hides a missing object because s3:ListBucket is not granted.
        """
        try:
            self._call("head_object")
        except NotFoundError:
            return False
        return True

    @about_checkpoint()
    def load(self) -> Checkpoint:
        """The checkpoint; an empty one when there definitely is none.

        Raises:
            AccessError, TransientError: it cannot be told; never taken for a first run.
            IntegrityError: the object is not a readable Parquet file. It stays as it is.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            answer = self._call("get_object")
        except NotFoundError:
            self._seen, self._kept = "", False
            return Checkpoint.empty()
        body = answer["Body"].read()
        try:
            table = pq.read_table(io.BytesIO(body))
        except (pa.ArrowInvalid, OSError) as error:
            message = f"checkpoint {self._place.url} cannot be read: {error}"
            raise IntegrityError(message) from None
        self._seen = str(answer["ETag"])
        self._kept = _FOOTER in (pq.read_metadata(io.BytesIO(body)).metadata or {})
        return Checkpoint(table)

    @about_checkpoint()
    def save(self, checkpoint: Checkpoint) -> str:
        """Write it, and give its URL.

        Raises:
            ConflictError: the object is not the one that was loaded, was never loaded, or is kept by `update`.
        """
        import pyarrow.parquet as pq

        if self._seen is None:
            try:
                self._call("head_object")
            except NotFoundError:
                self._seen = ""
            except AccessError:
                raise
            else:
                message = f"{self._place.url} exists already; load it before saving over it"
                raise ConflictError(message)
        if self._kept:
            message = f"{self._place.url} is kept by headgate.checkpoint.update with its ledger; save to another key"
            raise ConflictError(message)
        buffer = io.BytesIO()
        table = checkpoint.dataframe()
        metadata = {k: v for k, v in (table.schema.metadata or {}).items() if k != _FOOTER}
        pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="snappy")
        condition = {"IfMatch": self._seen} if self._seen else {"IfNoneMatch": "*"}
        try:
            answer = self._call("put_object", Body=buffer.getvalue(), **condition)
        except (InvalidInputError, NotFoundError) as error:
            if isinstance(error, InvalidInputError) and error.kind is not Kind.VERSION_CONFLICT:
                raise
            message = f"{self._place.url} changed since it was loaded"
            raise ConflictError(message) from None
        self._seen = str(answer["ETag"])
        return self._place.url
