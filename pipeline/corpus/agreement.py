"""Whether what stands in a shard folder is what a command would make.

In: the command's settings, vocabulary and corpus files, those written down in the folder, and its files. Out:
nothing, or the refusal. What always holds: a difference is refused with both values named, and nothing is touched.

Example:
    check_plan("SHARDS", "SHARDS/.work", settings, vocabulary, files, library_versions())
"""

import os
from typing import Any

from pipeline import storage
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.vocabulary import Vocabulary, load_vocabulary
from pipeline.errors import InputError
from pipeline.lineage import difference

_PLAN = "plan.json"


def identity(vocabulary: Vocabulary) -> dict[str, Any]:
    """A vocabulary as manifests and plans name it."""
    return {"hash": vocabulary.hash, "size": vocabulary.size, "cased": vocabulary.cased}


def check_plan(
    output: str,
    work: str,
    settings: dict[str, Any],
    given: Vocabulary | None,
    files: dict[str, Any],
    versions: dict[str, str],
    *,
    adding: bool = False,
) -> None:
    """Write down in the work folder what is being made, or refuse to continue something else.

    adding: whether it is added to finished shards
    """
    path = os.path.join(work, _PLAN)
    plan = {
        "settings": settings,
        "vocabulary": None if given is None else identity(given),
        # With a vocabulary given, files may change before a restart: only their splits are made anew. One
        # that is trained here belongs to the files it was trained on.
        "corpus": files if given is None else None,
        # Splits tokenised by two releases of a library would give shards that neither gives.
        "versions": versions,
    }
    if not os.path.exists(path):
        storage.write_json(path, plan)
    elif differences := difference(plan, storage.read_json(path)):
        what, remedy = "unfinished shards made otherwise", "name another folder, or delete this one"
        if adding:
            what, remedy = "an unfinished addition made otherwise", f"or delete {work}"
        raise InputError(
            f"{output} holds {what} ({'; '.join(differences)}); finish it with its own command, {remedy}"
        )


def check_finished(
    output: str, manifest: Manifest, settings: dict[str, Any], given: Vocabulary | None, files: dict[str, Any]
) -> None:
    """Refuse where finished shards are others than this command's."""
    ours: dict[str, Any] = {"settings": settings, "corpus": files}
    # Where others were added, the command that began the folder is still the first part's.
    corpus = manifest.parts[0]["corpus"] if manifest.parts else manifest.corpus
    theirs: dict[str, Any] = {
        "settings": manifest.settings,
        "corpus": {name: corpus.get(name) for name in files},
    }
    if given is not None:
        ours["vocabulary"], theirs["vocabulary"] = identity(given), manifest.vocabulary
    if differences := difference(ours, theirs):
        raise InputError(
            f"{output} holds shards made otherwise ({'; '.join(differences)}); name another folder, or delete "
            "this one"
        )


def check_whole(output: str, manifest: Manifest, vocabulary: str) -> None:
    """Refuse where finished shards lack a file, or have one of another size or another vocabulary.

    The tars' bytes are not read: that is `bertpipe inspect --verify`.
    """
    remedy = f"restore it, or delete {output} and run again"
    for name, size in zip(manifest.shards.names(), manifest.shards.column("bytes").tolist(), strict=True):
        path = os.path.join(output, name)
        if not os.path.isfile(path):
            raise InputError(f"{path} is missing, its manifest names it; {remedy}")
        if (found := os.path.getsize(path)) != size:
            raise InputError(f"{path} has {found} bytes, its manifest says {size}; {remedy}")
    try:
        found_hash = load_vocabulary(vocabulary).hash
    except InputError as error:
        raise InputError(f"the shards' vocabulary is gone or damaged: {error}; {remedy}") from error
    if found_hash != manifest.vocabulary["hash"]:
        raise InputError(
            f"{vocabulary} has the hash {found_hash}, its manifest says {manifest.vocabulary['hash']}; {remedy}"
        )
