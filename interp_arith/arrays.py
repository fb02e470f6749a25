"""Arrays on disk that grow row by row and are never half-written, in Zarr; knows no run.

Every row has a label that decides its numbers, such as a hash of the weights that they came from, so that what is
found under a label is never stale. A row exists when rows.json says so, and that is written last.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from interp_arith.errors import WorkError
from interp_arith.files import DamagedFileError, flush_folder, write_atomically
from interp_arith.lazy import Lazy

if TYPE_CHECKING:
    import zarr
    from zarr import codecs
else:
    zarr, codecs = Lazy("zarr"), Lazy("zarr.codecs")  # a third of a second, which few need

_CHECKSUM_BYTES = 4
_CONFIG: Any = {"write_empty_chunks": True}  # a file that is not there has been lost
_ROWS, _WRITER = "rows.json", "writer.lock"


@dataclass(frozen=True)
class RowShape:
    """What every row of an array looks like.

    Attributes:
        shape: of one row.
        chunk: places of its first axis that are written, and read, together.
        dtype: NumPy's name for the numbers.
    """

    shape: tuple[int, ...]
    chunk: int
    dtype: str = "float32"

    @property
    def bytes(self) -> int:
        """Of one row, in memory."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def chunks(self) -> int:
        """In how many pieces a row lies on the disk."""
        return -(-self.shape[0] // self.chunk)

    @property
    def chunk_bytes(self) -> int:
        """Of one piece on the disk, its checksum among them; the last one is as long as the others."""
        return self.chunk * prod(self.shape[1:]) * np.dtype(self.dtype).itemsize + _CHECKSUM_BYTES


class RowArrays:
    """Arrays in a folder by name, their rows by label.

    Args:
        folder: made when the first row is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer, once another is done; a killed process leaves no lock behind.

        Raises:
            WorkError: the folder cannot be written, or the disk is full; the rows that were whole still are.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / _WRITER, "a", encoding="ascii") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise WorkError(
                f"{self.folder} could not be written ({error.strerror or error}); what was kept before is whole; "
                "make room, or work on a copy of the run"
            ) from error

    def missing(self, name: str, row: RowShape, labels: Sequence[str]) -> list[str]:
        """Those labels, each once, that have no whole row of this shape."""
        rows = self._rows(name, row)
        whole = {label for label in set(labels) if label in rows and self._is_whole(name, row, rows[label])}
        return [label for label in dict.fromkeys(labels) if label not in whole]

    def open_row(self, name: str, row: RowShape) -> "OpenRow":
        """A new row to fill; it exists once it is handed to `add`. Only while `writing`."""
        index = len(self._listed(name, row))
        array = self._opened(name) if index else self._begun(name, row)
        array.resize((index + 1, *row.shape))
        return OpenRow(array, index)

    def _opened(self, name: str) -> "zarr.Array":
        return zarr.open_array(self.folder / name, mode="r+", config=_CONFIG)

    def _begun(self, name: str, row: RowShape) -> "zarr.Array":
        """An array without rows; whatever had its name goes."""
        return zarr.open_group(self.folder, mode="a").create_array(
            name,
            shape=(0, *row.shape),
            chunks=(1, row.chunk, *row.shape[1:]),
            dtype=row.dtype,
            compressors=[codecs.Crc32cCodec()],
            config=_CONFIG,
            overwrite=True,
        )

    def add(self, label: str, rows: Mapping[str, RowShape]) -> None:
        """Say that the rows which were opened last are whole: their numbers go to the disk, then rows.json.

        Args:
            label: of all of them.
            rows: array name -> shape.
        """
        said = self._read()
        for name, row in rows.items():
            listed = self._listed(name, row)
            self._flush(name, len(listed))
            said[name] = {**_plain(row), "rows": [*listed, label]}
        write_atomically(self.folder / _ROWS, json.dumps(said, indent=1).encode())

    def lazy(self, name: str, row: RowShape, labels: Sequence[str]) -> indexing.LazilyIndexedArray:
        """The rows of these labels, in their order; what is not asked for is not read.

        Reading raises DamagedFileError where a file was altered or has gone.
        """
        rows = self._rows(name, row)
        return indexing.LazilyIndexedArray(_Rows(self, name, row, [rows[label] for label in labels]))

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / _ROWS).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return {}  # then there are no rows, and they are taken anew

    def _listed(self, name: str, row: RowShape) -> list[str]:
        """The labels of an array in the order of its rows; none where what is kept has another shape."""
        said = self._read().get(name, {})
        there = (self.folder / name / "zarr.json").is_file()
        return said["rows"] if there and {**said, "rows": None} == {**_plain(row), "rows": None} else []

    def _rows(self, name: str, row: RowShape) -> dict[str, int]:
        """Label -> row; of several the last, which was written because those before were damaged."""
        return {label: index for index, label in enumerate(self._listed(name, row))}

    def _is_whole(self, name: str, row: RowShape, index: int) -> bool:
        """Whether every file of a row is there, and as long as it should be."""
        files = [file for file in self._chunk_folder(name, index).rglob("*") if file.is_file()]
        return [file.stat().st_size for file in files] == [row.chunk_bytes] * row.chunks

    def _flush(self, name: str, index: int) -> None:
        for file in self._chunk_folder(name, index).rglob("*"):
            if file.is_file():
                with open(file, "rb") as written:
                    os.fsync(written.fileno())
            else:
                flush_folder(file)
        for folder in (self._chunk_folder(name, index), self.folder / name / "c", self.folder / name):
            flush_folder(folder)

    def _chunk_folder(self, name: str, index: int) -> Path:
        return self.folder / name / "c" / str(index)


@dataclass(frozen=True)
class OpenRow:
    """A row that is being filled."""

    array: "zarr.Array"
    index: int

    def __setitem__(self, places: slice, values: np.ndarray) -> None:
        """Write some places of the row's first axis; whole chunks are quickest."""
        self.array[self.index, places] = values


class _Rows(BackendArray):
    """Some rows of an array, read where they are asked for."""

    def __init__(self, arrays: RowArrays, name: str, row: RowShape, indices: Sequence[int]) -> None:
        self.arrays, self.name, self.row = arrays, name, row
        self.indices = np.array(indices, dtype=np.int64)
        self.shape = (len(indices), *row.shape)
        self.dtype = np.dtype(row.dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._outer
        )

    def _outer(self, key: tuple[Any, ...]) -> np.ndarray:
        wanted = self.indices[key[0]]
        for index in np.atleast_1d(wanted).tolist():
            if not self.arrays._is_whole(self.name, self.row, index):
                raise self._damaged()
        try:
            array = zarr.open_array(self.arrays.folder / self.name, mode="r")
            return np.asarray(array.oindex[(wanted, *key[1:])])
        except (
            ValueError,
            FileNotFoundError,
        ) as error:  # Zarr's words for a wrong checksum, and for no array
            raise self._damaged() from error

    def _damaged(self) -> DamagedFileError:
        return DamagedFileError(
            f"{self.arrays.folder / self.name} is damaged; delete that folder and ask again, "
            "then it is computed anew"
        )


def lazy_variable(
    dims: Sequence[str], lazy: indexing.LazilyIndexedArray, attrs: Mapping[str, Any]
) -> xr.Variable:
    """A variable whose numbers are read from the disk, each time that they are needed."""
    return xr.Variable(dims, lazy, dict(attrs))


def _plain(row: RowShape) -> dict[str, Any]:
    return {"shape": list(row.shape), "chunk": row.chunk, "dtype": row.dtype}
