"""Micro-batches → checkpoints."""
