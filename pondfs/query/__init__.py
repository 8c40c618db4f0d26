"""SQL over a pond: its rows, its tree at any version, its log; read only, in our own process.

The only place that imports datafusion. No trio: everything blocks. In reading order:

- ``session``: `Session`, which joins the rest, and `Result`
- ``dataset``: how DataFusion is given a table of ours, with the filters and columns it wants
- ``oplog``: the rows as they are, data files skipped by statistics
- ``pond`` ``paths`` ``tree``: the tree at one version, as far as a query needs it
- ``functions``: table functions; ``spill``: room on the disk; ``trouble``: errors as one line
- ``contents``: files as tables, of ``read()`` and by their paths; ``rewrite``: its named arguments
- ``expand``: from a glob to files; ``source``: one of them; ``formats`` ``text``: what is in it
- ``describe``: the columns and rows of a file
- ``output`` ``table``: results as files and streams, and as a table for people
"""
