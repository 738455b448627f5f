"""What people have, as the arrays that a graph takes: nothing changes without a word."""

from __future__ import annotations

import numpy as np
import pytest

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.onnx_file.values import TensorSpec
from onnxferry.runtime.tables.csv_file import Table
from onnxferry.runtime.tables.feeds import FeedsThatFit, as_feeds, batch_feeds, check_text, chosen_columns

SHOP = (TensorSpec("age", "int64", ("batch", 1)), TensorSpec("city", "str", ("batch", 1)), TensorSpec("spent", "float32", ("batch", 1)))
MATRIX = (TensorSpec("X", "float32", ("batch", 4)),)
TEXTS = (TensorSpec("text", "str", ("batch",)),)


class Frame:
    """What pandas and polars have in common."""

    def __init__(self, **columns) -> None:
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return Series(self._columns[name])


class Series:
    def __init__(self, values) -> None:
        self._values = values

    def to_numpy(self):
        return np.array(self._values, object if any(isinstance(value, str) for value in self._values) else None)


ROWS = {"age": [34, 51], "city": ["Bonn", "Ulm"], "spent": [0.1, 7]}


@pytest.mark.parametrize(
    "feeds",
    [
        ROWS,
        Frame(**ROWS),
        [{"age": 34, "city": "Bonn", "spent": 0.1}, {"age": 51, "city": "Ulm", "spent": 7}],
        {"age": np.array([34, 51], np.int32), "city": np.array([["Bonn"], ["Ulm"]]), "spent": Series([0.1, 7.0])},
        {"age": np.array([34.0, 51.0]), "city": Series(["Bonn", "Ulm"]), "spent": np.array([[0.1], [7]], np.float32)},
        Table("t", {"age": ["34", "51.0"], "city": ["Bonn", "Ulm"], "spent": ["0.1", "7"]}, ","),
    ],
)
def test_rows(feeds: object) -> None:
    made = as_feeds(feeds, SHOP)
    assert {name: (array.shape, array.ravel().tolist()) for name, array in made.items()} == {
        "age": ((2, 1), [34, 51]),
        "city": ((2, 1), ["Bonn", "Ulm"]),
        "spent": ((2, 1), [np.float32(0.1).item(), 7]),
    }
    assert (made["age"].dtype, made["spent"].dtype) == (np.int64, np.float32)


def test_single_values_are_repeated() -> None:
    made = as_feeds({"age": [34, 51, 60], "city": "Bonn", "spent": 2}, SHOP)
    assert made["city"].ravel().tolist() == ["Bonn"] * 3
    assert made["spent"].shape == (3, 1)
    assert as_feeds({"age": 34, "city": "Bonn", "spent": 2.5}, SHOP)["age"].shape == (1, 1)


def test_arrays_that_fit_are_not_copied() -> None:
    feeds = {"X": np.zeros((3, 4), np.float32)}
    assert as_feeds(feeds, MATRIX) is feeds
    assert as_feeds(feeds["X"], MATRIX)["X"] is feeds["X"]


@pytest.mark.parametrize("feeds", [[1, 2, 3, 4], [[1, 2, 3, 4]], Frame(a=[1], b=[2.0], c=[3], d=[4]), np.array([[1.0, 2, 3, 4]])])
def test_a_matrix(feeds: object) -> None:
    made = as_feeds(feeds, MATRIX)["X"]
    assert made.dtype == np.float32
    assert made.tolist() == [[1, 2, 3, 4]]


def test_texts() -> None:
    assert as_feeds(["a", "b"], TEXTS)["text"].tolist() == ["a", "b"]
    assert as_feeds("a", TEXTS)["text"].tolist() == ["a"]
    assert as_feeds({"text": ["a"]}, TEXTS)["text"].shape == (1,)


def test_missing_numbers_are_nan_where_there_is_one() -> None:
    made = as_feeds(Table("t", {"age": ["1"], "city": ["x"], "spent": ["NA"]}, ","), SHOP)
    assert np.isnan(made["spent"]).all()


@pytest.mark.parametrize(
    ("feeds", "inputs", "words"),
    [
        (Frame(**ROWS, id=[1, 2]), SHOP, r"columns that the model does not take: 'id'"),
        (Frame(age=[1]), SHOP, r"no column 'city'; the model takes 'age', 'city', 'spent', and the table has 'age'"),
        ({**ROWS, "age": [1.5, 2]}, SHOP, r"'age' must be int64 \(batch, 1\), got float64: 1.5 at \[0, 0\] would change"),
        ({**ROWS, "age": [1, None]}, SHOP, r"'age': row 2 is missing, and int64 has no missing value"),
        ({**ROWS, "age": np.array([1, np.nan])}, SHOP, r"'age': value 2 is missing"),
        ({**ROWS, "age": np.array([1, 2**63], np.uint64)}, SHOP, r"would change"),
        ({**ROWS, "age": ["x", "1"]}, SHOP, r"'age': row 1 is 'x', expected int64"),
        ({**ROWS, "age": ["3_4", "1"]}, SHOP, r"'age': row 1 is '3_4', expected int64"),
        ({**ROWS, "city": ["x", None]}, SHOP, r"'city': row 2 is missing, and the model takes text"),
        ({**ROWS, "city": ["x", 3]}, SHOP, r"'city': row 2 is 3 \(int\)"),
        ({**ROWS, "spent": np.array([0.1, 2])}, SHOP, r"'spent' must be float32.*0\.1.*astype\('float32'\) if the loss is meant"),
        ({**ROWS, "spent": [1e300, 1]}, SHOP, r"1e\+300"),
        ({**ROWS, "spent": [2**24 + 1, 1]}, SHOP, r"16777217"),
        (Frame(a=[1], b=[2]), MATRIX, r"2 columns \('a', 'b'\), and the input 'X' takes 4"),
        ([[1, 2], [3]], MATRIX, r"different lengths"),
        (3, SHOP, r"feeds must be a dict .* inputs: 'age', 'city', 'spent'"),
        (None, MATRIX, r"feeds must be a dict"),
    ],
)
def test_what_does_not_fit(feeds: object, inputs: tuple[TensorSpec, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        as_feeds(feeds, inputs)


def test_columns_that_are_no_inputs() -> None:
    table = Table("t", {"id": ["1"], "age": ["2"], "city": [""], "spent": ["3"]}, ",")
    chosen, left = chosen_columns(table, SHOP)
    assert left == ("id",)
    assert list(chosen.columns) == ["age", "city", "spent"]
    with pytest.raises(InputError, match=r"t: row 1 of the column 'city' is empty"):
        check_text(chosen, SHOP)


@pytest.mark.parametrize("column", [[[1, 2, 3], [4, 5, 6]], [np.float64([1, 2, 3]), np.float64([4, 5, 6])]])
def test_a_column_of_arrays_is_stacked(column: list[object]) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    spec = TensorSpec("x", "float32", ("batch", 3))
    for feeds in ({"x": column}, pandas.DataFrame({"x": column}), {"x": pandas.Series(column)}):
        np.testing.assert_array_equal(as_feeds(feeds, [spec])["x"], np.float32([[1, 2, 3], [4, 5, 6]]))
    with pytest.raises(InputError, match="rows are of different shapes"):
        as_feeds(pandas.DataFrame({"x": [[1, 2, 3], [4, 5]]}), [spec])


def test_columns_of_a_batch_are_rounded_as_those_of_a_table() -> None:
    spec = TensorSpec("x", "float32", ("batch",))
    assert batch_feeds({"x": np.float64([0.1]), "id": ["a"]}, [spec])["x"].dtype == np.float32
    with pytest.raises(InputError, match="would change"):
        as_feeds({"x": np.float64([0.1])}, [spec])


def test_many_names_are_not_all_listed() -> None:
    specs = [TensorSpec(f"input_{number}", "float32", ("batch",)) for number in range(2000)]
    for feeds in (Frame(a=[1.0]), [1, 2], Frame(**{spec.name: [1.0] for spec in specs}, more=[1.0])):
        with pytest.raises(InputError) as caught:
            as_feeds(feeds, specs)
        assert len(str(caught.value)) < 700, str(caught.value)[:900]


def test_rows_as_people_have_them() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(ROWS)
    wanted = {name: list(cells) for name, cells in as_feeds(frame, SHOP).items()}
    rows = list(frame.itertuples(index=False))
    for given in (rows, [row for _, row in frame.iterrows()]):
        assert {name: list(cells) for name, cells in as_feeds(given, SHOP).items()} == wanted
    for row in (rows[0], frame.iloc[0]):
        assert [cells.shape for cells in as_feeds(row, SHOP).values()] == [(1, 1)] * 3
    with pytest.raises(InputError, match="the column 'age' twice"):
        as_feeds(pandas.concat([frame, frame[["age"]]], axis=1), SHOP)


def test_arrow_tables_are_tables() -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    for table in (arrow.table(ROWS), arrow.RecordBatch.from_pydict(ROWS)):
        feeds = as_feeds(table, SHOP)
        assert feeds["city"].tolist() == [["Bonn"], ["Ulm"]]
        np.testing.assert_array_equal(feeds["spent"], np.float32([[0.1], [7]]))


def test_masked_values_are_missing_and_byte_order_is_no_matter() -> None:
    spent, age = SHOP[2], SHOP[0]
    masked = np.ma.masked_array([[1.0], [2.0]], mask=[[False], [True]])
    np.testing.assert_array_equal(as_feeds({"spent": masked}, [spent])["spent"], np.float32([[1], [np.nan]]))
    with pytest.raises(InputError, match="row 2 is missing"):
        as_feeds({"age": masked.astype(np.int64)}, [age])
    feeds = as_feeds({"age": np.array([[34]], ">i8"), "spent": np.array([[0.5]], ">f4")}, [age, spent])
    assert (feeds["age"].tolist(), feeds["spent"].tolist()) == ([[34]], [[0.5]])
    assert all(array.dtype.isnative for array in feeds.values())


def test_text_as_bytes_is_utf8() -> None:
    assert as_feeds({"city": np.array([["Köln".encode()]])}, [SHOP[1]])["city"].tolist() == [["Köln"]]
    with pytest.raises(InputError, match="row 1 is bytes that are not UTF-8"):
        as_feeds({"city": [[b"\xff"]]}, [SHOP[1]])


def test_what_numpy_cannot_hold_is_an_error_of_ours() -> None:
    with pytest.raises(InputError, match="row 2 is 1180591620717411303424, which int64 does not hold"):
        as_feeds({"age": [1, 2**70]}, [SHOP[0]])
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for tensor in (torch.ones(1, 1, requires_grad=True), torch.ones(1, 1).bfloat16(), torch.ones(1, 1, device="meta")):
        with pytest.raises(InputError, match=r"is no numpy array .* give spent.detach\(\).cpu\(\).numpy\(\)"):
            as_feeds({"spent": tensor}, [SHOP[2]])


def test_what_an_engine_can_be_left_to_check() -> None:
    specs = (TensorSpec("x", "float32", ("batch", 3)), TensorSpec("name", "str", ("batch",)), TensorSpec("list", "seq(tensor(float))", ()))
    fit = FeedsThatFit(specs)
    x, names = np.zeros((2, 3), np.float32), np.array(["a", "b"])
    assert fit({"x": x, "name": names, "list": [1.0]})
    assert fit({"x": np.zeros((2, 7), np.float32), "unknown": "a size and a name are the engine's to refuse"})
    assert fit({"name": names.astype(object)})
    for other in (x.astype(np.float64), x.astype(">f4"), x.tolist(), x[0], np.ma.masked_array(x)):
        assert not fit({"x": other})
    assert not FeedsThatFit((TensorSpec("x", "no such dtype", ("batch",)),))({"x": x[0]})
