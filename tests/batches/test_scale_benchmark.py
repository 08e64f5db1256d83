"""`benchmarks/scale.py` measures what it says: shards as asked for, and sides that find the same samples."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus.manifest import read_manifest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "scale.py"
SHARDS, RANKS, BATCH = 300, 16, 256


@pytest.fixture(scope="module")
def scale() -> Any:
    spec = importlib.util.spec_from_file_location("scale_benchmark", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(scale: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = str(tmp_path_factory.mktemp("scale"))
    scale.make_folder(made, SHARDS)
    return made


def test_the_shards_are_those_asked_for(scale: Any, folder: str) -> None:
    shards = read_manifest(folder).shards
    assert len(shards) == SHARDS
    # A million of them are to be 10^12 tokens, special ones included.
    a_shard = (shards.total("tokens") + 3 * shards.total("pairs")) / SHARDS
    assert a_shard == pytest.approx(1e6, rel=0.05)
    for shard in shards[:5]:
        assert sum(shard.block_pairs) == shard.pairs
        ends = [*shard.block_offsets[1:], shard.bytes - 1024]
        for start, end, pairs in zip(shard.block_offsets, ends, shard.block_pairs, strict=True):
            assert 150 * pairs < end - start < 300 * pairs + 2048


def test_ranks_share_out_what_is_read(scale: Any, folder: str) -> None:
    found = scale.reading(folder, RANKS, BATCH)
    # Over the even part stand only the blocks in which one lane ends and another begins.
    assert 1 <= found["node"] / found["ideal"] < 1.1
    least, most, all_of_them = found["tars"]
    assert 0 < least <= most < all_of_them
    for span, width in (("step", 0.1), ("epoch", 0.02)):
        least, most = found[span]
        assert 1 - width < least < 1 < most < 1 + width


def test_json_and_index_lead_to_the_same_samples(
    scale: Any, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(side: str, *given: Any) -> Any:
        return scale.SIDES[side](*given)

    trained = here("trainer", folder, RANKS, BATCH)
    assert trained["sent"]["table"] < 1000
    scale.list_as_json(folder)
    listed = here("json_objects", folder, RANKS, BATCH)
    assert listed["first"] == here("worker", folder, RANKS, BATCH)["first"]
    assert listed["sent"]["table"] > 100 * trained["sent"]["table"]
    asked = ["--shards", str(SHARDS), "--ranks", str(RANKS), "--global-batch", str(BATCH)]
    scale.main(asked, run=here)
    said = capsys.readouterr().out
    assert f"{SHARDS} shards" in said
    assert "growth" in said
