"""A frame in a mail: what is shown of it, how it is aligned, and that no cell of it is ever markup."""

from __future__ import annotations

import datetime as dt
import re
import tracemalloc
from decimal import Decimal

import narwhals as nw
import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import html as lxml_html

from smtp_notebook import tables
from smtp_notebook.tables import MAX_ROWS, is_frame, table

FRAME = pd.DataFrame({"name": ["Ann", "Bo"], "seats": [3, 12], "paid": [1.5, 10.25]})


def cells(shown):
    """Return the cells of a Table's HTML, as a parser reads them."""
    root = lxml_html.fragment_fromstring(shown.to_html())
    return [[c.text_content() for c in row] for row in root.iterfind(".//tbody/tr")]


def test_columns_of_numbers_stand_to_the_right_with_as_many_decimals_each():
    shown = table(FRAME)
    assert shown.numeric == (False, True, True)
    assert shown.rows == (("Ann", "3", "1.50"), ("Bo", "12", "10.25"))
    assert shown.to_text() == "name  seats   paid\n----  -----  -----\nAnn       3   1.50\nBo       12  10.25"
    assert shown.to_html().count('align="right"') == 6


@pytest.mark.parametrize(
    ("column", "texts"),
    {
        "whole floats, as a column with gaps has them": ([2026.0, None], ["2026", ""]),
        "a few decimals": ([0.1, 0.25, 3], ["0.10", "0.25", "3.00"]),
        "no more than six figures": ([1 / 3, 1234.5678], ["0.333333", "1234.567800"]),
        "what decimals cannot show": ([1e-9, 2e20], ["1e-09", "2e+20"]),
        "no number": ([float("inf"), float("nan")], ["inf", ""]),
        "large numbers without a sign that an id would not have": ([94107, 1234567], ["94107", "1234567"]),
        "decimals as they are": ([Decimal("1.10"), Decimal(2)], ["1.10", "2"]),
        "truth is no number": ([True, False], ["True", "False"]),
        "days": ([dt.datetime(2026, 3, 1), dt.datetime(2026, 3, 2)], ["2026-03-01", "2026-03-02"]),
        "moments": ([dt.datetime(2026, 3, 1), dt.datetime(2026, 3, 2, 9, 30)], ["2026-03-01 00:00:00", "2026-03-02 09:30:00"]),
        "missing in each of its forms": ([None, pd.NA, "x"], ["", "", "x"]),
        "numbers and words": ([1, "x"], ["1", "x"]),
    }.values(),
)  # fmt: skip
def test_cells_print_as_a_reader_expects_them(column, texts):
    shown = table(pd.DataFrame({"a": pd.Series(column, dtype=object)}))
    assert [row[0] for row in shown.rows] == texts


def test_an_index_that_says_something_is_shown_and_one_that_only_counts_is_not():
    by_name = FRAME.set_index("name")
    assert table(by_name).head == ("name", "seats", "paid")
    assert table(FRAME).head == ("name", "seats", "paid")
    assert table(by_name.rename_axis(None)).head == ("", "seats", "paid")
    two = FRAME.set_index(["name", "seats"])
    assert table(two).rows[1] == ("Bo", "12", "10.25")
    assert table(two).head == ("name", "seats", "paid")


def test_labels_of_several_levels_are_joined():
    frame = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "x"), ("a", "")]))
    assert table(frame).head == ("a x", "a")


@pytest.mark.parametrize(
    "frame",
    [
        FRAME,
        polars.DataFrame({"name": ["Ann", "Bo"], "seats": [3, 12], "paid": [1.5, 10.25]}),
        pyarrow.table({"name": ["Ann", "Bo"], "seats": [3, 12], "paid": [1.5, 10.25]}),
        pyarrow.RecordBatch.from_pydict({"name": ["Ann", "Bo"], "seats": [3, 12], "paid": [1.5, 10.25]}),
    ],
    ids=lambda f: type(f).__module__,
)
def test_every_kind_of_frame_looks_the_same(frame):
    assert is_frame(frame)
    assert table(frame) == table(FRAME)


def test_a_column_is_a_table_of_one():
    assert table(FRAME["seats"]).head == ("seats",)
    assert table(pd.Series([1, 2])).head == ("",)
    assert table(polars.Series("s", [1])).head == ("s",)
    assert table(pd.Index(["a", "b"], name="k")).rows == (("a",), ("b",))


def test_what_is_not_shown_is_counted():
    frame = pd.DataFrame(np.zeros((1000, 60)))
    shown = table(frame)
    assert len(shown.rows) == MAX_ROWS
    assert shown.note == "… and 800 more rows and 10 more columns"
    assert shown.to_text().endswith(shown.note)
    assert "800 more rows" in shown.to_html()
    assert table(frame, rows=999, columns=59).note == "… and 1 more row and 1 more column"
    assert table(frame, rows=0).rows == ()


def test_an_empty_frame_is_its_head():
    shown = table(pd.DataFrame({"a": [], "b": []}))
    assert (shown.head, shown.rows, shown.note) == (("a", "b"), (), "")
    assert shown.to_text() == "a  b\n-  -"
    assert table(pd.DataFrame()).head == ()
    table(pd.DataFrame()).to_html()
    assert table(pd.DataFrame()).to_text() is not None


def test_a_caption_stands_above_it():
    frame = FRAME.copy()
    frame.attrs["caption"] = "Seats & money"
    assert "<strong>Seats &amp; money</strong>" in table(frame).to_html()
    assert table(frame).to_text().startswith("Seats & money\nname")
    assert table(frame, caption="Other").caption == "Other"
    assert table(frame, caption="").caption == ""


HOSTILE = (
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    ']]><b>"><x',
    "\u202egnp.exe",
    "שלום \u202e עולם",
    "a\0b\x1b[31m\x85",
    "half \ud800 of one",
    "one\r\ntwo\rthree",
    "x" * 1_000_000,
)


def test_hostile_cells_labels_and_captions_stay_text():
    frame = pd.DataFrame([HOSTILE], columns=pd.Index(HOSTILE, dtype=object), dtype=object)
    shown = table(frame, caption=HOSTILE[0])
    root = lxml_html.fragment_fromstring(shown.to_html())
    assert {e.tag for e in root.iter()} <= {
        "div",
        "p",
        "strong",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "br",
    }
    assert not [a for e in root.iter() for a in e.attrib if a.startswith("on") or a == "src"]
    assert root.findall(".//td")[0].text == HOSTILE[0]
    assert len(shown.to_html()) < 30_000
    for text in (shown.to_html(), shown.to_text()):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066\u2067]", text)
        text.encode()


def test_a_text_from_right_to_left_keeps_to_its_cell():
    shown = table(pd.DataFrame({"a": ["שלום", "x"], "b": ["1", "2"]}))
    assert shown.to_html().count('dir="auto"') == 1
    assert "\u2068שלום\u2069" in shown.to_text()


def test_wide_letters_take_two_columns_of_the_text_twin_and_accents_none():
    lines = table(pd.DataFrame({"n": ["東京", "ab", "e\u0301"], "k": ["x", "y", "z"]})).to_text().splitlines()
    assert lines[2] == "東京  x"
    assert lines[3] == "ab    y"
    assert lines[4] == "e\u0301     z"


@given(st.lists(st.lists(st.text(max_size=20), min_size=2, max_size=2), max_size=5))
def test_whatever_the_cells_are_the_table_keeps_its_shape(rows):
    shown = table(pd.DataFrame(rows, columns=["a", "b"], dtype=object))
    assert len(cells(shown)) == len(rows)
    assert all(len(row) == 2 for row in cells(shown))
    assert shown.to_text().count("\n") == len(rows) + 1
    shown.to_text().encode()


def test_a_cell_that_cannot_print_itself_is_named():
    class Odd:
        def __str__(self):
            raise ValueError("no")

    assert table(pd.DataFrame({"a": [Odd()]})).rows == (("<Odd>",),)


def test_ten_thousand_columns_and_cells_of_a_megabyte_cost_what_is_shown():
    frame = pd.DataFrame(np.zeros((300, 10_000)))
    frame[0] = ["y" * 1_000_000] * 300
    tracemalloc.start()
    shown = table(frame)
    page = shown.to_html()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 * 2**20
    assert len(page) < 2**20
    assert shown.head[:2] == ("0", "1")


def test_only_loaded_libraries_are_asked(monkeypatch):
    monkeypatch.delitem(tables.sys.modules, "polars")
    assert not is_frame(polars.DataFrame({"a": [1]}))
    assert not is_frame([1])


def test_frames_of_every_library_and_with_odd_names_are_tables():
    arrow = pyarrow.table([[1], [2]], names=["a", "a"])
    for frame in (arrow, arrow.to_batches()[0]):
        assert (table(frame).head, table(frame).rows) == (("a", "a"), (("1", "2"),))
    for native in (polars.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}), arrow.select([0])):
        wrapped = nw.from_native(native)
        assert is_frame(wrapped)
        assert table(wrapped) == table(native)
    assert table(nw.from_native(polars.Series("a", [1]), series_only=True)).head == ("a",)
    named = pd.DataFrame({"a": [1]}, index=pd.RangeIndex(1, name="id"))
    assert (table(named).head, table(named).rows) == (("id", "a"), (("0", "1"),))
    odd = pd.DataFrame([[1, 2, 3]], columns=pd.Index([pd.NA, None, "x"], dtype=object))
    assert table(odd).rows == (("1", "2", "3"),)
