"""citykit measured against its peers: ``python -m tests.benchmarks``."""
