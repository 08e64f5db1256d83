"""How much text a corpus holds, told from its files' sizes before it is read.

In: splits, and how they are to be read. Out: the expected bytes of text as UTF-8. What always holds: no file is read
but the footers of Parquet's. An estimate: JSON's other keys and wikiextractor's tags count as text, compressed files
are taken to hold what others of their kind do (`compressed.plain_bytes`).

Example:
    expected_text_bytes(find_splits(["corpus/"]), ReadOptions())
"""

from collections.abc import Sequence
from functools import partial

from pipeline.corpus.parquet_files import open_parquet
from pipeline.corpus.readers import TEXT_KEYS, ReadOptions
from pipeline.corpus.splits import Split
from pipeline.corpus.threads import in_threads


def expected_text_bytes(splits: Sequence[Split], options: ReadOptions) -> int:
    """About how many bytes of text all files of `splits` hold. Raises InputError where a Parquet file is none."""
    keys = TEXT_KEYS if options.text_key is None else (options.text_key,)
    tables = sorted({split.path for split in splits if split.kind == "parquet"})
    others = sum(split.bytes for split in splits if split.kind != "parquet")
    return others + sum(in_threads(partial(_column_bytes, keys=keys), tables))


def _column_bytes(path: str, keys: Sequence[str]) -> int:
    """The uncompressed bytes of the first of these columns that the file has; of all where it has none."""
    with open_parquet(path) as file:
        metadata, schema = file.metadata, file.metadata.schema
    names = [schema.column(index).path for index in range(len(schema.names))]
    for key in keys:
        # A list's strings stand at `sentences.list.element`, a struct's at `doc.body`.
        if chosen := [at for at, name in enumerate(names) if name == key or name.startswith(f"{key}.")]:
            break
    else:
        chosen = list(range(len(names)))
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    return sum(group.column(at).total_uncompressed_size for group in groups for at in chosen)
