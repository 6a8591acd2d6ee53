"""How fast zserve is beside its peers: ``python -m benchmarks run``.  The method is in docs/benchmarks.md."""
