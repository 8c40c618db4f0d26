"""Get a pond's files back without pondfs: by `pip install polars deltalake`, and format.md.

python recover.py STORE list [VERSION]    mode, links, uid, gid, size, mtime (ns) and path
python recover.py STORE get PATH [VERSION] > out
"""

import os
import shutil
import sys
import tempfile

import polars as pl
from deltalake import DeltaTable

store, verb, *rest = sys.argv[1:]
wanted = os.fsencode(rest.pop(0)).strip(b"/") if verb == "get" else b""
at = pl.col("version") * 2**32 + pl.col("seq")  # the order of all rows
files = [os.path.join(store, os.path.basename(uri)) for uri in DeltaTable(store).file_uris()]
rows = pl.scan_parquet(files, glob=False, include_file_paths="file").drop("content")
versions = rows.filter(pl.col("op") == "commit").collect()["version"].to_list()
version = int(rest[0]) if rest else max(versions)
if version not in versions:
    sys.exit(f"there is no version {version}, there are {sorted(versions)}")
rows = rows.filter(pl.col("version") <= version, pl.col("op") != "commit").sort(at)

# The last word about each node, and about each name in a directory; then the paths they make.
about = rows.filter(pl.col("mode").is_not_null() | (pl.col("removed") & pl.col("name").is_null()))
nodes = {row["node_id"]: row for row in about.group_by("node_id").last().collect().to_dicts()}
names = rows.filter(pl.col("name").is_not_null()).group_by("part_id", "name", "name_bytes").last()
inside: dict[str, list[tuple[bytes, str]]] = {}
for row in names.filter(~pl.col("removed")).collect().to_dicts():
    name = row["name_bytes"] or row["name"].encode()
    inside.setdefault(row["part_id"], []).append((name, row["node_id"]))
tree, todo = dict[bytes, str](), [(b"", f"{1:016x}")]
while todo:
    path, node = todo.pop()
    tree[path] = node
    todo.extend((path + b"/" * bool(path) + name, below) for name, below in inside.get(node, []))
line = "{mode:06o} {nlink} {uid} {gid} {size} {mtime_ns}"
if verb == "list":
    for path, node in sorted(tree.items()):
        print(line.format(**nodes[node]), repr("/" + os.fsdecode(path)))
elif wanted not in tree or nodes[tree[wanted]]["file_type"] not in ("file", "symlink"):
    sys.exit(f"version {version} has no file {os.fsdecode(wanted)!r}")
else:  # its rows in order, 16 MiB of content at a time, each over what is there
    mine, length = pl.col("node_id") == tree[wanted], pl.col("length").fill_null(0)
    parts = rows.filter(mine).select("file", at=at, step=length.cum_sum() // 2**24).collect()
    with tempfile.TemporaryFile() as out:
        for _, part in parts.group_by("step", maintain_order=True):
            these = mine & at.is_between(part["at"][0], part["at"][-1])
            some = pl.scan_parquet(part["file"].unique().to_list(), glob=False).filter(these)
            for row in some.sort(at).collect().to_dicts():
                if row["valid_below"] is not None:
                    out.truncate(row["valid_below"])
                out.seek(row["offset"] or 0)
                out.write(row["content"])
        out.truncate(nodes[tree[wanted]]["size"])
        out.seek(0)
        shutil.copyfileobj(out, sys.stdout.buffer)
