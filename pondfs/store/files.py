"""From the log's add actions to handles of data files."""

from pondfs.store.content import DataFile
from pondfs.store.deltalog import Action, Snapshot


def data_files(store: str, snapshot: Snapshot) -> list[DataFile]:
    """Return a handle for each active data file."""
    return [_data_file(store, name, add) for name, add in snapshot.adds.items()]


def _data_file(store: str, name: str, add: Action) -> DataFile:
    return DataFile(store, name, add["size"], add.get("stats") or "", add["modificationTime"])
