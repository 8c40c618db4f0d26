"""What a log says of data files that went: which, when, and by whom.

There may be many more of them than data files in use, as each stays until its file is gone from
the disk; and hardly anybody wants to know more than their names. So those of a checkpoint stay as
Arrow has them until they are asked for, and go into the next checkpoint like that. (15,000 of them
as dicts cost an opening 0.1 s, and each checkpoint 0.4 s of a thread that commits wait for;
measured 2026-11.)
"""

from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

Action = dict[str, Any]


class Tombstones(MutableMapping[str, Action]):
    """Remove actions by the name of the file: first those of a checkpoint, then later ones."""

    def __init__(self) -> None:
        # A pyarrow.StructArray, and where in it each name stands.
        self._stored: Any = None
        self._places: dict[str, int] = {}
        self._later: dict[str, Action] = {}

    def take(self, bodies: Any, names: Sequence[str]) -> None:
        """Take over the remove actions of a checkpoint: a StructArray, and whose each is."""
        self._stored = bodies
        self._places = {name: at for at, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self._places) + len(self._later)

    def __iter__(self) -> Iterator[str]:
        yield from self._places
        yield from self._later

    def __contains__(self, name: object) -> bool:
        return name in self._places or name in self._later

    def __getitem__(self, name: str) -> Action:
        at = self._places.get(name)
        return self._later[name] if at is None else _action(self._stored[at].as_py())

    def __setitem__(self, name: str, body: Action) -> None:
        self._places.pop(name, None)
        self._later[name] = body

    def __delitem__(self, name: str) -> None:
        if self._places.pop(name, None) is None:
            del self._later[name]

    def find_tagged(self, tag: str) -> Iterator[tuple[str, str | None, int]]:
        """Yield of each its name, what *tag* says of it, and when it went (ms since 1970, or 0)."""
        if self._places:
            tags = _column(self._stored, "tags")
            said = [None] * len(self._stored) if tags is None else _look_up(tags, tag)
            times = _column(self._stored, "deletionTimestamp")
            went = [None] * len(self._stored) if times is None else times.to_pylist()
            for name, at in self._places.items():
                yield name, said[at], went[at] or 0
        for name, body in self._later.items():
            yield name, (body.get("tags") or {}).get(tag), body.get("deletionTimestamp") or 0

    def split(self) -> tuple[Any, list[Action]]:
        """Return those that are in Arrow, None or a StructArray; and the others."""
        stored = self._stored
        if stored is not None and len(self._places) < len(stored):
            stored = stored.take(_indices(list(self._places.values())))
        return stored, list(self._later.values())


def _column(bodies: Any, name: str) -> Any:
    """Return the column, or None where another program's checkpoint has none."""
    return bodies.field(name) if bodies.type.get_field_index(name) >= 0 else None


def _look_up(maps: Any, key: str) -> list[str | None]:
    import pyarrow.compute as pc

    found: list[str | None] = pc.map_lookup(maps, query_key=key, occurrence="first").to_pylist()
    return found


def _indices(places: list[int]) -> Any:
    import pyarrow as pa

    return pa.array(places, pa.int32())


def _action(body: dict[str, Any]) -> Action:
    """Turn it into what the JSON entry had: maps are dicts, nulls left out."""
    return {
        key: dict(value) if isinstance(value, list) else value
        for key, value in body.items()
        if value is not None
    }
