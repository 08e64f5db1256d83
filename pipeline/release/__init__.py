"""Checkpoint → the world."""
