"""The folder in which bad inputs are tried: good things, and each of them broken in one way."""

import bz2
import gzip
import json
import lzma
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline import lineage
from workshop.shard_folders import list_other_shards

TEXT = "\n\n".join(f"Document {n} says this.\nAnd that follows it.\nIts end is {n}." for n in range(60))


def build(folder: Path, shards: Path, cli: Any) -> None:
    """Fill `folder`; `shards` are good ones of pairs of up to 64 tokens."""
    _corpora(folder)
    _sources(folder)
    _vocabularies(folder, shards)
    _shard_folders(folder, shards)
    _recipes(folder)
    done = cli("pretrain", "good.yaml", "run=TRAINED", cwd=folder)
    assert done.returncode == 0, done.stderr
    _checkpoints(folder)


def _corpora(folder: Path) -> None:
    rows = [{"text": text, "n": n} for n, text in enumerate(TEXT.split("\n\n"))]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "good.txt").write_text(TEXT)
    (folder / "good.jsonl").write_text(lines)
    pq.write_table(pa.Table.from_pylist(rows), folder / "good.parquet")
    wiki = "".join(
        f'<doc id="{row["n"]}" url="u" title="T{row["n"]}">\nT{row["n"]}\n\n{row["text"]}\n</doc>\n'
        for row in rows
    )
    (folder / "wiki_00").write_text(wiki)
    compress: dict[str, Callable[[bytes], bytes]] = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    }
    for suffix, packed in compress.items():
        data = packed(TEXT.encode())
        (folder / f"good.txt.{suffix}").write_bytes(data)
        (folder / f"short.txt.{suffix}").write_bytes(data[: len(data) // 2])
    (folder / "liar.txt.gz").write_text(TEXT)  # no gzip at all
    (folder / "empty.txt").touch()
    (folder / "blank.txt").write_text(" \n\n\t\n")
    (folder / "one.txt").write_text("Only one document stands here.\nIt has two paragraphs.\n")
    (folder / "latin1.txt").write_bytes(b"good line\nbad \xff line\n")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "broken.jsonl").write_text(lines.splitlines()[0] + "\n" + '{"text": "no end\n' + lines)
    (folder / "keyless.jsonl").write_text(lines + '{"body": "x"}\n')
    (folder / "number.jsonl").write_text('{"text": 3}\n')
    (folder / "list.jsonl").write_text('["text"]\n')
    (folder / "textless.parquet").write_bytes(b"")
    pq.write_table(pa.table({"body": ["a"], "title": ["b"]}), folder / "textless.parquet")
    doubled = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
    pq.write_table(doubled, folder / "doubled.parquet")
    (folder / "short.parquet").write_bytes((folder / "good.parquet").read_bytes()[:-200])
    (folder / "open_00").write_text(wiki[: wiki.rindex("</doc>")])
    (folder / "FOLDER").mkdir()
    (folder / "stale.txt").symlink_to("gone.txt")
    os.mkfifo(folder / "PIPE")


def _sources(folder: Path) -> None:
    def write(name: str, **sources: Any) -> None:
        (folder / name).write_text(yaml.safe_dump({"sources": sources}))

    write("sources.yaml", good={"corpus": "good.txt"}, more={"corpus": ["good.jsonl"], "weight": 2})
    write("unsourced.yaml")
    write("wieght.yaml", good={"corpus": "good.txt", "wieght": 2})
    write("corpusless.yaml", good={"weight": 2})
    write("weight0.yaml", good={"corpus": "good.txt", "weight": 0})
    write("weight-1.yaml", good={"corpus": "good.txt", "weight": -1})
    write("weighttext.yaml", good={"corpus": "good.txt", "weight": "heavy"})
    write("nofiles.yaml", good={"corpus": "good.txt"}, hollow={"corpus": "FOLDER"})
    write("japanese.yaml", good={"corpus": "good.txt", "language": "de", "words": True})


def _vocabularies(folder: Path, shards: Path) -> None:
    good = (shards / "vocab" / "vocab.txt").read_text()
    for name, text in (
        ("VOCAB", good),
        ("NOMASK", good.replace("[MASK]\n", "")),
        ("DOUBLE", good + "[SEP]\n"),
        ("HOLE", good + "\n\nend\n"),
    ):
        (folder / name).mkdir()
        (folder / name / "vocab.txt").write_text(text)
    shutil.copytree(shards / "vocab", folder / "OTHERJSON")
    (folder / "OTHERJSON" / "vocab.txt").write_text(good + "more\n")


def _shard_folders(folder: Path, shards: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(shards, folder / name))

    def change(name: str, **values: Any) -> None:
        path = copy(name) / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    copy("SHARDS")
    change("NEWER", format_version=99)
    (copy("NOJSON") / "manifest.json").write_text("{")
    (copy("TARLESS") / "train-00000.tar").unlink()
    (copy("NOVOCAB") / "vocab" / "vocab.txt").unlink()
    tar = copy("CUT") / "train-00000.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 3])
    tar = copy("FLIPPED") / "train-00000.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 16
    tar.write_bytes(bytes(data))
    manifest = json.loads((shards / "manifest.json").read_text())
    change("OTHERVOCAB", vocabulary=manifest["vocabulary"] | {"hash": "0" * 32})
    list_other_shards(copy("TRAINONLY"), lambda tars: [each for each in tars if each.split == "train"])
    (copy("INDEXLESS") / "index.arrow").unlink()
    index = copy("CUTINDEX") / "index.arrow"
    index.write_bytes(index.read_bytes()[:-8])


def _recipes(folder: Path) -> None:
    phase = {"shards": "SHARDS", "sequence_length": 64, "global_batch": 16, "micro_batch": 4, "steps": 1}
    good = {
        "run": "OUT",
        "model": {"preset": "tiny", "hidden_size": 32, "intermediate_size": 64},
        "lanes": 8,
        "phases": [phase | {"learning_rate": 1e-3}],
        "evaluate": {"every": 1, "sequences": 16},
        "tracking": {"experiment": None},
    }
    (folder / "good.yaml").write_text(yaml.safe_dump(good))
    (folder / "list.yaml").write_text("- run\n- phases\n")
    (folder / "broken.yaml").write_text("run: OUT\nphases: [\n")
    (folder / "typo.yaml").write_text(yaml.safe_dump(good | {"precison": "fp32"}))
    (folder / "batch.json").write_text('{"train_batch_size": 8}')
    (folder / "prescaled.json").write_text('{"prescale_gradients": true}')
    (folder / "stage7.json").write_text('{"zero_optimization": {"stage": 7}}')
    (folder / "nvme.json").write_text(
        '{"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}'
    )
    (folder / "TAKEN").mkdir()
    (folder / "TAKEN" / "thesis.txt").write_text("mine")


def _checkpoints(folder: Path) -> None:
    whole = folder / "TRAINED" / "checkpoints" / "step-00000001"

    def copy(name: str) -> Path:
        return Path(shutil.copytree(whole, folder / name))

    copy("CHECKPOINT")
    weights = copy("CUTCHECKPOINT") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (copy("NOTHINGSAID") / "checkpoint.json").write_text("{}")
    newer = copy("NEWERCHECKPOINT") / "checkpoint.json"
    newer.write_text(json.dumps(json.loads(newer.read_text()) | {"format_version": 99}))
    gated = copy("GATED") / "checkpoint.json"
    said = json.loads(gated.read_text())
    del said["hash"]
    said["model"]["activation"] = "geglu"
    gated.write_text(json.dumps(said | {"hash": lineage.hash_json(said)}))
    rewound = Path(shutil.copytree(folder / "TRAINED", folder / "REWOUND", symlinks=True))
    record = rewound / "checkpoints" / whole.name / "checkpoint.json"
    record.write_text(record.read_text().replace('"step": 1,', '"step": 0,', 1))
    (copy("SWAPPED") / "vocab" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
