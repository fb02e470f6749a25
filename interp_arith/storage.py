"""The only module that knows the file names in a run directory: atomic writes, hashes, locks; knows no model."""

import fcntl
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp_arith.errors import RequestError
from interp_arith.files import (
    DamagedFileError,
    append_durably,
    cannot_write,
    cut_lines,
    dump_yaml,
    read_checked,
    read_lines,
    read_yaml,
    sha256,
    write_atomically,
)
from interp_arith.lazy import Lazy

if TYPE_CHECKING:
    import safetensors.torch as tensor_files
    import torch
    import xarray as xr
    from torch import Tensor
else:  # seconds, which a list of runs and their metrics can do without
    torch, tensor_files, xr = Lazy("torch"), Lazy("safetensors.torch"), Lazy("xarray")

FORMAT_VERSION = 1
_PACKAGE = Path(__file__).parent
SHIPPED = next(
    (f for f in (_PACKAGE / "checkpoints", _PACKAGE.parent / "checkpoints") if f.is_dir()), _PACKAGE
)
"""Trained runs that come along: in a wheel the smallest, in a clone all."""
Record = Mapping[str, float]


@dataclass(frozen=True)
class Checkpoint:
    """One line of checkpoints.jsonl: the checkpoint exists when its line does.

    Attributes:
        step: updates made.
        file: the weights, relative to the run directory.
        sha256: of the file.
        metrics: what was measured at that step.
    """

    step: int
    file: str
    sha256: str
    metrics: dict[str, float]


class RunDirectory:
    """The files of one run. Nothing is ever left half-written: see write_atomically."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def name(self) -> str:
        """The folder's name, which is the run's."""
        return self.path.name

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.config_file.is_file()

    @property
    def config_file(self) -> Path:
        """config.yaml."""
        return self.path / "config.yaml"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the run's only writer; a killed process leaves no lock behind.

        Raises:
            RequestError: another process is writing this run.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "a+", encoding="ascii")  # noqa: SIM115
        except OSError as error:
            raise cannot_write(self.path, error) from error
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                writer = file.read().strip() or "?"
                raise RequestError(
                    f"run {self.path} is being written by process {writer}; wait for it, or give another --name"
                ) from None
            with suppress(OSError):  # on a full disk the lock names nobody, and still locks
                file.truncate(0)
                os.write(file.fileno(), str(os.getpid()).encode())
            yield

    @property
    def is_locked(self) -> bool:
        """Whether a process is writing this run at the moment."""
        try:
            with open(self.path / ".lock", encoding="ascii") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (FileNotFoundError, BlockingIOError) as error:
            return isinstance(error, BlockingIOError)
        return False

    @property
    def status(self) -> str:
        """finished, interrupted, failed, running, or stopped (it says running, and nobody writes it)."""
        status = self.read_info().get("status", "running")
        return "stopped" if status == "running" and not self.is_locked else status

    # --- config.yaml, run.json, split.npy, and whatever is written once ---

    def write_config(self, config: Mapping[str, Any]) -> None:
        """The resolved RunConfig."""
        write_atomically(self.config_file, dump_yaml(config).encode())

    def read_config(self) -> dict[str, Any]:
        """The resolved RunConfig, as plain data."""
        return read_yaml(self.config_file)

    def write_info(self, info: Mapping[str, Any]) -> None:
        """run.json: versions, device, status, wall time, summary."""
        text = json.dumps({"format": FORMAT_VERSION, **info}, indent=1)
        write_atomically(self.path / "run.json", text.encode())

    def read_info(self) -> dict[str, Any]:
        """run.json; empty where a run was killed before its first line."""
        file = self.path / "run.json"
        if not file.is_file():
            return {}
        try:
            info = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise DamagedFileError(f"{file} is damaged: it is no JSON") from None
        if info.get("format") != FORMAT_VERSION:
            raise RequestError(
                f"{file}: format {info.get('format')}; this version reads format {FORMAT_VERSION}, "
                "install the version that wrote the run"
            )
        return info

    def write_split(self, train_mask: np.ndarray) -> None:
        """split.npy: somebody else's split."""
        buffer = io.BytesIO()
        np.save(buffer, train_mask, allow_pickle=False)
        write_atomically(self.path / "split.npy", buffer.getvalue())

    def read_split(self) -> np.ndarray | None:
        """The split that was given, if one was."""
        file = self.path / "split.npy"
        if not file.is_file():
            return None
        try:
            return np.load(file, allow_pickle=False)
        except (ValueError, EOFError):
            raise DamagedFileError(f"{file} is damaged: it is no NumPy array") from None

    def write_curves(self, html: str) -> Path:
        """curves.html."""
        write_atomically(self.path / "curves.html", html.encode())
        return self.path / "curves.html"

    def write_evaluation(self, protocol: str, step: int, result: Mapping[str, Any]) -> Path:
        """evaluations/PROTOCOL-step-N.json."""
        file = self.path / "evaluations" / f"{protocol}-step-{step}.json"
        write_atomically(file, json.dumps(result, indent=1, ensure_ascii=False).encode())
        return file

    def write_measure(self, name: str, netcdf: bytes) -> None:
        """measures/NAME.nc: one measure over the trajectory."""
        write_atomically(self.path / "measures" / f"{name}.nc", netcdf)

    def read_measure(self, name: str) -> "xr.DataArray | None":
        """A measure that is kept; None where there is none, or it cannot be read."""
        file = self.path / "measures" / f"{name}.nc"
        if not file.is_file():
            return None
        try:
            return xr.load_dataarray(io.BytesIO(file.read_bytes()), engine="h5netcdf")
        except (OSError, ValueError, KeyError):
            return None

    def write_keys(self, keys: Mapping[str, Any]) -> None:
        """measures/keys.json: the key frequencies of one checkpoint."""
        write_atomically(self.path / "measures" / "keys.json", json.dumps(keys).encode())

    def read_keys(self) -> dict[str, Any]:
        """Those that are kept; empty where none are, or they cannot be read."""
        try:
            return json.loads((self.path / "measures" / "keys.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def activations_folder(self, questions: str) -> Path:
        """activations/QUESTIONS: what passes at some questions, by their hash; may be deleted at any time."""
        return self.path / "activations" / questions

    def append_log(self, line: str) -> None:
        """One line in train.log."""
        append_durably(self.path / "train.log", line.rstrip("\n") + "\n")

    @property
    def tracker_folder(self) -> Path:
        """Where Weights & Biases or TensorBoard put their files."""
        return self.path / "tracker"

    # --- metrics.jsonl ---

    def append_metrics(self, records: Iterable[Record]) -> None:
        """Add records to metrics.jsonl, flushed to disk."""
        text = "".join(json.dumps(record) + "\n" for record in records)
        if text:
            append_durably(self.path / "metrics.jsonl", text)

    def read_metrics(self) -> list[dict[str, float]]:
        """Every logged record; a torn last line is left out."""
        return read_lines(self.path / "metrics.jsonl")

    def cut_metrics(self, last_step: int, inclusive: bool) -> None:
        """Forget the records after a step."""
        cut_lines(self.path / "metrics.jsonl", last_step, inclusive)

    # --- checkpoints.jsonl and weights/ ---

    def write_checkpoint(self, step: int, weights: Mapping[str, "Tensor"], metrics: Record) -> None:
        """One point of the trajectory: the weights first, then the line that makes them exist."""
        file = f"weights/step-{step:08d}.safetensors"
        data = tensor_files.save(dict(weights))
        write_atomically(self.path / file, data)
        line = asdict(Checkpoint(step, file, sha256(data), dict(metrics)))
        append_durably(self.path / "checkpoints.jsonl", json.dumps(line) + "\n")

    def checkpoints(self) -> list[Checkpoint]:
        """The trajectory, by step."""
        return [Checkpoint(**line) for line in read_lines(self.path / "checkpoints.jsonl")]

    def cut_checkpoints(self, last_step: int, inclusive: bool) -> None:
        """Forget the checkpoints after a step."""
        cut_lines(self.path / "checkpoints.jsonl", last_step, inclusive)

    def read_weights(self, checkpoint: Checkpoint) -> dict[str, "Tensor"]:
        """The weights of one checkpoint, their hash checked.

        Raises:
            DamagedFileError: the file is missing, cut short or altered; the message names it.
        """
        return tensor_files.load(read_checked(self.path / checkpoint.file, checkpoint.sha256))

    # --- best/ ---

    def write_best(self, step: int, weights: Mapping[str, "Tensor"], metrics: Record) -> Checkpoint:
        """Keep the weights of one of the best steps."""
        file = f"best/step-{step:08d}.safetensors"
        data = tensor_files.save(dict(weights))
        write_atomically(self.path / file, data)
        return Checkpoint(step, file, sha256(data), dict(metrics))

    def write_best_list(self, best: Iterable[Checkpoint]) -> None:
        """best/best.json: the best steps, best first."""
        text = json.dumps([asdict(checkpoint) for checkpoint in best], indent=1)
        write_atomically(self.path / "best" / "best.json", text.encode())

    def best(self) -> list[Checkpoint]:
        """The best steps, best first."""
        file = self.path / "best" / "best.json"
        if not file.is_file():
            return []
        try:
            return [Checkpoint(**line) for line in json.loads(file.read_text(encoding="utf-8"))]
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError):
            raise DamagedFileError(f"{file} is damaged: it is no list of checkpoints") from None

    def prune_best(self, also: Iterable[Checkpoint] = ()) -> None:
        """Delete the weights that are no longer among the best, nor among some others to keep."""
        kept = {checkpoint.file for checkpoint in (*self.best(), *also)}
        for file in (self.path / "best").glob("*step-*"):
            if file.relative_to(self.path).as_posix() not in kept:
                file.unlink()

    # --- state/ ---

    def write_state(self, step: int, state: Mapping[str, Any], keep: int = 2) -> None:
        """A full state to resume from, its hash at its end; the older ones beyond `keep` are deleted."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        # The archive ends with the length of its comment, 0; the 64 digits of the hash become the comment.
        buffer.seek(-2, io.SEEK_END)
        buffer.write((64).to_bytes(2, "little"))
        with buffer.getbuffer() as view:
            digest = sha256(view)
        buffer.write(digest.encode())
        with buffer.getbuffer() as view:
            write_atomically(self.path / "state" / f"step-{step:08d}.pt", view)
        for file in self._state_files()[:-keep]:
            file.unlink()

    def state_steps(self) -> list[int]:
        """The steps that can be resumed from, damaged files left out."""
        return [_state_step(file) for file in self._state_files() if _state_is_whole(file)]

    def damaged_states(self) -> list[Path]:
        """States that are there and cannot be used."""
        return [file for file in self._state_files() if not _state_is_whole(file)]

    def read_state(self, step: int) -> dict[str, Any]:
        """The full state of a step of state_steps()."""
        file = self.path / "state" / f"step-{step:08d}.pt"
        return torch.load(file, map_location="cpu", weights_only=True)

    def cut_states(self, last_step: int) -> None:
        """Delete the states after a step, damaged ones, and what a killed process left half-written."""
        kept = {f for f in self._state_files() if _state_step(f) <= last_step and _state_is_whole(f)}
        for file in set((self.path / "state").glob("*.pt*")) - kept:
            file.unlink()

    def _state_files(self) -> list[Path]:
        return sorted((self.path / "state").glob("step-*.pt"))


def _state_step(file: Path) -> int:
    return int(file.stem.removeprefix("step-"))


def _state_is_whole(file: Path) -> bool:
    data, digest = (content := file.read_bytes())[:-64], content[-64:]
    return digest == sha256(data).encode()
