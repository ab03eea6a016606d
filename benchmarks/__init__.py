"""Benchmarks: ours and the peers in turn, in one process, and how many times as fast ours is as the best of them."""
