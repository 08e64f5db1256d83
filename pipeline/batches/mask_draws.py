"""The independent draws that masking and laying out make for a token or a sequence, and where their streams begin.

In: nothing. Out: numbers to mix with a sequence's key. What always holds: no two purposes share a number, so no
draw tells anything of another.
"""

import numpy as np

from pipeline.counter_random import key

MASK = int.from_bytes(b"mask")
# Which are drawn; what becomes of a token; which token stands in; how long is the span that begins with it; in which
# order come those that were not drawn. Are the segments swapped; what is the key of a text's sequence.
CHOOSE, ACT, REPLACE, SPAN, SHUFFLE, ORDER, TEXT = (np.uint64(key(MASK, purpose)) for purpose in range(7))
# A splitmix64 stream a sequence: state = key ^ purpose + (place + 1) · golden, then the finaliser.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
