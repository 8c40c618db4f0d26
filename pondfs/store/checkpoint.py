"""Delta checkpoints: the log's state in one file, so that opening need not read every entry.

Written here and not by delta-rs, which needs 2.4 s and several hundred MB for 5,000 entries where
this needs 30 ms, syncs nothing, and would have to be read back in any case. Classic single-file
checkpoints only, which every Delta reader knows.

When they are written, and which log entries go after them, is `logkeeper`'s to say.

Source: Delta protocol, "Checkpoints", "Last Checkpoint File".
"""

import json
import logging
import os
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pondfs.errors import StoreDamaged
from pondfs.store import seal
from pondfs.store.datafile import unlink_quietly
from pondfs.store.deltalog import (
    LAST_CHECKPOINT,
    Action,
    Snapshot,
    checkpoint_name,
    read_checkpoint,
)
from pondfs.store.faults import fault
from pondfs.store.table import fsync_path
from pondfs.store.tags import is_taken_off

log = logging.getLogger("pondfs.store")

ENTRIES_BETWEEN = 100
"""Log entries after the last checkpoint that are worth a new one: reading them takes 2 ms here
and 40 ms in delta-rs."""

_MAP = pa.map_(pa.string(), pa.string())
_SCHEMA = pa.schema(
    {
        "txn": pa.struct({"appId": pa.string(), "version": pa.int64(), "lastUpdated": pa.int64()}),
        "add": pa.struct(
            {
                "path": pa.string(),
                "partitionValues": _MAP,
                "size": pa.int64(),
                "modificationTime": pa.int64(),
                "dataChange": pa.bool_(),
                "stats": pa.string(),
                "tags": _MAP,
            }
        ),
        "remove": pa.struct(
            {
                "path": pa.string(),
                "deletionTimestamp": pa.int64(),
                "dataChange": pa.bool_(),
                "extendedFileMetadata": pa.bool_(),
                "partitionValues": _MAP,
                "size": pa.int64(),
                "tags": _MAP,
            }
        ),
        "metaData": pa.struct(
            {
                "id": pa.string(),
                "name": pa.string(),
                "description": pa.string(),
                "format": pa.struct({"provider": pa.string(), "options": _MAP}),
                "schemaString": pa.string(),
                "partitionColumns": pa.list_(pa.string()),
                "configuration": _MAP,
                "createdTime": pa.int64(),
            }
        ),
        "protocol": pa.struct({"minReaderVersion": pa.int32(), "minWriterVersion": pa.int32()}),
    }
)
_KNOWN = {kind: {f.name for f in _SCHEMA.field(kind).type} for kind in _SCHEMA.names}


def write_checkpoint(log_dir: str, snapshot: Snapshot) -> bool:
    """Write the checkpoint of *snapshot*; False when it holds what we could not carry over.

    Durability: the checkpoint, then ``_last_checkpoint``, each whole or not there.
    Raises: OSError as the disk says, StoreDamaged when what was written can't be read back; the
        log is as it was then.
    """
    stored, removes = snapshot.removes.split()
    actions = _actions(snapshot, removes)
    if actions is None:
        return False
    table = pa.Table.from_arrays(
        [
            pa.array([body if kind == field.name else None for kind, body in actions], field.type)
            for field in _SCHEMA
        ],
        schema=_SCHEMA,
    )
    if stored is not None and len(stored):
        # Files that went, as the last checkpoint has them.
        others = [pa.nulls(len(stored), field.type) for field in _SCHEMA]
        others[_SCHEMA.get_field_index("remove")] = stored.cast(_SCHEMA.field("remove").type)
        table = pa.concat_tables([table, pa.Table.from_arrays(others, schema=_SCHEMA)])
    name = checkpoint_name(snapshot.version)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, _SCHEMA, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({seal.KEY: seal.unsealed().decode()})
    data = seal.seal_all(sink.getvalue().to_pybytes())

    def check(path: str) -> None:
        """Read it back before anybody else can: it is believed over the entries it covers."""
        if not _is_same(read_checkpoint(path, name), snapshot):
            raise StoreDamaged(f"checkpoint {name} did not read back as it was written")

    _put_file(log_dir, name, data, check)
    last = {
        "version": snapshot.version,
        "size": table.num_rows,
        "sizeInBytes": len(data),
        "numOfAddFiles": len(snapshot.adds),
    }
    fault("checkpoint:named")
    _put_file(log_dir, LAST_CHECKPOINT, json.dumps(last).encode())
    snapshot.checkpoint = snapshot.version
    return True


def _is_same(written: Snapshot, snapshot: Snapshot) -> bool:
    """Return whether a checkpoint says what *snapshot* does, as far as anything depends on it."""
    return (
        written.adds.keys() == snapshot.adds.keys()
        and written.removes.keys() == snapshot.removes.keys()
        and {app: txn["version"] for app, txn in written.txns.items()}
        == {app: t["version"] for app, t in snapshot.txns.items() if not is_taken_off(t)}
        and written.metadata.get("schemaString") == snapshot.metadata.get("schemaString")
        and written.metadata.get("configuration") == snapshot.metadata.get("configuration")
    )


def _actions(
    snapshot: Snapshot, removes: Sequence[Action]
) -> list[tuple[str, dict[str, Any]]] | None:
    actions: list[tuple[str, dict[str, Any]]] = [
        ("protocol", snapshot.protocol),
        ("metaData", snapshot.metadata),
        *(("txn", txn) for txn in snapshot.txns.values() if not is_taken_off(txn)),
        *(("add", {**add, "dataChange": False}) for add in snapshot.adds.values()),
        *(("remove", {**remove, "dataChange": False}) for remove in removes),
    ]
    unknown = set(snapshot.unknown)
    # delta-rs writes null for fields it does not use.
    actions = [(kind, {k: v for k, v in body.items() if v is not None}) for kind, body in actions]
    for kind, body in actions:
        unknown |= {f"{kind}.{key}" for key in body.keys() - _KNOWN[kind]}
    if unknown:
        log.info("no checkpoint: it could not carry %s over", ", ".join(sorted(unknown)))
        return None
    return [(kind, _maps(body)) for kind, body in actions]


def _maps(body: dict[str, Any]) -> dict[str, Any]:
    """Turn maps into the pairs Arrow wants (a struct is a dict to it, too)."""
    result = dict(body)
    for key in ("partitionValues", "tags", "configuration"):
        if result.get(key) is not None:
            result[key] = list(result[key].items())
    if "format" in result:
        options = result["format"].get("options") or {}
        result["format"] = {**result["format"], "options": list(options.items())}
    return result


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # whoever runs us may have any umask


def _put_file(
    log_dir: str, name: str, data: Any, check: Callable[[str], None] = lambda path: None
) -> None:
    """Write a file whole under its name, replacing what was there; *check* sees it before."""
    # Readers take no name with a leading dot for theirs; opening sweeps it up after a crash.
    temporary = os.path.join(log_dir, f".{name}.{uuid.uuid4()}.tmp")
    try:
        with open(temporary, "xb", opener=_private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        check(temporary)
        fault("checkpoint:rename")
        os.rename(temporary, os.path.join(log_dir, name))
    except BaseException:
        unlink_quietly(temporary)
        raise
    fsync_path(log_dir)
    fault("checkpoint:done")
