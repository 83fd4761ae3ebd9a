"""What a local file is, said before anything in it is read: a path, a kind, an archive of the size it declares."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

from robustsuite.errors import BadModel

SHARDS = ("*.index.json", "*.distcp", "zero_pp_rank_*", "*_zero_pp_rank_*", "mp_rank_*", "global_step*")
"""What stands in a folder over which the weights of one network were spread."""

ONNX = 1 << 31
"""Bytes of a graph in one file, by the format's own limit."""

CODE = 64 * 2**20
"""Bytes of code that an archive may declare; weights are stored as they are and stand for themselves."""


def regular(name: str, what: str, most: int = 0) -> Path:
    """The path of a plain file that holds something; `what` it should be, with its article. most: bytes, if any limit.

    Raises BadModel at once for folders, pipes, devices, links to nowhere, empty files, web pages and LFS pointers.
    """
    path = Path(name).expanduser()
    try:
        mode, size = (found := os.stat(path)).st_mode, found.st_size
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        got = "not there" if missing else str(getattr(error, "strerror", None) or error).lower()
        raise BadModel(f"expected {what}, got {_short(name)}, which is {got}; check the path") from error
    if stat.S_ISDIR(mode):
        raise BadModel(f"expected {what}, got {_short(name)}, which is a folder; {_inside(path)}")
    if not stat.S_ISREG(mode):
        raise BadModel(f"expected {what}, got {_short(name)}, which is a pipe or a device; name a plain file")
    if most and size > most:
        raise BadModel(f"expected {what}, got {size:,} bytes in {path.name}, more than {most:,}; check the path")
    if not size:
        raise BadModel(f"expected {what}, got {_short(name)}, which is empty; fetch or export it again")
    try:
        with path.open("rb") as file:
            head = file.read(64).lstrip().lower()
    except OSError as error:
        raise BadModel(f"expected {what}, got {_short(name)}: {error.strerror}; check its rights") from error
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BadModel(f"expected {what}, got a web page in {path.name}; the download went wrong, fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise BadModel(f"expected {what}, got a Git LFS pointer in {path.name}; run `git lfs pull` for the real file")
    return path


def _short(name: str) -> str:
    return repr(name if len(name) <= 120 else f"{name[:60]}...{name[-40:]}")


def _inside(path: Path) -> str:
    """What to do with a folder that was given for a file."""
    try:
        if next((f for pattern in SHARDS for f in path.glob(pattern)), None) is not None:
            return "the weights in it are in shards; join them and save one state_dict() in one file"
        if (path / "config.json").is_file():
            return "a folder with config.json is loaded as hf:FOLDER"
    except OSError:
        pass
    return "name the file in it"


def kind_of(path: Path) -> str:
    """'torch', 'torchscript', 'export' or 'zip' for an archive by what stands in it, else '' (which says nothing).

    Raises BadModel for an archive that declares more than it holds: torch never compresses weights.
    """
    try:
        if not zipfile.is_zipfile(path):
            return ""
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise BadModel(f"expected an archive in {path.name}, got a damaged one; fetch or export it again") from error
    names = [member.filename for member in members]
    inner = {name.partition("/")[2] for name in names}
    script = "constants.pkl" in inner or any(name.startswith("code/") for name in inner)
    packed = [member for member in members if member.compress_type != zipfile.ZIP_STORED]
    plain = sum(member.file_size for member in members) - sum(member.file_size for member in packed)
    code = all(member.filename.partition("/")[2].startswith("code/") for member in packed)
    declared = sum(member.file_size for member in packed)
    if (packed and not (script and code)) or declared > CODE or plain > path.stat().st_size:
        size, real = sum(member.file_size for member in members), path.stat().st_size
        raise BadModel(
            f"expected an archive as torch writes it in {path.name}, got {real:,} bytes packed that declare {size:,}; "
            f"nothing was unpacked; save it again with torch.save"
        )
    if len(set(names)) < len(names):
        raise BadModel(f"expected an archive as torch writes it in {path.name}, got one name twice; save it again")
    if script:
        return "torchscript"
    if "archive_format" in inner or any(n.startswith(("models/", "serialized_")) for n in (*inner, *names)):
        return "export"
    return "torch" if "data.pkl" in inner else "zip"
