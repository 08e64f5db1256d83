"""DeepSpeed's compiled ops: which are needed, when one that lies there may be taken up, how building fails."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.doctor.prepare import prepare
from pipeline.errors import InputError, RunFailed
from pipeline.training import ops
from pipeline.training.room import SHIPPED
from pipeline.training.settings import ZeroSettings, read_settings


def settings(stage: int = 3, forced: bool = True, **zero: str) -> ZeroSettings:
    offload = {key: {"device": device} for key, device in zero.items()}
    values: dict[str, Any] = {"zero_optimization": {"stage": stage, **offload}}
    return ZeroSettings(
        path="own.json", values=values | ({} if forced else {"zero_force_ds_cpu_optimizer": False})
    )


def compiles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have builds take no time; the ops that are built."""
    built: list[str] = []

    def compile_(op: str, folder: Path) -> None:
        (folder / op).mkdir()
        (folder / op / f"{op}.so").write_bytes(b"library")
        built.append(op)

    monkeypatch.setattr(ops, "_compile", compile_)
    monkeypatch.setattr(ops, "what_building_lacks", lambda op: None)
    return built


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_configurations_need_no_compiled_op(name: str) -> None:
    assert ops.needed_ops(read_settings(name)) == ()


def test_deepspeeds_own_adam_and_disks_need_ops() -> None:
    assert ops.needed_ops(settings(offload_optimizer="cpu")) == ("cpu_adam",)
    assert ops.needed_ops(settings(forced=False, offload_optimizer="cpu")) == ()
    assert ops.needed_ops(settings(offload_param="nvme")) == ("pin_memory", "async_io")
    assert ops.needed_ops(settings(offload_optimizer="nvme")) == ("cpu_adam", "pin_memory", "async_io")
    assert set(ops.needed_ops(settings(offload_optimizer="nvme"))) <= ops.BUILDERS.keys()


def test_a_run_whose_op_is_not_built_is_refused_with_the_command_that_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    needing = settings(offload_optimizer="cpu")
    with pytest.raises(
        InputError, match=r"own\.json needs DeepSpeed's op cpu_adam.*doctor --prepare"
    ) as refused:
        ops.check_ops(needing)
    assert str(tmp_path) in str(refused.value)
    compiles(monkeypatch)
    ops.build("cpu_adam", tmp_path)
    ops.check_ops(needing)


def test_the_folder_is_torchs_own_variable_or_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/shared/ops")
    assert ops.extensions_folder() == Path("/shared/ops")
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    assert ops.extensions_folder() == Path.home() / ".cache/bertpipe/extensions"


@pytest.mark.parametrize("key", ["torch", "deepspeed", "python"])
def test_an_op_built_for_other_versions_is_not_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    built = compiles(monkeypatch)
    ops.build("cpu_adam", tmp_path)
    assert ops.is_built("cpu_adam", tmp_path)
    stamp = tmp_path / "cpu_adam" / "built.json"
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {key: "0.0.1"}))
    assert f"built for {key} 0.0.1" in str(ops.why_unusable("cpu_adam", tmp_path))
    ops.build("cpu_adam", tmp_path)
    assert ops.is_built("cpu_adam", tmp_path)
    assert built == ["cpu_adam", "cpu_adam"]


def test_an_op_built_for_a_processor_with_more_instructions_is_not_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiles(monkeypatch)
    monkeypatch.setattr(ops, "_instructions", lambda: ["avx2", "avx512f"])
    ops.build("cpu_adam", tmp_path)
    monkeypatch.setattr(ops, "_instructions", lambda: ["avx2"])
    assert "a processor with avx512f" in str(ops.why_unusable("cpu_adam", tmp_path))
    monkeypatch.setattr(ops, "_instructions", lambda: ["avx2", "avx512f", "avx512_bf16"])
    assert ops.is_built("cpu_adam", tmp_path)


@pytest.mark.parametrize("damage", ["no library", "no stamp", "half a stamp"])
def test_half_an_op_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    compiles(monkeypatch)
    ops.build("cpu_adam", tmp_path)
    stamp = tmp_path / "cpu_adam" / "built.json"
    if damage == "no library":
        (tmp_path / "cpu_adam" / "cpu_adam.so").unlink()
    elif damage == "no stamp":
        stamp.unlink()
    else:
        stamp.write_text(stamp.read_text()[:20])
    assert not ops.is_built("cpu_adam", tmp_path)
    ops.build("cpu_adam", tmp_path)
    assert ops.is_built("cpu_adam", tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RunFailed])
def test_a_build_that_is_stopped_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def stopped(op: str, folder: Path) -> None:
        (folder / "half").write_text("half")
        raise error

    compiles(monkeypatch)
    monkeypatch.setattr(ops, "_compile", stopped)
    with pytest.raises(error):
        ops.build("cpu_adam", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_prepare_leaves_alone_what_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = compiles(monkeypatch)
    assert prepare(tmp_path, settings(offload_optimizer="cpu")) == ["cpu_adam"]
    assert prepare(tmp_path, None) == list(ops.BUILDERS)
    assert built == list(ops.BUILDERS)
    assert "cpu_adam: built already" in capsys.readouterr().err


def test_prepare_without_a_recipe_passes_over_what_cannot_be_built_and_with_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiles(monkeypatch)
    lack = "no libaio; install libaio-dev"
    monkeypatch.setattr(ops, "what_building_lacks", lambda op: lack if op == "async_io" else None)
    assert prepare(tmp_path, None) == ["cpu_adam", "pin_memory"]
    assert f"async_io: passed over, {lack}" in capsys.readouterr().err
    with pytest.raises(RunFailed, match="cannot build async_io: no libaio; install libaio-dev"):
        prepare(tmp_path, settings(offload_param="nvme"))


def test_a_machine_without_compiler_or_ninja_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "install g++" in str(ops.what_building_lacks("cpu_adam"))
    with pytest.raises(RunFailed, match="no C\\+\\+ compiler"):
        prepare(tmp_path / "ext", settings(offload_optimizer="cpu"))
    assert not (tmp_path / "ext").exists()


def test_a_compilers_first_error_is_the_line_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken-c++"
    broken.write_text(
        "#!/bin/sh\n"
        'case "$*" in *.cpp*) echo "cpu_adam.cpp:1:10: fatal error: torch/extension.h: missing" >&2; exit 1 ;;\n'
        '*) exec c++ "$@" ;; esac\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setattr(ops, "_links", lambda library: True)
    with pytest.raises(RunFailed) as failed:
        ops.build("cpu_adam", tmp_path / "ext")
    assert str(failed.value) == (
        "cannot build cpu_adam: cpu_adam.cpp:1:10: fatal error: torch/extension.h: missing"
    )
    assert list((tmp_path / "ext").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiles(monkeypatch)
    tmp_path.chmod(0o500)
    with pytest.raises(RunFailed, match="name another with --extensions"):
        ops.build("cpu_adam", tmp_path / "ext")


def test_a_folder_that_is_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiles(monkeypatch)
    (tmp_path / "ext").write_text("")
    with pytest.raises(RunFailed, match=r"cannot write to .*name another with --extensions"):
        ops.build("cpu_adam", tmp_path / "ext")
