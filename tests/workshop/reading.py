"""A corpus, read as the stages read it."""

import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from pipeline.corpus.readers import Document, ReadOptions, find_splits, read_documents

PARAGRAPHS = ReadOptions()
TEXT = pa.string()

# A line as it comes back from a corpus, and a corpus of documents of such lines.
line = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
    .map(lambda text: " ".join(text.replace("\0", "").replace("\ufeff", "").split()))
    .map(lambda text: unicodedata.normalize("NFC", text))
    .filter(lambda text: text.strip() == text != "")
)
corpora = st.lists(st.lists(line, min_size=1, max_size=5), min_size=1, max_size=8)


def read(*specs: object, options: ReadOptions = PARAGRAPHS) -> list[Document]:
    found = find_splits([str(spec) for spec in specs], options.format)
    return [document for split in found for document in read_documents(split, options)]


def texts(*specs: object, options: ReadOptions = PARAGRAPHS) -> list[str]:
    return [document.text for document in read(*specs, options=options)]


def write_parquet(path: Path, rows: list[str | None], kind: pa.DataType = TEXT, **more: object) -> None:
    pq.write_table(pa.table({"id": list(range(len(rows))), "text": pa.array(rows, kind)}), path, **more)
