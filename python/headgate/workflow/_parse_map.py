"""Parses what only Map states have: the processor, items, readers, batches and writers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headgate.workflow._jsonata import is_expression
from headgate.workflow._parse_fields import FieldReader
from headgate.workflow._paths import Path
from headgate.workflow._program import ItemBatcher, ItemReader, Machine, ResultWriter
from headgate.workflow._values import Constant, Value

_DELIMITERS = {"COMMA": ",", "PIPE": "|", "SEMICOLON": ";", "SPACE": " ", "TAB": "\t"}
_INPUT_TYPES = ("JSON", "JSONL", "CSV", "MANIFEST", "PARQUET")
_DISTRIBUTED_ONLY = ("ItemReader", "ItemBatcher", "ResultWriter", "Label")
_LABEL_LIMIT = 40
Inner = Callable[[Any, str, "set[str]"], "Machine | None"]


def map_fields(reader: FieldReader, inner: Inner, kind: str) -> dict[str, Any]:
    """The fields of a `MapState` beyond those of every state."""
    node = reader.node
    field = "ItemProcessor" if "ItemProcessor" in node else "Iterator"
    if "ItemProcessor" in node and "Iterator" in node:
        reader.refuse("", "Only one of the fields 'ItemProcessor' and 'Iterator' may be set", "remove Iterator")
    if field not in node:
        reader.refuse("", "These fields are required: [ItemProcessor]", "add ItemProcessor")
        return {}
    distributed, execution_type, is_given = _processor_config(reader, field)
    if not is_given and any(name in node for name in _DISTRIBUTED_ONLY):
        reader.findings.warn(
            reader.at(field),
            "it has fields of a distributed Map, but no ProcessorConfig; the local runner takes it as DISTRIBUTED",
            'set ProcessorConfig with "Mode": "DISTRIBUTED" and an ExecutionType',
            "NO_PROCESSOR_CONFIG",
        )
        distributed = True
    if distributed and kind == "EXPRESS":
        reader.refuse(
            field, "Express state machine does not support Map states in DISTRIBUTED mode", "make the machine STANDARD"
        )
    if not distributed:
        for name in _DISTRIBUTED_ONLY:
            if name in node:
                reader.refuse(
                    "",
                    f"Field '{name}' is only supported in DISTRIBUTED mode",
                    'set ProcessorConfig.Mode to "DISTRIBUTED"',
                )
    if "ItemSelector" in node and "Parameters" in node:
        reader.refuse("", "Only one of the fields 'ItemSelector' and 'Parameters' may be set", "remove Parameters")
    label = reader.text("Label")
    if len(label) > _LABEL_LIMIT:
        reader.refuse("Label", f"A label has at most {_LABEL_LIMIT} characters, not {len(label)}", "shorten it")
    return {
        "processor": inner(
            node[field], reader.at(field), {"Comment", "StartAt", "States", "ProcessorConfig", "QueryLanguage"}
        ),
        "is_distributed": distributed,
        "execution_type": execution_type,
        "items": _items(reader),
        "selector": reader.value("ItemSelector" if "ItemSelector" in node else "Parameters"),
        "reader": _item_reader(reader) if "ItemReader" in node else None,
        "batcher": _batcher(reader) if "ItemBatcher" in node else None,
        "writer": _writer(reader) if "ResultWriter" in node else None,
        "max_concurrency": reader.number_or_path("MaxConcurrency", least=0),
        "tolerated_count": reader.number_or_path("ToleratedFailureCount", least=0),
        "tolerated_percentage": reader.number_or_path("ToleratedFailurePercentage", least=0, most=100, whole=False),
        "label": label,
    }


def _processor_config(reader: FieldReader, field: str) -> tuple[bool, str, bool]:
    """Whether the Map is distributed, its execution type, and whether the definition names it."""
    config = _object(reader, field, "ProcessorConfig")
    if config is None:
        return False, "STANDARD", False
    config.check_known({"Mode", "ExecutionType"})
    distributed = config.text_of("Mode", ("INLINE", "DISTRIBUTED"), "INLINE") == "DISTRIBUTED"
    if distributed:
        config.require("ExecutionType")
    return distributed, config.text_of("ExecutionType", ("STANDARD", "EXPRESS"), "STANDARD"), True


def _object(reader: FieldReader, *names: str) -> FieldReader | None:
    """An object within objects, if it is there."""
    current = reader
    for name in names:
        node = current.node.get(name)
        if node is None:
            return None
        if not isinstance(node, dict):
            current.refuse(name, "Expected value of type Object", "write an object")
            return None
        current = FieldReader(node, current.at(name), reader.language, reader.findings)
    return current


def _items(reader: FieldReader) -> Value | Path | None:
    node = reader.node
    if "Items" in node and reader.language == "JSONata":
        if not isinstance(node["Items"], list | dict) and not is_expression(node["Items"]):
            reader.refuse("Items", "Value must be an array or a JSONata expression", "write {% expression %}")
        return reader.value("Items")
    if "ItemsPath" in node and reader.language == "JSONPath":
        return reader.path_field("ItemsPath")
    return None


def _arguments(reader: FieldReader) -> Value:
    name = "Arguments" if reader.language == "JSONata" else "Parameters"
    return reader.value(name) or Constant({})


def _action(reader: FieldReader, known: tuple[str, ...]) -> str:
    text = reader.text("Resource")
    action = text.rpartition(":s3:")[2]
    if not text.startswith("arn:") or action not in known:
        reader.refuse(
            "Resource",
            f"The resource provided {text} is not recognized. The value is not a valid resource ARN, or the resource is"
            " not available in this region.",
            f"write {' or '.join(f'arn:aws:states:::s3:{name}' for name in known)}",
        )
        return known[0]
    return action


def _item_reader(reader: FieldReader) -> ItemReader | None:
    found = _object(reader, "ItemReader")
    if found is None:
        return None
    language = {"Arguments"} if reader.language == "JSONata" else {"Parameters"}
    found.check_known({"Resource", "ReaderConfig", *language})
    if not found.require("Resource"):
        return None
    action = _action(found, ("getObject", "listObjectsV2"))
    config = _object(found, "ReaderConfig") or FieldReader(
        {}, found.at("ReaderConfig"), reader.language, reader.findings
    )
    config.check_known(
        {
            "InputType", "CSVHeaderLocation", "CSVHeaders", "CSVDelimiter", "MaxItems", "MaxItemsPath", "ItemsPointer",
            "ManifestType", "Transformation",
        }
    )  # fmt: skip
    if action == "getObject" and "InputType" not in config.node:
        config.refuse(
            "", "These fields are required: [InputType]", "add InputType: JSON, JSONL, CSV, MANIFEST or PARQUET"
        )
    input_type = config.text_of("InputType", _INPUT_TYPES, "JSON")
    header = config.text_of("CSVHeaderLocation", ("FIRST_ROW", "GIVEN"), "FIRST_ROW")
    headers = config.node.get("CSVHeaders", [])
    if header == "GIVEN" and not headers:
        config.refuse("", "The field 'CSVHeaders' is required but was missing", "add CSVHeaders")
    delimiter = config.text_of("CSVDelimiter", tuple(_DELIMITERS), "COMMA")
    return ItemReader(
        action, _arguments(found), input_type, header, tuple(headers), _DELIMITERS[delimiter],
        config.number_or_path("MaxItems", least=0), config.text("ItemsPointer"),
        config.text_of("Transformation", ("NONE", "LOAD_AND_FLATTEN"), "NONE"),
    )  # fmt: skip


def _batcher(reader: FieldReader) -> ItemBatcher | None:
    found = _object(reader, "ItemBatcher")
    if found is None:
        return None
    found.check_known(
        {"MaxItemsPerBatch", "MaxItemsPerBatchPath", "MaxInputBytesPerBatch", "MaxInputBytesPerBatchPath", "BatchInput"}
    )
    items = found.number_or_path("MaxItemsPerBatch", least=1)
    size = found.number_or_path("MaxInputBytesPerBatch", least=1, most=262_144)
    if items is None and size is None:
        found.refuse(
            "", "These fields are required: [MaxItemsPerBatch]", "add MaxItemsPerBatch or MaxInputBytesPerBatch"
        )
    return ItemBatcher(items, size, found.value("BatchInput"))


def _writer(reader: FieldReader) -> ResultWriter | None:
    found = _object(reader, "ResultWriter")
    if found is None:
        return None
    language = {"Arguments"} if reader.language == "JSONata" else {"Parameters"}
    found.check_known({"Resource", "WriterConfig", *language})
    config = _object(found, "WriterConfig") or FieldReader(
        {}, found.at("WriterConfig"), reader.language, reader.findings
    )
    config.check_known({"Transformation", "OutputType"})
    action = _action(found, ("putObject",)) if "Resource" in found.node else ""
    return ResultWriter(
        action, _arguments(found) if action else None,
        config.text_of("Transformation", ("NONE", "COMPACT", "FLATTEN"), "NONE"),
        config.text_of("OutputType", ("JSON", "JSONL"), "JSON"),
    )  # fmt: skip
