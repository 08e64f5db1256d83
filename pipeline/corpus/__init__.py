"""Raw text → vocabulary and shards."""
