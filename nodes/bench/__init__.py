"""Load generators: what ``zserve bench`` and the benchmarks of the repository share."""
