"""What tests share beside fixtures: plain functions, imported as `helpers.…` (pyproject.toml's `pythonpath`)."""
