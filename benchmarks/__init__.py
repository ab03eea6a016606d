"""Benchmarks: ours and the peers in turn, each in a process of its own, and how many times as fast ours is."""
