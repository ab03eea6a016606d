"""Benchmarks: ours and a peer in turn, in one process, and the ratio of each pair."""
