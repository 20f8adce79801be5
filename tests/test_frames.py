"""Frames: every kind of column gives the cells that it gives one by one."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest

from smtp_notebook import frames
from smtp_notebook.frames import Frame

MOMENT = dt.datetime(2026, 5, 4, 3, 2, 1)
COLUMNS = {
    "str": ["a", None, "ü"],
    "object": pd.Series(["a", None, 1], dtype=object),
    "string": pd.Series(["a", None, "b"], dtype="string"),
    "int": [1, 2, 3],
    "small": np.array([1, 2, 3], dtype="int8"),
    "Int64": pd.Series([1, None, 3], dtype="Int64"),
    "float": [1.0, None, 2.5],
    "float32": np.array([1.0, np.nan, 2.5], dtype="float32"),
    "Float64": pd.Series([1.0, None, 2.5], dtype="Float64"),
    "bool": [True, False, True],
    "boolean": pd.Series([True, None, False], dtype="boolean"),
    "moment": pd.to_datetime(["2026-05-04 00:00:00", None, "2026-05-04 03:02:01"]),
    "zoned": pd.to_datetime(["2026-05-04 00:00:00", None, "2026-05-04 03:02:01"], utc=True),
    "span": pd.to_timedelta([1, None, 3], unit="D"),
    "period": pd.period_range("2026-01", periods=3, freq="M"),
    "category": pd.Categorical(["a", None, "b"]),
    "date": [dt.date(2026, 1, 2), None, dt.date(2026, 1, 3)],
    "decimal": [Decimal("1.50"), None, Decimal(2)],
    "list": [[1], None, ["a"]],
    "arrow": pd.Series([1, None, 3], dtype="int64[pyarrow]"),
}


def shown(rows):
    return [[(k, type(v), repr(v)) for k, v in row.items()] for row in rows]


@pytest.mark.parametrize("block", [1, 2, 4096])
def test_the_cells_of_a_pandas_column_are_those_that_it_gives_one_by_one(monkeypatch, block):
    monkeypatch.setattr(frames, "_BLOCK", block)
    data = pd.DataFrame(COLUMNS, index=[7, 7, 9])
    one_by_one = [dict(zip(data.columns, t, strict=True)) for t in data.itertuples(index=False, name=None)]
    frame = Frame(data)
    assert shown(frame.rows()) == shown(one_by_one) == shown(frame.row(i) for i in range(3))


@pytest.mark.parametrize("make", [polars.DataFrame, pa.table])
def test_those_of_other_frames_too(make):
    columns = {
        "s": ["a", None],
        "i": [1, None],
        "f": [1.5, None],
        "t": [MOMENT, None],
        "d": [MOMENT.date(), None],
        "l": [[1], None],
        "n": [Decimal("1.50"), None],
        "b": [True, None],
    }
    meant = [{k: v[i] for k, v in columns.items()} for i in range(2)]
    frame = Frame(make(columns))
    assert shown(frame.rows()) == shown(meant) == shown(frame.row(i) for i in range(2))


def test_a_frame_may_have_no_rows_no_columns_and_names_that_are_no_text():
    assert list(Frame(pd.DataFrame({"a": []})).rows()) == []
    assert list(Frame(pd.DataFrame()).rows()) == []
    assert list(Frame(pd.DataFrame({0: [1], "b": [2]})).rows()) == [{"0": 1, "b": 2}]


@pytest.mark.parametrize(
    ("columns", "key"),
    [
        ({"Name": ["a", "b"], "Id": ["x", "y"]}, "Id"),
        ({"Lead Id": [1, 2], "id": [1, 1]}, "Lead Id"),
        ({"contact_id": [1, 2], "KEY": [3, 4]}, "KEY"),
        ({"id": [1, 1.0]}, ""),
        ({"id": ["1", 1]}, ""),
        ({"id": [1, None]}, ""),
        ({"id": [True, False]}, ""),
        ({"idea": [1, 2]}, ""),
        ({"id": []}, ""),
    ],
)
def test_a_key_is_guessed_by_its_name_where_it_tells_the_rows_apart(columns, key):
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    for data in (pd.DataFrame(columns, dtype=object), rows):
        assert frames.guess_key_column(Frame(data)) == key


def test_a_columns_cells_are_those_of_its_rows():
    for data in (pd.DataFrame({"a": [1, 2], 0: ["x", None]}), [{"a": 1, 0: "x"}, {"a": 2}]):
        frame = Frame(data)
        assert frame.cells("0") == [row["0"] for row in frame.rows()]
        assert frame.row(0) == next(frame.rows()) == {"a": 1, "0": "x"}
