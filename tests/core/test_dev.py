"""The developer commands and the rules they enforce."""

import importlib.util
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def ruff_codes(source: str, filename: str, root: Path) -> str:
    """What ruff says about this source text as if it were that file."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise"]
    done = subprocess.run(
        [*command, "--stdin-filename", filename, "-"],
        input=source,
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    return done.stdout


def test_comfyui_is_importable() -> None:
    import comfy.model_patcher
    import nodes

    assert hasattr(comfy.model_patcher, "ModelPatcher")
    assert nodes.__file__ is not None and nodes.__file__.endswith("nodes.py")


def test_the_pack_is_importable_as_a_package_of_another_name() -> None:
    import detex_pack.detex

    assert detex_pack.detex.__name__ == "detex_pack.detex"


@pytest.mark.parametrize(
    "line",
    ["import comfy.utils", "from comfy.model_patcher import ModelPatcher", "import folder_paths"],
)
def test_the_core_may_not_import_comfyui(line: str, root: Path) -> None:
    name = line.split()[-1]
    source = f"{line}\n\n__all__ = [{name.split('.')[0]!r}]\n"
    assert "TID251" in ruff_codes(source, "detex/x.py", root)
    assert "TID251" not in ruff_codes(source, "detex/host/x.py", root)
    assert "TID251" not in ruff_codes(source, "nodes/x.py", root)


def test_the_core_may_not_print(root: Path) -> None:
    assert "T201" in ruff_codes('print("x")\n', "detex/x.py", root)
    assert "T201" not in ruff_codes('print("x")\n', "devtools/x.py", root)


@pytest.fixture
def dev(root: Path) -> ModuleType:
    """dev.py as a module."""
    spec = importlib.util.spec_from_file_location("dev", root / "dev.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def calls(dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple]:
    """dev.py working in an empty folder; the list collects what it would have run."""
    ran: list[tuple] = []
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(dev, "VENV", tmp_path)
    monkeypatch.setattr(dev, "STAMP", tmp_path / "set-up.txt")
    monkeypatch.setattr(dev, "run", lambda *arguments, **more: ran.append(arguments) or 0)
    monkeypatch.setattr(dev, "_make_venv", lambda: None)
    dev.venv_python().parent.mkdir()
    dev.venv_python().touch()
    return ran


def test_a_second_set_up_does_nothing(dev: ModuleType, calls: list[tuple]) -> None:
    dev.set_up()
    assert any("install" in call for call in calls)
    calls.clear()
    dev.set_up()
    assert calls == []


def test_an_interrupted_set_up_is_done_again(
    dev: ModuleType, calls: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr(dev, "run", lambda *arguments, **more: 1)
        with pytest.raises(dev.SetupError, match="run the same command again"):
            dev.set_up()
    dev.set_up()
    assert any("install" in call for call in calls)


def test_other_requirements_are_installed(
    dev: ModuleType, calls: list[tuple], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dev.set_up()
    calls.clear()
    changed = tmp_path / "requirements-dev.txt"
    changed.write_text("pytest==9.2.0\n")
    monkeypatch.setattr(dev, "REQUIREMENTS", changed)
    dev.set_up()
    assert any(changed in call for call in calls)


def test_a_wrong_comfyui_path_is_named(
    dev: ModuleType, calls: list[tuple], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(dev.SetupError, match="there is no ComfyUI in it"):
        dev.set_up()
    assert calls == []


@pytest.fixture
def tested(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple]:
    """What `dev.py test` with these arguments would run: (arguments, environment)."""
    monkeypatch.setattr(dev, "become", lambda *arguments, **more: (arguments, more))
    monkeypatch.setattr(dev, "_fetch_host", lambda version: Path(f"fetched {version}"))
    return lambda *arguments: dev.test(list(arguments))


def test_the_tests_run_on_the_asked_host(dev: ModuleType, tested: Callable, tmp_path: Path) -> None:
    dev.HOST = tmp_path / "ComfyUI-0.30.0"
    arguments, environment = tested("-q", "--host", "0.18.2", "tests/core")
    assert arguments[-2:] == ("-q", "tests/core")
    assert environment["COMFYUI_PATH"] == Path("fetched 0.18.2")
    folder = tmp_path / "ComfyUI-0.18.2"
    (folder / "comfy").mkdir(parents=True)
    (folder / "comfy" / "model_patcher.py").touch()
    assert tested("--host", "0.18.2")[1]["COMFYUI_PATH"] == folder  # fetched before
    assert "COMFYUI_PATH" not in tested("tests/core")[1]


@pytest.mark.parametrize("arguments", [["--host"], ["--host", "0.1"]])
def test_a_host_that_cannot_be_fetched_is_refused_with_those_that_can(
    dev: ModuleType, tested: Callable, arguments: list[str]
) -> None:
    with pytest.raises(dev.SetupError, match=r"--host wants one of 0\.16\.3, .*0\.30\.0"):
        tested(*arguments)


def archive_of(folder: Path, files: dict[str, bytes], link: str | None = None) -> Path:
    path = folder / "source.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if link is not None:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    return path


def test_only_the_wanted_folder_is_unpacked(dev: ModuleType, tmp_path: Path) -> None:
    files = {"x-1.0/vendor/Host/a/b.py": b"b", "x-1.0/setup.py": b"no", "x-1.0/vendor/c.py": b"no"}
    target = tmp_path / "out"
    dev.unpack(archive_of(tmp_path, files, link="x-1.0/vendor/Host/l"), "vendor/Host", target)
    assert [path.name for path in target.rglob("*")] == ["a", "b.py"]


def test_an_archive_cannot_write_outside(dev: ModuleType, tmp_path: Path) -> None:
    archive = archive_of(tmp_path, {"x-1.0/vendor/Host/../../../evil.py": b""})
    with pytest.raises(dev.SetupError, match="outside its folder"):
        dev.unpack(archive, "vendor/Host", tmp_path / "out")
    assert not list(tmp_path.rglob("evil.py"))


def test_the_pack_asks_for_nothing_that_the_host_has(root: Path) -> None:
    lines = (root / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_the_licence_is_the_gpl(root: Path) -> None:
    assert "GNU GENERAL PUBLIC LICENSE" in (root / "LICENSE").read_text()
    assert 'license = "GPL-3.0-or-later"' in (root / "pyproject.toml").read_text()
