"""Shards → masked micro-batches."""
