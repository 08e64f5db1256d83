"""The vocabulary folder: what is accepted, what is refused, and what a hash stands for."""

import json
import pickle
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from pipeline import storage
from pipeline.corpus.vocabulary import SPECIALS, Vocabulary, load_vocabulary, save_vocabulary
from pipeline.errors import InputError, RunFailed

TOKENS = ("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "##b", "ab")


def write(folder: Path, *lines: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(folder)


def test_a_saved_vocabulary_comes_back_with_its_casing(tmp_path: Path) -> None:
    for cased in (False, True):
        saved = Vocabulary(tokens=TOKENS, cased=cased)
        save_vocabulary(saved, str(tmp_path / str(cased)))
        loaded = load_vocabulary(str(tmp_path / str(cased)))
        assert loaded == saved
        assert loaded.hash == saved.hash
        assert sorted(path.name for path in (tmp_path / str(cased)).iterdir()) == [
            "tokenizer.json",
            "vocab.txt",
        ]


def test_vocab_txt_alone_is_uncased_unless_said_otherwise(tmp_path: Path) -> None:
    folder = write(tmp_path / "v", *TOKENS)
    assert not load_vocabulary(folder).cased
    assert load_vocabulary(folder, cased=True).cased
    assert load_vocabulary(folder).tokens == TOKENS


def test_windows_line_ends_and_a_missing_last_one_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(TOKENS).encode())
    assert load_vocabulary(str(tmp_path)).tokens == TOKENS


def test_a_token_may_be_a_character_that_ends_lines_elsewhere(tmp_path: Path) -> None:
    tokens = (*TOKENS, "\u2028", "\x85x")
    assert load_vocabulary(write(tmp_path / "v", *tokens)).tokens == tokens


def test_ids_of_special_tokens(tmp_path: Path) -> None:
    vocabulary = Vocabulary(tokens=TOKENS, cased=False)
    assert vocabulary.size == 11
    assert (vocabulary.pad_id, vocabulary.unk_id, vocabulary.cls_id) == (0, 2, 3)
    assert (vocabulary.sep_id, vocabulary.mask_id) == (4, 5)
    assert vocabulary.special_ids == (0, 1, 2, 3, 4, 5)


def test_googles_vocabulary_has_999_special_ids(shared_data: Path, tmp_path: Path) -> None:
    google = (shared_data / "vocab" / "bert-base-uncased-vocab.txt").read_bytes()
    (tmp_path / "vocab.txt").write_bytes(google)
    vocabulary = load_vocabulary(str(tmp_path))
    assert vocabulary.size == 30522
    assert len(vocabulary.special_ids) == 5 + 994
    assert vocabulary.mask_id == 103
    save_vocabulary(vocabulary, str(tmp_path / "again"))
    assert (tmp_path / "again" / "vocab.txt").read_bytes() == google


def test_the_hash_is_of_tokens_their_order_and_casing() -> None:
    first = Vocabulary(tokens=TOKENS, cased=False)
    others = [
        Vocabulary(tokens=TOKENS, cased=True),
        Vocabulary(tokens=(*TOKENS[:-2], TOKENS[-1], TOKENS[-2]), cased=False),
        Vocabulary(tokens=TOKENS[:-1], cased=False),
    ]
    assert len({first.hash, *(other.hash for other in others)}) == 4
    assert first.hash == Vocabulary(tokens=TOKENS, cased=False).hash


def test_it_pickles_without_its_tokeniser() -> None:
    vocabulary = Vocabulary(tokens=TOKENS, cased=False)
    before = len(pickle.dumps(vocabulary))
    assert vocabulary.tokenizer.encode("ab").ids == [3, 10, 4]
    assert len(pickle.dumps(vocabulary)) == before
    assert pickle.loads(pickle.dumps(vocabulary)).tokenizer.encode("ab").ids == [3, 10, 4]


def test_tokenizer_json_is_a_whole_bert_tokeniser(tmp_path: Path) -> None:
    save_vocabulary(Vocabulary(tokens=TOKENS, cased=False), str(tmp_path))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    pair = tokenizer.encode("AB", "á?")
    assert pair.ids == [3, 10, 4, 6, 2, 4]
    assert pair.type_ids == [0, 0, 0, 1, 1, 1]
    stated = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert [token["content"] for token in stated["added_tokens"]] == list(SPECIALS)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "empty"),
        ([*TOKENS[:5], "a"], "has no [MASK]; BERT needs"),
        (["a", "b"], "has no [PAD], [UNK], [CLS], [SEP], [MASK]"),
        ([*TOKENS, "a"], "'a' stands in the vocabulary on line 7 and on line 12"),
        ([*TOKENS, "", "c"], "line 12 of the vocabulary is empty"),
    ],
)
def test_a_faulty_vocab_txt_is_refused_with_the_fault_named(
    tmp_path: Path, lines: list[str], expected: str
) -> None:
    with pytest.raises(InputError) as caught:
        load_vocabulary(write(tmp_path / "v", *lines))
    assert expected in str(caught.value)
    assert "v/vocab.txt" in str(caught.value)


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist; .*bertpipe vocab"):
        load_vocabulary(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"holds no vocab\.txt"):
        load_vocabulary(str(tmp_path))
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(InputError, match=r"line 2 is no UTF-8"):
        load_vocabulary(str(tmp_path))
    with pytest.raises(InputError, match=r"is a file"):
        load_vocabulary(str(tmp_path / "vocab.txt"))


def test_a_tokenizer_json_that_disagrees_is_refused(tmp_path: Path) -> None:
    save_vocabulary(Vocabulary(tokens=TOKENS, cased=True), str(tmp_path))
    with pytest.raises(InputError, match="holds a vocabulary that is cased, and uncased is asked for"):
        load_vocabulary(str(tmp_path), cased=False)
    path = tmp_path / "tokenizer.json"
    stated = json.loads(path.read_text(encoding="utf-8"))
    write(tmp_path, *TOKENS, "c")
    with pytest.raises(InputError, match=r"has 11 tokens and vocab\.txt 12, and they differ; delete"):
        load_vocabulary(str(tmp_path))
    write(tmp_path, *TOKENS)
    for part, name, value in [
        ("normalizer", "type", "NFC"),
        ("normalizer", "strip_accents", True),
        ("model", "type", "BPE"),
    ]:
        path.write_text(json.dumps(stated | {part: stated[part] | {name: value}}), encoding="utf-8")
        with pytest.raises(InputError, match="is no BERT tokeniser"):
            load_vocabulary(str(tmp_path))
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"tokenizer\.json is no JSON"):
        load_vocabulary(str(tmp_path))


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = storage.write_text

    def full_disk(path: str, text: str) -> None:
        if path.endswith("vocab.txt"):
            raise RunFailed(f"cannot write {path}: no space left on device")
        real(path, text)

    monkeypatch.setattr(storage, "write_text", full_disk)
    with pytest.raises(RunFailed, match="no space left"):
        save_vocabulary(
            Vocabulary(tokens=TOKENS, cased=False), str(tmp_path / "v"), {"artefact": "vocabulary"}
        )
    assert list((tmp_path / "v").iterdir()) == []
