"""The folder that a vocabulary is made in: nothing, the same vocabulary, or something to keep one's hands off.

In: the output folder, and what the vocabulary to be made follows from. Out: the vocabulary that stands there, where it
is the same one. What always holds: nothing is written; what a killed run left counts as nothing.

Example:
    standing_vocabulary("VOCAB", config.settings)  # None: go on
"""

from typing import Any

from pipeline import storage
from pipeline.corpus.vocabulary import (
    LINEAGE_FILE,
    TOKENIZER_FILE,
    VOCABULARY_FILE,
    Vocabulary,
    load_vocabulary,
)
from pipeline.errors import InputError
from pipeline.lineage import difference

ARTEFACT = "vocabulary"
"""What our lineage says that the folder is."""


def standing_vocabulary(
    folder: str, settings: dict[str, Any], corpus: dict[str, Any] | None = None
) -> Vocabulary | None:
    """The vocabulary that stands in `folder`, where it was made by the same settings from the same corpus.

    corpus: what its lineage records of the corpus; None: not known yet, so the settings alone are compared
    Raises InputError where the folder is a file, or holds another vocabulary or one of unknown origin.
    """
    if storage.exists(folder) and not storage.is_folder(folder):
        raise InputError(f"{folder} is a file; name a folder to write")
    remedy = "name another output or delete it"
    path = storage.join(folder, LINEAGE_FILE)
    held = [
        name
        for name in (VOCABULARY_FILE, TOKENIZER_FILE, LINEAGE_FILE)
        if storage.exists(storage.join(folder, name))
    ]
    if not held:
        return None
    if LINEAGE_FILE not in held:  # a tokenizer.json alone, for instance, is some model's of Hugging Face
        raise InputError(f"{folder} holds a {held[0]} of unknown origin (no {LINEAGE_FILE}); {remedy}")
    theirs = storage.read_json(path)
    if VOCABULARY_FILE not in held and isinstance(theirs, dict) and theirs.get("artefact") == ARTEFACT:
        return None  # a run was killed before its last file
    try:
        differences = difference(settings, theirs["settings"])
        if corpus is not None:
            differences += difference(corpus, theirs["corpus"])
        recorded = theirs["vocabulary"]["hash"]
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is no lineage of a vocabulary; {remedy}") from None
    if differences:
        raise InputError(f"{folder} holds another vocabulary ({'; '.join(differences)}); {remedy}")
    found = load_vocabulary(folder)
    if found.hash != recorded:
        raise InputError(
            f"{folder} holds a vocabulary that was changed (hash {found.hash}, made as {recorded}); {remedy}"
        )
    return found
