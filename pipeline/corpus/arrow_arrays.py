"""numpy's arrays as Arrow's and back, without copying and without pandas.

In: arrays of numbers or truth values. Out: the other library's arrays over the same memory (truth values, which are
bits to Arrow, are copied). What always holds: `pa.array` and `to_numpy` import pandas, where it is installed, to see
whether they were given some of its own: half a second in every worker. These don't.

Example:
    from_arrow(to_arrow(np.arange(3)))
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def to_arrow(values: NDArray[Any]) -> pa.Array:
    """Numbers, or truth values, as an Arrow array."""
    if values.dtype == np.bool_:
        bits = np.packbits(values, bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])
    flat = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(flat.dtype), len(flat), [None, pa.py_buffer(flat)])


def from_arrow(array: pa.Array) -> NDArray[Any]:
    """An Arrow array of numbers, or of truth values, as numpy's."""
    if pa.types.is_boolean(array.type):
        return np.from_dlpack(array.cast(pa.uint8())).view(np.bool_)
    return np.from_dlpack(array)
