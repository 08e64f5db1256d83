"""Extending a vocabulary for a domain: ids stay, slots are filled by what saves most, the same however it runs."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus import extension, piece_choice
from pipeline.corpus.extension import ExtendConfig, run
from pipeline.corpus.piece_choice import Piece, choose_pieces
from pipeline.corpus.tokens import Encoder
from pipeline.corpus.vocabulary import SPECIALS, Vocabulary, load_vocabulary, save_vocabulary
from pipeline.errors import InputError, RunFailed

SLOTS = 40
PIECES = ("the", "of", "un", "##ing", "##ed", "cat", "sat", "##ap", "te")
PLAIN = "abcdefghijklmnopqrstuvwxyz.,"
OLD = Vocabulary(
    tokens=(
        "[PAD]",
        *(f"[unused{number}]" for number in range(SLOTS - 1)),
        *SPECIALS[1:],
        *PLAIN,
        *(f"##{character}" for character in PLAIN),
        *PIECES,
        f"[unused{SLOTS - 1}]",  # a slot behind the others, as Google's cased file has them
    ),
    cased=False,
)
FILES = ["lineage.json", "tokenizer.json", "vocab.txt"]


def domain(count: int, *, seed: int) -> list[str]:
    """Documents of a domain's own words, which share stems and ends, frequent ones and rare ones, Greek among them."""
    draw = random.Random(seed)
    stems = [f"{a}{b}" for a in ("card", "neph", "path", "therm", "λογ") for b in ("io", "o", "ali", "en")]
    ends = ["logy", "gram", "lytic", "sis", "cyte"]
    return [
        f"the cat {' '.join(draw.choice(stems[: draw.randint(1, 20)]) + draw.choice(ends) for _ in range(12))}."
        for _ in range(count)
    ]


DOCUMENTS = domain(120, seed=1)
UNSEEN = domain(40, seed=2)


@pytest.fixture
def old(tmp_path: Path) -> str:
    """The old vocabulary's folder: `vocab.txt` alone, as Google's come."""
    save_vocabulary(OLD, str(tmp_path / "old"))
    (tmp_path / "old" / "tokenizer.json").unlink()
    return str(tmp_path / "old")


def write(path: Path, documents: Sequence[str] = DOCUMENTS) -> str:
    path.write_text("\n\n".join(documents), encoding="utf-8")
    return str(path)


def extend(old: str, tmp_path: Path, output: str = "new", **settings: Any) -> Vocabulary:
    corpus = (write(tmp_path / "domain.txt"),)
    return run(
        ExtendConfig(**{"corpus": corpus, "vocabulary": old, "output": str(tmp_path / output)} | settings)
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def pieces_of(vocabulary: Vocabulary, texts: Sequence[str]) -> int:
    return len(Encoder(vocabulary).encode(texts)[0])


def test_old_tokens_keep_their_ids_and_only_slots_are_filled(old: str, tmp_path: Path) -> None:
    new = extend(old, tmp_path)
    assert new.size == OLD.size
    changed = [number for number in range(new.size) if new.tokens[number] != OLD.tokens[number]]
    assert changed == list(OLD.unused_ids)
    for name in ("pad_id", "unk_id", "cls_id", "sep_id", "mask_id"):
        assert getattr(new, name) == getattr(OLD, name)
    assert load_vocabulary(str(tmp_path / "new")) == new
    assert (tmp_path / "new" / "vocab.txt").read_text(encoding="utf-8") == "".join(
        f"{t}\n" for t in new.tokens
    )


def test_a_larger_size_appends_behind_all_old_ids_what_saves_less_than_the_slots_pieces(
    old: str, tmp_path: Path
) -> None:
    new = extend(old, tmp_path, size=OLD.size + 15)
    assert new.size == OLD.size + 15
    assert not new.unused_ids
    kept = set(range(OLD.size)) - set(OLD.unused_ids)
    assert all(new.tokens[number] == OLD.tokens[number] for number in kept)
    # What is appended saves no more than what the last slot got.
    shorter = extend(old, tmp_path, "shorter")
    counts = [pieces_of(vocabulary, DOCUMENTS) for vocabulary in (OLD, shorter, new)]
    assert counts[0] - counts[1] > counts[1] - counts[2] > 0


def test_text_of_the_domain_takes_fewer_pieces_and_nothing_that_it_showed_is_unknown(
    old: str, tmp_path: Path
) -> None:
    new = extend(old, tmp_path)
    for texts in (DOCUMENTS, UNSEEN):
        assert pieces_of(new, texts) < 0.5 * pieces_of(OLD, texts)
        assert OLD.unk_id in Encoder(OLD).encode(texts)[0]
        assert new.unk_id not in Encoder(new).encode(texts)[0]


def test_a_word_that_was_one_piece_still_is(old: str, tmp_path: Path) -> None:
    new = extend(old, tmp_path)
    words = [OLD.tokens[n] for n in range(OLD.size) if n not in {*OLD.special_ids, *OLD.continuing_ids}]
    assert len(words) > 30
    ids, lengths = Encoder(new).encode(words)
    assert lengths.tolist() == [1] * len(words)
    assert ids.tolist() == [OLD.tokens.index(word) for word in words]


def test_filled_slots_can_be_masked_and_drawn_and_empty_ones_cannot(old: str, tmp_path: Path) -> None:
    few = write(tmp_path / "few.txt", ["cardiology cardiology cardiology nephritis nephritis"])
    new = extend(old, tmp_path, corpus=(few,))
    special = SpecialIds.of(new)
    filled = [number for number in OLD.unused_ids if new.tokens[number] != OLD.tokens[number]]
    assert 0 < len(filled) < SLOTS
    assert filled == list(OLD.unused_ids[: len(filled)])
    assert set(filled) <= set(special.replaceable.tolist())
    assert set(special.special_ids) == {*OLD.special_ids} - {*filled}
    assert set(new.unused_ids) == {*OLD.unused_ids} - {*filled}
    for number in filled:
        assert special.is_continuing[number] == new.tokens[number].startswith("##")


def test_transformers_reads_the_folder_and_gives_our_ids(old: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    new = extend(old, tmp_path, size=OLD.size + 5)
    (tmp_path / "bare").mkdir()
    shutil.copy(tmp_path / "new" / "vocab.txt", tmp_path / "bare")
    texts = [*DOCUMENTS[:20], *UNSEEN[:20], "Cardiology, the CÁT λογος [MASK] 北"]
    for reader in (transformers.BertTokenizer, transformers.BertTokenizerFast):
        for folder in ("new", "bare"):
            theirs = reader.from_pretrained(str(tmp_path / folder))
            for text in texts:
                expected = theirs(text, add_special_tokens=False)["input_ids"]
                assert Encoder(new).encode([text])[0].tolist() == expected


def test_bytes_are_the_same_for_any_process_threads_order_and_kind_of_files(old: str, tmp_path: Path) -> None:
    write(tmp_path / "forward.txt")
    (tmp_path / "many").mkdir()
    write(tmp_path / "many" / "z.txt", DOCUMENTS[:50][::-1])
    lines = "".join(json.dumps({"text": document}) + "\n" for document in DOCUMENTS[50:][::-1])
    (tmp_path / "many" / "a.jsonl").write_text(lines)
    script = (
        "import sys; from pipeline.corpus.extension import ExtendConfig, run; "
        f"run(ExtendConfig(corpus=(sys.argv[1],), vocabulary={old!r}, output=sys.argv[2], size={OLD.size + 9}))"
    )
    for name, seed in (("forward.txt", "1"), ("many", "2")):
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / name), str(tmp_path / f"v{seed}")],
            check=True,
            capture_output=True,
            cwd=Path(extension.__file__).parents[2],
            env=os.environ | {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed},
        )
    found = contents(tmp_path / "v1")
    assert sorted(found) == FILES
    assert contents(tmp_path / "v2") == found


def test_the_lineage_says_what_was_extended_and_what_came_of_it(
    old: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = extend(old, tmp_path, size=OLD.size + 5)
    lineage = json.loads((tmp_path / "new" / "lineage.json").read_text())
    assert lineage["artefact"] == "vocabulary"
    assert lineage["vocabulary"] == {"hash": new.hash, "size": OLD.size + 5, "cased": False}
    assert lineage["extended"] == {
        "hash": OLD.hash, "size": OLD.size, "slots_filled": SLOTS, "pieces_appended": 5,
    }  # fmt: skip
    assert lineage["settings"]["extends"] == OLD.hash
    report = lineage["coverage_report"]
    assert report["before"]["all"]["pieces_a_word"] > report["all"]["pieces_a_word"]
    assert report["before"]["all"]["words"] == report["all"]["words"]
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"filled {SLOTS} of {SLOTS} unused slots and appended 5 pieces: ")
    assert said[0].split(": ")[1].split(", ")[0] == new.tokens[1]
    assert [line.split()[0] for line in said[3:5]] == ["before", "now"]


def test_an_extended_vocabulary_is_extended_again(old: str, tmp_path: Path) -> None:
    first = extend(old, tmp_path)
    with pytest.raises(
        InputError, match=r"new has no \[unusedN\] slot left to fill; give a --size over its \d+"
    ):
        extend(str(tmp_path / "new"), tmp_path, "again")
    again = extend(str(tmp_path / "new"), tmp_path, "again", size=OLD.size + 3)
    assert again.tokens[: OLD.size] == first.tokens
    lineage = json.loads((tmp_path / "again" / "lineage.json").read_text())
    assert lineage["extended"]["hash"] == first.hash
    assert lineage["extended"]["slots_filled"] == 0


def test_the_same_command_again_changes_nothing_and_another_is_refused(
    old: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = extend(old, tmp_path)
    before = contents(tmp_path / "new")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "new").iterdir()}
    capsys.readouterr()
    assert extend(old, tmp_path) == first
    assert capsys.readouterr().err == f"{tmp_path / 'new'} holds this vocabulary already\n"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "new").iterdir()} == times
    with pytest.raises(InputError, match=f"another vocabulary .size: {OLD.size + 1} here, {OLD.size} there"):
        extend(old, tmp_path, size=OLD.size + 1)
    with pytest.raises(InputError, match=r"another vocabulary .*documents: 40 here, 120 there"):
        extend(old, tmp_path, corpus=(write(tmp_path / "other.txt", UNSEEN),))
    with pytest.raises(InputError, match="of unknown origin"):
        extend(old, tmp_path, "old")
    save_vocabulary(Vocabulary(tokens=(*OLD.tokens, "more"), cased=False), str(tmp_path / "more"))
    with pytest.raises(InputError, match=f"extends: '[0-9a-f]+' here, '{OLD.hash}' there"):
        extend(str(tmp_path / "more"), tmp_path)
    assert contents(tmp_path / "new") == before


@pytest.mark.parametrize("last", FILES)
def test_killed_after_any_file_the_same_command_makes_it_whole(old: str, tmp_path: Path, last: str) -> None:
    extend(old, tmp_path)
    whole = contents(tmp_path / "new")
    for name in FILES[FILES.index(last) + 1 :]:
        (tmp_path / "new" / name).unlink()
    extend(old, tmp_path)
    assert contents(tmp_path / "new") == whole


def test_a_disk_that_fills_up_leaves_nothing(
    old: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole = storage.write_whole

    def full(path: str, write: Any) -> None:
        if path.endswith("vocab.txt"):
            raise RunFailed("cannot write: No space left on device")
        write_whole(path, write)

    monkeypatch.setattr(storage, "write_whole", full)
    with pytest.raises(RunFailed, match="No space"):
        extend(old, tmp_path)
    assert list((tmp_path / "new").iterdir()) == []


def test_casing_is_the_old_vocabularys(old: str, tmp_path: Path) -> None:
    assert not extend(old, tmp_path, corpus=(write(tmp_path / "a.txt", ["CARDIO CARDIO"]),)).cased
    cased = extend(old, tmp_path, "cased", corpus=(write(tmp_path / "b.txt", ["CARDIO CARDIO"]),), cased=True)
    assert cased.cased
    assert "CARDIO" in cased.tokens
    with pytest.raises(InputError, match=r"is cased, and uncased is asked for; leave the casing out"):
        extend(str(tmp_path / "cased"), tmp_path, "again", cased=False)


def test_a_size_beyond_what_the_corpus_allows_names_the_largest_that_then_works(
    old: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        extend(old, tmp_path, size=30000)
    assert not (tmp_path / "new").exists()
    largest = int(re.search(r"allows (\d+) at most", str(caught.value)).group(1))  # type: ignore[union-attr]
    assert extend(old, tmp_path, size=largest).size == largest
    with pytest.raises(InputError, match=f"allows {largest} at most"):
        extend(old, tmp_path, "more", size=largest + 1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"size": 50},
            rf"size is 50; .*old has {OLD.size} tokens, which keep their ids, so give more, or leave",
        ),
        ({"min_frequency": 0}, "min_frequency is 0; it must be 1 or more"),
        ({"max_bytes": 0}, "max_bytes is 0; it must be 1 or more"),
        ({"max_bytes": 3}, r"max_bytes is 3; the first documents drawn take \d+"),
        ({"vocabulary": "nowhere"}, "nowhere does not exist"),
        ({"corpus": ("nowhere.txt",)}, r"nowhere\.txt does not exist"),
        ({"min_frequency": 10**6}, "covers this corpus as it is: no piece would save 1000000 or more"),
    ],
)
def test_what_is_refused_leaves_nothing(
    old: str, tmp_path: Path, settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        extend(old, tmp_path, **settings)
    assert not (tmp_path / "new").exists()


def cut(word: str, known: frozenset[str]) -> list[str] | None:
    """The published greedy cut: the longest piece first; None where it comes to no end."""
    found, start = [], 0
    while start < len(word):
        ends = range(len(word), start, -1)
        piece = next((p for end in ends if (p := "##" * (start > 0) + word[start:end]) in known), None)
        if piece is None:
            return None
        found.append(piece)
        start += len(piece) - 2 * (start > 0)
    return found


def closed(*pieces: str) -> frozenset[str]:
    """The pieces, and each of their characters, which a vocabulary that was trained has as well."""
    characters = {character for piece in pieces for character in piece.removeprefix("##")}
    return frozenset({*pieces, *characters, *(f"##{character}" for character in characters)})


few_letters = st.text(st.sampled_from("abcd"), min_size=1, max_size=8)
vocabularies = st.lists(
    st.tuples(st.booleans(), st.text(st.sampled_from("abc"), min_size=1, max_size=4)), max_size=8
).map(lambda each: closed(*("##" * inside + text for inside, text in each)))


@given(
    known=vocabularies,
    counts=st.dictionaries(few_letters, st.integers(1, 20), min_size=1, max_size=15),
    places=st.integers(1, 9),
    unseen=st.lists(few_letters, max_size=5),
)
def test_added_pieces_shorten_the_text_and_make_no_word_unknown(
    known: frozenset[str], counts: dict[str, int], places: int, unseen: list[str]
) -> None:
    words = {word: count for word, count in counts.items() if word not in known}
    chosen = choose_pieces(words, known, places=places, least_gain=2) if words else []
    added = [piece.token for piece in chosen]
    assert len(set(added)) == len(added) <= places
    assert known.isdisjoint(added)
    assert [piece.gain for piece in chosen] == sorted((piece.gain for piece in chosen), reverse=True)
    assert all(piece.gain >= 2 for piece in chosen)
    new = known | set(added)

    def cost(pieces: frozenset[str]) -> int:
        return sum(
            count * (len(word) + 10 if (found := cut(word, pieces)) is None else len(found))
            for word, count in words.items()
        )

    assert cost(new) <= cost(known)
    for word in [*counts, *unseen]:
        if cut(word, known) is not None:
            assert cut(word, new) is not None


@given(
    counts=st.dictionaries(
        st.text(st.sampled_from("abcd"), max_size=20, min_size=1), st.integers(1, 20), min_size=1
    ),
    short=st.sampled_from([0, 4]),
)
def test_a_pieces_gain_is_what_the_text_costs_more_without_it(counts: Mapping[str, int], short: int) -> None:
    known = closed("a", "b", "c", "d")
    words = {word: count for word, count in counts.items() if word not in known}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piece_choice, "_SHORT", short)
        chosen = choose_pieces(words, known, places=6, least_gain=1) if words else []
    new = known | {piece.token for piece in chosen}

    def length(word: str, pieces: frozenset[str]) -> int:
        return len(cut(word, pieces) or ())

    for piece in chosen:
        without = new - {piece.token}
        assert piece.gain == sum(
            count * (length(word, without) - length(word, new)) for word, count in words.items()
        )


def test_an_occurrence_of_a_missing_character_counts_as_ten_pieces() -> None:
    known = closed("a", "b")
    # "x" alone makes two words unknown; "abab" saves three pieces each time.
    assert choose_pieces({"xa": 1, "ax": 1, "abab": 6}, known, places=3, least_gain=1) == [
        Piece("abab", 18),
        Piece("##x", 10),
        Piece("x", 10),
    ]
    assert choose_pieces({"xa": 1, "ax": 1, "abab": 6}, known, places=1, least_gain=1) == [Piece("abab", 18)]
    assert choose_pieces({"xa": 2, "ax": 1, "abab": 6}, known, places=1, least_gain=1) == [Piece("x", 20)]


def test_more_words_than_are_looked_at_leave_the_most_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_choice, "_MOST_CHARACTERS", 8)
    words = Counter({"aab": 5, "abb": 7, "bab": 9})
    chosen = choose_pieces(words, closed("a", "b"), places=9, least_gain=1)
    assert [piece.token for piece in chosen] == ["bab", "abb"]


def test_no_piece_is_added_that_is_as_long_as_a_line_without_spaces() -> None:
    words = {"ab" * 16: 9, "ab" * 17: 9}
    chosen = [piece.token for piece in choose_pieces(words, closed("a", "b"), places=99, least_gain=1)]
    assert "ab" * 16 in chosen
    assert max(map(len, chosen)) == 32


def test_googles_vocabulary_learns_german(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "google").mkdir()
    shutil.copy(shared_data / "vocab" / "bert-base-uncased-vocab.txt", tmp_path / "google" / "vocab.txt")
    google = load_vocabulary(str(tmp_path / "google"))
    corpus = (str(shared_data / "multilingual" / "de.txt"),)
    new = extend(str(tmp_path / "google"), tmp_path, corpus=corpus)
    assert not new.unused_ids
    assert len(new.special_ids) == 5
    assert {"nicht", "wieder", "##lichen", "##keit"} <= set(new.tokens) - set(google.tokens)
    report = json.loads((tmp_path / "new" / "lineage.json").read_text())["coverage_report"]
    assert report["before"]["all"]["pieces_a_word"] > 1.8
    assert report["all"]["pieces_a_word"] < 1.3
    assert report["all"]["whole_words"] > 0.84 > 0.5 > report["before"]["all"]["whole_words"]
