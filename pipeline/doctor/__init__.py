"""What this machine can do, and what a recipe would need of it."""
