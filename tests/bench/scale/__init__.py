"""How pond behaves when there is much of something: what ``make bench-scale`` runs.

- ``bench``: what a row gets to work with, and notes its figures in; ``progress`` on stderr
- ``process`` ``stored``: what a daemon takes in memory, and what a store holds
- a module for each row of the table: ``million`` ``directory`` ``versions`` ``fsyncs`` (with
  ``programs`` and ``postgres``) ``large`` ``lines`` ``server`` (with ``curves``) ``clustering``
- ``sections``: all rows in their order, and the loop; ``run``: the command

Everything is made through a mount, by default options, unless a module says otherwise.
"""
