"""Where a checkpoint's rows come from: one version of them, whatever is committed after it was opened."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from headgate.checkpoint._places import is_url, local_path, s3_location
from headgate.errors import (
    AccessError,
    ConflictError,
    IntegrityError,
    InvalidInputError,
    Kind,
    NotFoundError,
    about_checkpoint,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from headgate.backends.s3 import S3Location


class Snapshot:
    """Rows that do not change: a table in memory, or a dataset that the caller answers for."""

    shown = "these rows"

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    @property
    def schema(self) -> Any:
        """The Arrow schema."""
        return self._dataset.schema

    def sort_by(self) -> str:
        """The column that is the rows' time, as far as one can tell; empty for none.

        It is `timestamp` if at least half of the rows have it; else the first column of times that every row has; else
        the only column of times, if at least half of the rows have it.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        times = [field.name for field in self.schema if pa.types.is_timestamp(field.type)]
        if not times:
            return ""
        rows = self._dataset.count_rows()

        def with_value(name: str) -> int:
            return int(self._dataset.count_rows(filter=pc.is_valid(pc.field(name))))

        if "timestamp" in times and 2 * with_value("timestamp") >= rows:
            return "timestamp"
        always = next((name for name in times if with_value(name) == rows), "")
        return always or (times[0] if len(times) == 1 and 2 * with_value(times[0]) >= rows else "")

    def dataset(self, coded: Sequence[str] = (), where: Any = None) -> Any:
        """The Arrow dataset; the text columns `coded` come as dictionaries where that saves decoding them.

        Then it is without files and row groups in which nothing can fit `where`, but not filtered by it.
        """
        return self._dataset

    def check(self) -> None:
        """Raise unless the rows are still those that were opened."""

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around every read: what Arrow says becomes ours, and rows of two versions never become one answer.

        Raises:
            ConflictError: kind version_conflict, the rows were replaced.
            IntegrityError: they cannot be read.
        """
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowInvalid, OSError, IntegrityError) as error:
            self.check()
            if isinstance(error, IntegrityError | AccessError):
                raise
            message = f"checkpoint {self.shown} cannot be read: {error}"
            raise IntegrityError(message) from None
        self.check()


class _Parquet(Snapshot):
    """Parquet files, opened by `_fragment`."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self._coded: dict[tuple[str, ...], tuple[Any, dict[str, Any]]] = {}  # with what was read of the files' footers

    def _fragment(self, files: Any, plain: Any) -> Any:
        """One file, read as the format `files` says; `plain` is its fragment in the whole dataset."""
        raise NotImplementedError

    def _whole(self) -> Any:
        """The dataset of one file."""
        import pyarrow.dataset as ds

        files = ds.ParquetFileFormat()
        fragment = self._fragment(files, None)
        return ds.FileSystemDataset([fragment], fragment.physical_schema, files)

    def dataset(self, coded: Sequence[str] = (), where: Any = None) -> Any:
        import pyarrow as pa
        import pyarrow.dataset as ds

        names = tuple(sorted(coded))
        if not names:
            return self._dataset
        if names not in self._coded:
            self._coded[names] = ds.ParquetFileFormat(read_options=ds.ParquetReadOptions(dictionary_columns=names)), {}
        files, known = self._coded[names]
        fragments = []
        for plain in self._dataset.get_fragments(filter=where):
            if plain.path not in known:
                known[plain.path] = self._fragment(files, plain)
            # Chosen here: Arrow does not compare statistics with a condition on a column of dictionaries.
            groups = None if where is None else [group.id for group in plain.subset(filter=where).row_groups]
            fragment = known[plain.path]
            if groups is None or groups:
                fragments.append(fragment if groups is None else fragment.subset(row_group_ids=groups))
        schema = self.schema
        for name in names:
            at = schema.get_field_index(name)
            schema = schema.set(at, schema.field(at).with_type(pa.dictionary(pa.int32(), pa.string())))
        return ds.FileSystemDataset(fragments, schema, files)


class _OneFile(_Parquet):
    def sort_by(self) -> str:
        metadata = next(self._dataset.get_fragments()).metadata
        sorting = metadata.row_group(0).sorting_columns if metadata.num_row_groups else ()
        return str(metadata.schema.column(sorting[0].column_index).path) if sorting else super().sort_by()


class FileSnapshot(_OneFile):
    """A file on this machine. It is held open: a commit renames another file over its name."""

    def __init__(self, path: str) -> None:
        import pyarrow as pa

        self.shown = path
        self._file = pa.OSFile(path)
        super().__init__(self._whole())

    def _fragment(self, files: Any, plain: Any) -> Any:
        return files.make_fragment(self._file)


class ObjectSnapshot(_OneFile):
    """An object on S3. Its bytes are gone once it is replaced, so that every read asks afterwards whether it was."""

    def __init__(self, place: S3Location) -> None:
        self.shown = place.url
        self._place = place
        self._version = self._now()  # also: Arrow cannot tell a missing object from a refused one
        self._filesystem = place.filesystem()
        super().__init__(self._whole())
        self.check()

    def _now(self) -> str:
        return str(self._place.call("head_object", Key=self._place.key)["ETag"])

    def _fragment(self, files: Any, plain: Any) -> Any:
        return files.make_fragment(f"{self._place.bucket}/{self._place.key}", self._filesystem)

    def dataset(self, coded: Sequence[str] = (), where: Any = None) -> Any:
        filesystem = self._place.filesystem()
        if filesystem is not self._filesystem:  # other credentials: those of roles end within hours
            self._filesystem = filesystem
            self._dataset = self._whole()
            self._coded.clear()
        return super().dataset(coded, where)

    def check(self) -> None:
        if self._now() != self._version:
            message = f"checkpoint {self.shown} was committed anew since it was opened; read it again"
            raise ConflictError(message, Kind.VERSION_CONFLICT)


class TableSnapshot(_Parquet):
    """A Delta table: the files of one version."""

    def __init__(self, url: str) -> None:
        from headgate.checkpoint._delta import delta_dataset

        self.shown = url.split("?", 1)[0]
        super().__init__(delta_dataset(url))

    def _fragment(self, files: Any, plain: Any) -> Any:
        return files.make_fragment(plain.path, plain.filesystem, plain.partition_expression)


@about_checkpoint()
def open_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """The rows behind a path or a URL, as they are now.

    Raises:
        InvalidInputError: kind not_found, there is no such file.
        IntegrityError: it is not a readable Parquet file.
    """
    import pyarrow as pa

    if is_url(path, "delta+file") or is_url(path, "delta+s3"):
        return TableSnapshot(str(path))
    place = s3_location(path) if is_url(path, "s3") else None
    shown = place.url if place else local_path(path)
    try:
        return ObjectSnapshot(place) if place else FileSnapshot(shown)
    except (FileNotFoundError, NotFoundError):
        message = f"checkpoint {shown} does not exist yet"
        raise InvalidInputError(message, Kind.NOT_FOUND) from None
    except AccessError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        message = f"checkpoint {shown} cannot be read: {error}"
        raise IntegrityError(message) from None
