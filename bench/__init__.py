"""Benchmarks: each kernel beside its floor, each training step beside the peers that are installed."""
