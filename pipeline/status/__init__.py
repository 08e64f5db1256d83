"""What a run is doing, read from its folder by whoever may read it."""
