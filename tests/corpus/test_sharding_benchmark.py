"""What `benchmarks/sharding.py` stands on: copies that are documents of their own, and costs that are told truly."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from workshop.partitions import load_part

TEXTS = [
    " ".join(f"{word}{place} morning letters" if place % 3 else "harvest window" for place in range(80))
    for word in ("river", "mountain", "garden")
]


@pytest.fixture(scope="module")
def generated() -> Any:
    return load_part("generated_text")


@pytest.fixture(scope="module")
def watched() -> Any:
    return load_part("watched_process")


def test_no_two_documents_of_the_copies_are_equal_and_words_grow(generated: Any) -> None:
    copies = [list(generated.copy_of(TEXTS, number)) for number in range(5)]
    assert copies[0] == TEXTS
    assert copies[3] == list(generated.copy_of(TEXTS, 3))
    documents = [text for copy in copies for text in copy]
    assert len(set(documents)) == len(documents) == 5 * len(TEXTS)
    first = set(" ".join(TEXTS).split())
    assert any(
        word.isalpha() and word not in first for text in copies[4] for word in text.split("\n")[0].split()
    )


def test_text_is_grown_to_the_size_that_is_asked_for(generated: Any) -> None:
    size = sum(map(len, TEXTS))
    grown = generated.grow(iter(TEXTS), 3.5 * size)
    assert grown[: len(TEXTS)] == TEXTS
    assert 3.5 * size <= sum(map(len, grown)) < 4.5 * size
    assert generated.grow(iter(TEXTS), len(TEXTS[0])) == TEXTS[:1]


def test_a_process_is_told_with_its_childrens_time_and_memory(watched: Any, tmp_path: Path) -> None:
    (tmp_path / "run.arrow").write_bytes(bytes(1000))
    child = "import time\nheld = b'x' * (80 << 20)\nwhile time.process_time() < 0.3: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('done')"
    began = time.perf_counter()
    cost = watched.watch([sys.executable, "-c", parent], spills=tmp_path)
    assert 0.2 <= cost.wall <= time.perf_counter() - began
    assert cost.cpu >= 0.2
    assert cost.output == "done\n"
    assert len(cost.peaks) == 2
    assert cost.peaks[0] < 80 << 20 < cost.peak
    assert cost.spill == 1000


def test_a_command_that_fails_is_no_measurement(watched: Any) -> None:
    with pytest.raises(RuntimeError, match="ended with 3"):
        watched.watch([sys.executable, "-c", "raise SystemExit(3)"])
