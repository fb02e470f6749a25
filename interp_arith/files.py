"""Files that are never left half-written: atomic writes, lines appended durably, hashes, YAML; knows no run."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from interp_arith.errors import RequestError, WorkError


class DamagedFileError(WorkError):
    """A file of a run is missing, cut short or altered."""


def write_atomically(file: Path, data: bytes | memoryview) -> None:
    """Write to a temporary name, flush to disk, rename, flush the folder.

    Raises:
        WorkError: the disk is full or the folder cannot be written; what stood there before still stands.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
        flush_folder(file.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise cannot_write(file, error) from error


def dump_yaml(data: Mapping[str, Any]) -> str:
    """A mapping as YAML, in its own order."""
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True)


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        RequestError: the file is missing, or is no YAML mapping.
    """
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{file}: no such file") from None
    except OSError as error:
        raise RequestError(f"{file} cannot be read ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise RequestError(f"{file}: no YAML{line} ({error.problem})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{file}: no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise RequestError(f"{file}: no YAML mapping; a config is lines such as `name: small`")
    return data


def sha256_of_folder(folder: Path, pattern: str) -> dict[str, str]:
    """File name -> sha256, for data files that a run rests on."""
    return {file.name: sha256(file.read_bytes()) for file in sorted(folder.glob(pattern))}


def cannot_write(file: Path, error: OSError) -> WorkError:
    """What to say where a file could not be written."""
    return WorkError(
        f"{file} could not be written ({error.strerror or error}); everything saved before it is whole; "
        "make room, then run the same command with --resume"
    )


def append_durably(file: Path, text: str) -> None:
    """Add text at the end, flushed to disk; where it does not fit, the file is as it was.

    Raises:
        WorkError: the disk is full or the file cannot be written.
    """
    before = file.stat().st_size if file.exists() else 0
    try:
        with open(file, "a", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        if not before:
            flush_folder(file.parent)
    except OSError as error:
        if file.exists():
            os.truncate(file, before)
        raise cannot_write(file, error) from error


def flush_folder(folder: Path) -> None:
    """Put a folder's list of files on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; a torn last line is left out.

    Raises:
        DamagedFileError: another line is no JSON.
    """
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            if line:
                rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):  # only the last line, the one without an end, may be torn
                raise DamagedFileError(f"{file}, line {number} is damaged; train anew") from None
    return rows


def cut_lines(file: Path, last_step: int, inclusive: bool) -> None:
    """Keep the lines up to a step."""
    kept = [row for row in read_lines(file) if row["step"] < last_step + inclusive]
    if file.is_file():
        write_atomically(file, "".join(json.dumps(row) + "\n" for row in kept).encode())


def read_checked(file: Path, digest: str) -> bytes:
    """The content of a file whose hash is known.

    Raises:
        DamagedFileError: it is missing or altered.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise DamagedFileError(f"{file} is missing") from None
    if sha256(data) != digest:
        raise DamagedFileError(f"{file} is damaged: its sha256 is not the one in checkpoints.jsonl")
    return data


def sha256(data: bytes | memoryview) -> str:
    """The hash, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
