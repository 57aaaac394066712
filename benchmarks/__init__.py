"""Timings of nfstudy against other libraries on the same machine: `python -m benchmarks`."""
