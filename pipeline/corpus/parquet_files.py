"""Parquet → documents: one a row, whose text is a string or a list of sentences.

In: a path, a range of row groups, the columns to look at, and the policy for what is no UTF-8. Out: a document a
row. What always holds: a missing column, or one of another type, is an error that names those that would do; of
several columns the first counts in which the row holds something; null is an empty document.

A column is first taken by its whole name and then as a path through structs, as keys are in JSON Lines.

Example:
    for parsed in parquet_documents("corpus/a.parquet", (0, 4), ("text", "sentences"), "error"): ...
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.corpus.json_lines import parsed_texts
from pipeline.corpus.text_files import Parsed
from pipeline.corpus.utf8 import Policy
from pipeline.errors import InputError, first_line

READ_BYTES = (
    1 << 20
)  # asked of a file at once; whole column chunks otherwise, which are as large as their row group
BATCH_ROWS = 256  # documents decoded at once: 0.5 MB at the shared corpus's median, 256 MB of 1 MB books

_Path = tuple[str, ...]  # a column's name, and those of fields inside it


@contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """The Parquet file at `path`. Raises InputError where it is none or turns out damaged on the way."""
    try:
        with (
            storage.open_read(path) as stream,
            pq.ParquetFile(stream, buffer_size=READ_BYTES, pre_buffer=False) as file,
        ):
            yield file
    except (pa.ArrowException, OSError) as error:
        # Arrow reports damaged data as an OSError without a number; the system's own have one.
        reason = getattr(error, "strerror", None)
        if reason:
            raise InputError(f"cannot read {path}: {reason}") from error
        detail = first_line(error)
        raise InputError(f"{path} is no whole Parquet file ({detail}); copy or write it anew") from error


def parquet_documents(
    path: str, row_groups: tuple[int, int], keys: Sequence[str], policy: Policy
) -> Iterator[Parsed]:
    """The documents of some row groups, first and one past the last."""
    with open_parquet(path) as file:
        columns = _columns(path, file.schema_arrow, keys)
        row = sum(file.metadata.row_group(group).num_rows for group in range(row_groups[0]))
        batches = file.iter_batches(
            BATCH_ROWS,
            row_groups=list(range(*row_groups)),
            columns=[".".join(column) for column in columns],
            use_threads=False,
        )
        for batch in batches:
            # `pa.Table`'s and the batch's names are those of whole columns, whatever was chosen inside.
            arrays = [_inside(batch.column(column[0]), column[1:]) for column in columns]
            for values in zip(*arrays, strict=True):
                row += 1
                value = next((value for value in values if value.is_valid), None)
                if value is None:
                    yield Parsed(lines=[])
                elif _is_list(value.type):
                    texts = [_text(path, row, each, policy) for each in value.values if each.is_valid]
                    yield parsed_texts(
                        [text for text, _ in texts], sentences=True, broken=any(bad for _, bad in texts)
                    )
                else:
                    text, broken = _text(path, row, value, policy)
                    yield parsed_texts([text], sentences=False, broken=broken)


def _inside(array: pa.Array, names: _Path) -> pa.Array:
    if not names:
        return array
    import pyarrow.compute as pc  # 40 ms that few corpora need

    return pc.struct_field(array, list(names))


def _text(path: str, row: int, value: Any, policy: Policy) -> tuple[str, bool]:
    """The value as text, and whether some of it was no UTF-8."""
    try:
        return value.as_py(), False
    except UnicodeDecodeError as error:
        if policy == "error":
            raise InputError(
                f"{path}: row {row} is no UTF-8 (byte 0x{error.object[error.start]:02x}); write the column anew, or "
                "choose --invalid-utf8 replace or skip"
            ) from error
        return error.object.decode("utf-8", "replace"), True


def _columns(path: str, schema: pa.Schema, keys: Sequence[str]) -> list[_Path]:
    """Of `keys`, those that lead to text."""
    found = {key: place for key in keys if (place := _place(path, schema, key)) is not None}
    fitting = [place for place, kind in found.values() if _is_text(kind) or _is_null(kind)]
    if fitting:
        return fitting
    if not found:
        wanted = " and no ".join(repr(key) for key in keys)
        raise InputError(
            f"{path} has no column {wanted}; its columns are {', '.join(schema.names)} (--text-key)"
        )
    texts = ", ".join(_texts_of(schema)) or "none"
    key, (_, kind) = next(iter(found.items()))
    raise InputError(f"{path}: column {key!r} holds {kind}, not text; columns of text: {texts} (--text-key)")


def _place(path: str, schema: pa.Schema, key: str) -> tuple[_Path, pa.DataType] | None:
    names = (key,) if key in schema.names else tuple(key.split("."))
    fields: pa.Schema | None = schema
    kind: pa.DataType | None = None
    for depth, name in enumerate(names, start=1):
        if fields is None or name not in fields.names:
            return None
        if (times := fields.names.count(name)) > 1:
            raise InputError(
                f"{path} has {times} columns {'.'.join(names[:depth])!r}; rename all but one, or name another "
                "(--text-key)"
            )
        kind = fields.field(name).type
        fields = pa.schema(list(kind)) if pa.types.is_struct(kind) else None
    return (names, kind) if kind is not None else None


def _texts_of(fields: Any, before: str = "") -> Iterator[str]:
    """The dotted names of all columns and fields that hold text."""
    for field in fields:
        if pa.types.is_struct(field.type):
            yield from _texts_of(list(field.type), f"{before}{field.name}.")
        elif _is_text(field.type):
            yield before + field.name


def _is_text(kind: pa.DataType) -> bool:
    return _is_string(kind.value_type) if _is_list(kind) else _is_string(kind)


def _is_null(kind: pa.DataType) -> bool:
    """Whether nothing but null stands there, so that no type of text was written down."""
    return bool(pa.types.is_null(kind.value_type if _is_list(kind) else kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_string(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
