"""``python -m tests.bench.scale``: what ``make bench-scale`` runs."""

from tests.bench.scale.run import main

main()
