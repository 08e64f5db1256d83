"""The house rules that imports show: one road, one door a dependency, nothing done at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import model
import pipeline
from workshop.recipes import small_recipe

ROOT = Path(__file__).resolve().parents[2]
# The road; a module may import from its own place and from those before it.
ROAD = (
    ("pipeline.ending", "pipeline.errors"),
    (
        "pipeline.configuration",
        "pipeline.counter_random",
        "pipeline.dealing",
        "pipeline.objectives",
        "pipeline.process_identity",
        "pipeline.processes",
        "pipeline.progress",
        "pipeline.shared_bytes",
        "pipeline.shipped",
        "pipeline.storage",
    ),
    ("pipeline.lineage",),
    ("pipeline.phase", "pipeline.policies"),
    ("pipeline.corpus",),
    ("pipeline.batches",),
    ("pipeline.tracking",),
    ("pipeline.recipe",),
    ("pipeline.training",),
    ("pipeline.status",),
    ("pipeline.doctor",),
    ("pipeline.release",),
    ("pipeline.demo",),
    ("pipeline.options",),
    ("pipeline.cli",),
)
DOORS = {
    # Training's door; that of its compiled ops, which are built and taken up before training begins; and that of its
    # universal checkpoints, by which a run goes on with other ranks.
    "deepspeed": {
        "pipeline.training.engine",
        "pipeline.training.joining",
        "pipeline.training.ops",
        "pipeline.training.universal",
    },
    "matplotlib": {"pipeline.tracking.plots"},
    "mlflow": {"pipeline.tracking.server"},
    "psutil": {"pipeline.tracking.system"},
    "click": {"pipeline.cli", "pipeline.demo", "pipeline.options"},
    "rjieba": {"pipeline.corpus.words"},
    "sentencex": {"pipeline.corpus.sentences"},
    "sudachipy": {"pipeline.corpus.words"},
    "transformers": {"pipeline.release.convert", "pipeline.demo"},
}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("pipeline", "model"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> set[str]:
    """Absolute names of everything that a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def place(name: str) -> int | None:
    """How far down the road a module lies."""
    for number, rooms in enumerate(ROAD):
        if any(name == room or name.startswith(room + ".") for room in rooms):
            return number
    return None


def test_both_packages_load_from_this_checkout() -> None:
    assert Path(pipeline.__file__).parent == ROOT / "pipeline"
    assert Path(model.__file__).parent == ROOT / "model"


def test_every_module_has_its_place_on_the_road() -> None:
    homeless = [name for name in modules() if name.startswith("pipeline.") and place(name) is None]
    assert homeless == []


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_imports_only_what_lies_earlier_on_the_road(name: str) -> None:
    for other in imported(modules()[name]):
        if name.startswith("model"):
            assert not other.startswith("pipeline"), f"{name} imports {other}"
        elif (there := place(other)) is not None and (here := place(name)) is not None:
            assert there <= here, f"{name} imports {other}, which lies further down the road"


def test_no_import_runs_in_a_circle() -> None:
    known = modules()
    edges = {}
    for name, path in known.items():
        names = imported(path)
        names |= {other.rsplit(".", 1)[0] for other in names}
        edges[name] = (names & known.keys()) - {name, "pipeline", "model"}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' → '.join((*trail, name))}"
        if name not in seen:
            for other in edges[name]:
                visit(other, (*trail, name))
            seen.add(name)

    seen: set[str] = set()
    for name in known:
        visit(name, ())


@pytest.mark.parametrize("dependency", sorted(DOORS))
def test_a_dependency_has_one_door(dependency: str) -> None:
    through = {
        name
        for name, path in modules().items()
        if any(other == dependency or other.startswith(dependency + ".") for other in imported(path))
    }
    assert through == DOORS[dependency]


def test_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, pipeline.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"torch", "mlflow", "numpy", "pyarrow", "deepspeed", "transformers", "tokenizers", "rich", "yaml"}
    assert heavy & set(loaded) == set()


_REFUSED = """
import sys
from pipeline.cli import main
from pipeline.training import launch, pretrain
pretrain.launch = lambda arguments, ranks: print("LAUNCHED", ranks)
try:
    main(sys.argv[1:])
finally:
    print("LOADED", *sys.modules)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("pretrain RECIPE phases.0.steps=0", 2),
        ("pretrain RECIPE phases.0.shards=NOWHERE", 2),
        ("pretrain RECIPE --ranks 3", 2),
        # What starts ranks has no use for it either.
        ("pretrain RECIPE --ranks 2", 0),
        ("evaluate NOWHERE --shards SHARDS", 2),
        ("convert NOWHERE -o MODEL", 2),
    ],
)
def test_what_is_refused_is_so_before_torch_is_loaded(
    arguments: str, code: int, shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(small_recipe(tmp_path / "run", shards)))
    command = [sys.executable, "-c", _REFUSED, *arguments.replace("RECIPE", "recipe.yaml").split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("LAUNCHED 2" in done.stdout) == (code == 0)
    loaded = done.stdout.partition("LOADED")[2].split()
    assert loaded
    assert {"torch", "deepspeed", "mlflow", "transformers"} & set(loaded) == set()


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    clashes = {name for name in modules() if name.split(".")[-1] in sys.stdlib_module_names}
    assert clashes == set()
