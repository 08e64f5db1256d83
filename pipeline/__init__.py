"""bertpipe's stages, in the order of the road.

corpus (text → vocabulary, shards) → batches (shards → masked micro-batches) → training
(micro-batches → checkpoints) → release (checkpoint → Hugging Face folder). A module imports only
what lies earlier on that road; `model/` holds the network and imports nothing from here.
"""

__version__ = "0.1.0"
