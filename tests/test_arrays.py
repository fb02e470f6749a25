"""Arrays that grow row by row: a row is there when it is whole, and never before."""

import numpy as np
import pytest
import xarray as xr

from interp_arith.arrays import RowArrays, RowShape, lazy_variable
from interp_arith.errors import WorkError
from interp_arith.files import DamagedFileError

ROW = RowShape((5, 3), chunk=2)


def numbers(seed: int) -> np.ndarray:
    return np.arange(15, dtype=np.float32).reshape(5, 3) + 100 * seed


def write(arrays: RowArrays, label: str, values: np.ndarray, row: RowShape = ROW, name: str = "x") -> None:
    with arrays.writing():
        opened = arrays.open_row(name, row)
        for start in range(0, len(values), row.chunk):
            opened[start : start + row.chunk] = values[start : start + row.chunk]
        arrays.add(label, {name: row})


def read(arrays: RowArrays, *labels: str) -> xr.Variable:
    return lazy_variable(("row", "place", "width"), arrays.lazy("x", ROW, labels), {})


@pytest.fixture
def arrays(tmp_path) -> RowArrays:
    filled = RowArrays(tmp_path / "arrays")
    write(filled, "one", numbers(1))
    write(filled, "two", numbers(2))
    return filled


def chunk(arrays: RowArrays, row: int, piece: int):
    return arrays.folder / "x" / "c" / str(row) / str(piece) / "0"


def test_rows_come_back_by_label_in_the_order_asked(arrays):
    np.testing.assert_array_equal(read(arrays, "two", "one", "two"), [numbers(2), numbers(1), numbers(2)])


@pytest.mark.parametrize(
    "key", [0, (1, 3), (slice(None), [4, 0]), ([1, 0], slice(1, 4, 2), -1), (slice(None, None, -1),)]
)
def test_a_part_is_the_part_of_the_whole(arrays, key):
    whole = xr.Variable(("row", "place", "width"), np.stack([numbers(1), numbers(2)]))
    np.testing.assert_array_equal(read(arrays, "one", "two")[key], whole[key])


def test_sizes_are_those_on_the_disk(arrays):
    assert (ROW.bytes, ROW.chunks, ROW.chunk_bytes) == (60, 3, 28)
    assert [chunk(arrays, 1, piece).stat().st_size for piece in range(3)] == [28] * 3


def test_only_what_is_not_there_is_missing(arrays):
    assert arrays.missing("x", ROW, ["three", "one", "three"]) == ["three"]
    assert arrays.missing("y", ROW, ["one"]) == ["one"]


def test_a_row_that_was_not_added_does_not_exist(arrays):
    with arrays.writing():
        arrays.open_row("x", ROW)[0:2] = numbers(3)[:2]
    assert arrays.missing("x", ROW, ["one", "two", "three"]) == ["three"]
    write(arrays, "three", numbers(3))
    np.testing.assert_array_equal(read(arrays, "one", "three"), [numbers(1), numbers(3)])


def test_rows_of_another_shape_are_begun_anew(arrays):
    narrow = RowShape((5, 2), chunk=5)
    assert arrays.missing("x", narrow, ["one"]) == ["one"]
    write(arrays, "one", numbers(7)[:, :2], narrow)
    assert arrays.missing("x", narrow, ["one", "two"]) == ["two"]
    assert arrays.missing("x", ROW, ["one", "two"]) == ["one", "two"]


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_bytes(b"cut")])
def test_a_row_that_lost_a_file_is_missing_and_no_zeros_are_read(arrays, harm):
    before = read(arrays, "one")
    harm(chunk(arrays, 0, 1))
    assert arrays.missing("x", ROW, ["one", "two"]) == ["one"]
    with pytest.raises(DamagedFileError, match="is damaged; delete that folder and ask again"):
        before.load()
    write(arrays, "one", numbers(1))
    np.testing.assert_array_equal(read(arrays, "one", "two"), [numbers(1), numbers(2)])


def test_an_altered_number_is_refused_and_the_others_are_read(arrays):
    file = chunk(arrays, 0, 1)
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(bytes(data))
    np.testing.assert_array_equal(read(arrays, "one")[0, :2], numbers(1)[:2])
    with pytest.raises(DamagedFileError, match="x is damaged"):
        read(arrays, "one").load()


def test_a_folder_that_was_deleted_meanwhile_is_no_traceback_of_zarr(arrays, tmp_path):
    opened = read(arrays, "one")
    arrays.folder.rename(tmp_path / "elsewhere")
    with pytest.raises(DamagedFileError):
        opened.load()


def test_a_torn_list_of_rows_has_no_rows(arrays):
    file = arrays.folder / "rows.json"
    file.write_bytes(file.read_bytes()[:-9])
    assert arrays.missing("x", ROW, ["one", "two"]) == ["one", "two"]
    write(arrays, "two", numbers(2))
    np.testing.assert_array_equal(read(arrays, "two"), [numbers(2)])


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(WorkError, match=r"file could not be written .*; what was kept before is whole"),
        RowArrays(tmp_path / "file").writing(),
    ):
        pass
