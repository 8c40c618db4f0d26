"""Read a pond without pondfs: it is a Delta table, so any reader of those will do. This is Polars.

    python second_reader.py STORE [PATH]

Prints the newest version's tree below PATH's directory, and the file PATH itself.
"""

import sys

import polars as pl

ROOT = "0000000000000001"

store, wanted = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else "")
rows = pl.scan_delta(store).sort("version", "seq")

# The tree: the last word about each name, and about each node's attributes.
entries = (
    rows.filter(pl.col("name").is_not_null())
    .group_by("part_id", "name", "name_bytes")
    .agg(pl.last("node_id", "file_type", "removed"))
    .filter(~pl.col("removed"))
)
sizes = (
    rows.filter(pl.col("size").is_not_null()).group_by("node_id").agg(pl.last("size", "version"))
)
tree = entries.join(sizes, on="node_id").collect()

# Names are chained by directory: walk down the path that was asked for.
here, node = ROOT, None
for name in filter(None, wanted.split("/")):
    found = tree.filter((pl.col("part_id") == here) & (pl.col("name") == name))
    if found.is_empty():
        sys.exit(f"{wanted}: no such file")
    node = found["node_id"].item()
    if found["file_type"].item() == "directory":
        here, node = node, None

print(
    tree.filter(pl.col("part_id") == here)
    .select("name", "file_type", "size", "version")
    .sort("name")
)

# A file: its extents in order, each write over the ones before it.
if node is not None:
    content = bytearray()
    size = 0
    columns = ("size", "valid_below", "offset", "content")
    for size_then, valid_below, offset, data in (
        rows.filter(pl.col("node_id") == node).select(columns).collect().iter_rows()
    ):
        if valid_below is not None:
            del content[valid_below:]
        if offset is not None:
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
        size = size if size_then is None else size_then
    content.extend(bytes(max(0, size - len(content))))
    text = content[:size].decode(errors="replace").splitlines()
    print(f"{wanted}: {size} bytes; it begins:", *text[:3], sep="\n  ")
