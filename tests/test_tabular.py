"""A file of rows is read as it was written: no line is dropped, no cell changes, and what cannot be read is said."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import subprocess
import sys
import textwrap
import zipfile

import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp_notebook import tabular
from smtp_notebook.frames import Frame
from smtp_notebook.outcome import MailError, MergeRefusedError, OptionError
from smtp_notebook.tabular import read_table
from smtp_notebook.template import is_missing


def rows_of(frame):
    """The rows as dicts, with None for each missing cell."""
    return [{n: None if is_missing(v) else v for n, v in row.items()} for row in Frame(frame).rows()]


def read(data, name="leads.csv", **options):
    notes = []
    octets = data.encode() if isinstance(data, str) else data
    frame = read_table(io.BytesIO(octets), name=name, note=notes.append, **options)
    return rows_of(frame), notes


def refusal(data, name="leads.csv", **options):
    with pytest.raises(MergeRefusedError) as caught:
        read(data, name, **options)
    assert name in caught.value.cause
    return caught.value.cause


# ------------------------------------------------------------------------------------------- cells


def test_a_column_is_numbers_only_where_each_cell_reads_back_as_written():
    text = textwrap.dedent("""\
        Id,Zip,Phone,Price,Share,Big,Exp,Neg,Zero,Date,Flag,Gap
        1,02134,+15551234,1.50,0.5,9007199254740993,1e5,-3,-0,2026-01-02,true,7
        22,94107,5551234,2.25,0.25,1,2,4,0,2026-01-03,false,
        """)
    first, second = read(text)[0]
    assert first == {
        "Id": 1,
        "Zip": "02134",
        "Phone": "+15551234",
        "Price": "1.50",
        "Share": 0.5,
        "Big": "9007199254740993",
        "Exp": "1e5",
        "Neg": -3,
        "Zero": "-0",
        "Date": "2026-01-02",
        "Flag": "true",
        "Gap": 7,
    }
    assert (second["Zip"], second["Id"], second["Gap"]) == ("94107", 22, None)
    assert type(second["Id"]) is int
    assert type(first["Gap"]) is int


@pytest.mark.parametrize(
    "word", ["NA", "null", "None", "nan", "NaN", "N/A", "inf", "-inf", "#N/A", " ", "١٢"]
)
def test_words_that_other_readers_take_for_nothing_or_for_a_number_stay_text(word):
    assert read(f"Name,n\n{word},1\n")[0] == [{"Name": word, "n": 1}]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NAMES = st.lists(
    st.text("ABCdef é;,\"\n'", min_size=1, max_size=6).map(str.strip).filter(bool),
    min_size=1,
    max_size=5,
    unique=True,
)


@st.composite
def tables(draw, names=NAMES):
    header = draw(names)
    row = st.lists(TEXT, min_size=len(header), max_size=len(header)).filter(any)
    return header, draw(st.lists(row, max_size=6))


@settings(max_examples=150, deadline=None)
@given(
    tables(),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_whatever_text_is_written_as_csv_is_read_back(table, delimiter, end, encoding):
    header, body = table
    out = io.StringIO(newline="")
    # Python's writer leaves a lone CR without quotes where it is not in the end of its lines.
    quoting = csv.QUOTE_MINIMAL if end == "\r\n" else csv.QUOTE_ALL
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(header)
    writer.writerows(body)
    found = rows_of(
        read_table(io.BytesIO(out.getvalue().encode(encoding)), name="x.csv", delimiter=delimiter)
    )
    told = [{n: str(v) if v is not None else "" for n, v in row.items()} for row in found]
    assert told == [dict(zip(header, row, strict=True)) for row in body]


WORDS = st.lists(
    st.sampled_from(["Id", "Name", "Email", "City", "Last name", "Größe"]),
    min_size=2,
    max_size=5,
    unique=True,
)


@settings(max_examples=100, deadline=None)
@given(tables(WORDS), st.sampled_from(",;\t|"))
def test_what_separates_the_cells_is_found(table, delimiter):
    header, body = table
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow(header)
    writer.writerows(body)
    found = rows_of(read_table(io.BytesIO(out.getvalue().encode()), name="x.csv"))
    assert [{n: str(v) if v is not None else "" for n, v in row.items()} for row in found] == [
        dict(zip(header, row, strict=True)) for row in body
    ]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.sampled_from(sorted(tabular.SUFFIXES)))
def test_any_octets_are_read_or_refused_in_one_sentence(octets, suffix):
    try:
        read_table(io.BytesIO(octets), name=f"x{suffix}")
    except MailError as error:
        assert error.cause.endswith(".")
        assert error.fix


@pytest.mark.parametrize(
    "head",
    [
        "Name;Email",
        "Name, first;Email",
        "Name;Email;",
        '"Name";"Email"',
        "sep=;\nName;Email",
        "\ufeffName;Email",
    ],
)
def test_a_semicolon_is_found_behind_commas_and_in_a_spreadsheets_first_line(head):
    name = "Name, first" if "first" in head else "Name"
    end = ";" if head.endswith(";") else ""
    assert read(f"{head}\nLind, Nora;n@example.com{end}\n")[0] == [
        {name: "Lind, Nora", "Email": "n@example.com"}
    ]


def test_one_column_has_no_delimiter():
    assert read("Email\na@example.com\nb;c@example.com\n")[0] == [
        {"Email": "a@example.com"},
        {"Email": "b;c@example.com"},
    ]


def test_a_tsv_is_separated_by_tabs():
    assert read("A,B\tC\n1,2\t3\n", "x.tsv")[0] == [{"A,B": "1,2", "C": 3}]


def test_windows_1252_is_read_with_a_note_and_what_is_neither_is_refused():
    assert read("Name\nJürgen €\n".encode("cp1252")) == (
        [{"Name": "Jürgen €"}],
        ["'leads.csv' is not UTF-8; it was read as Windows-1252."],
    )
    assert "line 2 is not Windows-1252" in refusal(b"Name\n\x81\xff\n")
    assert read("Name\nЖ\n".encode("koi8-r"), encoding="koi8-r")[0] == [{"Name": "Ж"}]


def test_lines_of_every_kind_end_rows_and_blank_ones_are_none():
    for end in ("\n", "\r\n", "\r"):
        assert read(end.join(["A,B", "1,2", "", ",", "3,4", "", ""]))[0] == [
            {"A": 1, "B": 2},
            {"A": 3, "B": 4},
        ]


def test_what_stands_below_a_salesforce_report_is_no_row_and_is_said():
    rows, notes = read(
        '"First Name","Email"\n"Ann","ann@example.com"\n\n\n"New leads"\n'
        '"Copyright (c) 2000-2026 salesforce.com, inc. All rights reserved."\n"Confidential Information"\n'
    )
    assert rows == [{"First Name": "Ann", "Email": "ann@example.com"}]
    assert "New leads / Copyright" in notes[0]


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "the file is empty"),
        ("\n\n", "no column has a name"),
        ("\ufeff", "no column has a name"),
        ("A,B\n1,2\n3\n", "line 3 has 1 cell, and the header has 2"),
        ("A,B\n1,2,3\n", "line 2 has 3 cells, and the header has 2"),
        ('A,B\n"x\ny",2,3\n', "line 2 has 3 cells"),
        ('A,B\n1,"2\n3,4\n', "the quote that begins on line 2 never ends"),
        ('A,B\n1,2\n1,"2" x\n', "line 3 has a quote that does not end its cell"),
        ("A,B\n1,2\n3,\0\n", "line 3 has a NUL"),
        ("A,B,A\n1,2,3\n", "more than one column called 'A'"),
        ("A, A\n1,2\n", "more than one column called 'A'"),
        ("A,B\n1,2\nnot a row\n3,4\n", "line 3 has 1 cell"),
        ("sep=;\nA;B\n1;2;3\n", "line 3 has 3 cells"),
        ("A,B\n" + "x" * 200_000 + ",1\n", "a cell that begins on line 2 has more than 131,072 characters"),
    ],
)
def test_a_file_with_a_line_that_does_not_fit_is_refused_by_its_number(text, cause):
    assert cause in refusal(text)


def test_a_header_alone_is_a_table_without_rows():
    frame = read_table(io.BytesIO(b"Email,Name\n"), name="x.csv")
    assert (list(frame.columns), len(frame)) == (["Email", "Name"], 0)


def test_a_column_without_a_name_is_kept_where_it_has_cells():
    assert read("A,,B\n1,,2\n")[0] == [{"A": 1, "B": 2}]
    assert read("A,,B\n1,x,2\n")[0] == [{"A": 1, "Column 2": "x", "B": 2}]


def test_nothing_is_fetched_unpacked_or_guessed_from_an_unknown_name(tmp_path):
    for name in ("https://ann:secret@example.com/x.csv", "s3://bucket/x.csv", "file:///etc/passwd.csv"):
        with pytest.raises(OptionError, match="nothing is fetched") as caught:
            read_table(name)
        assert "secret" not in str(caught.value)
    for name in ("leads.csv.gz", "leads.doc", "leads"):
        (tmp_path / name).write_bytes(b"A\n1\n")
        with pytest.raises(OptionError):
            read_table(tmp_path / name)
    with pytest.raises(OptionError, match="A int is no file"):
        read_table(3)


def test_a_missing_file_and_a_spreadsheet_in_disguise_are_named(tmp_path):
    with pytest.raises(MergeRefusedError, match=r"leads.csv' cannot be read: No such file"):
        read_table(tmp_path / "leads.csv")
    assert "this is a spreadsheet" in refusal(b"PK\x03\x04rest")


# ------------------------------------------------------------------------------------ other kinds


def sheet(*rows, title="Sheet"):
    book = openpyxl.Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def test_a_spreadsheet_keeps_ints_text_dates_and_gaps():
    day = dt.datetime(2026, 1, 2, 3, 4)
    rows, _ = read(
        sheet(
            ["Id", "Zip", "When", "Share", "#"], [1.0, "02134", day, 0.5, None], [], [2.0, None, None, 2, 3]
        ),
        "x.xlsx",
    )
    assert rows == [
        {"Id": 1, "Zip": "02134", "When": day, "Share": 0.5, "#": None},
        {"Id": 2, "Zip": None, "When": None, "Share": 2, "#": 3},
    ]
    assert type(rows[0]["Id"]) is int
    assert type(rows[1]["#"]) is int


def test_a_formula_counts_by_its_stored_value_and_an_error_is_no_value():
    data = sheet(["A", "B"], ["x", "=1+1"])
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        files = {name: old.read(name) for name in old.namelist()}
    page = "xl/worksheets/sheet1.xml"
    cell = (
        files[page]
        .replace(b"<f>1+1</f><v></v>", b"<f>1+1</f><v>2</v>")
        .replace(b"<f>1+1</f><v/>", b"<f>1+1</f><v>2</v>")
    )
    broken = cell.replace(b'<c r="B2">', b'<c r="B2" t="e">').replace(b"<v>2</v>", b"<v>#DIV/0!</v>")
    for content, value in ((cell, 2), (broken, None)):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as new:
            for name, octets in (files | {page: content}).items():
                new.writestr(name, octets)
        assert read(out.getvalue(), "x.xlsx")[0] == [{"A": "x", "B": value}]


def test_a_sheet_is_chosen_by_name_or_place_and_has_to_begin_with_its_names():
    book = openpyxl.Workbook()
    book.active.append(["A"])
    book.create_sheet("Leads").append(["B"])
    book["Leads"].append([1])
    out = io.BytesIO()
    book.save(out)
    for which in ("Leads", 1):
        assert read(out.getvalue(), "x.xlsx", sheet=which)[0] == [{"B": 1}]
    for which in ("Nowhere", 2, -1):
        with pytest.raises(OptionError, match="'Sheet', 'Leads'"):
            read(out.getvalue(), "x.xlsx", sheet=which)
    assert "row 3 has a cell in column 2, and the first row names 1" in refusal(
        sheet(["Report"], ["A"], ["A", "B"]), "x.xlsx"
    )
    assert "more than one column called 'A'" in refusal(sheet(["A", "A"], [1, 2]), "x.xlsx")
    assert "no column has a name" in refusal(sheet(), "x.xlsx")


def test_parquet_keeps_whole_numbers_whole_and_an_index_with_a_name(tmp_path):
    frame = pd.DataFrame({"Id": pd.array([1, None], dtype="Int64"), "Name": ["Ann", None]})
    frame.to_parquet(tmp_path / "x.parquet")
    assert rows_of(read_table(tmp_path / "x.parquet")) == [
        {"Id": 1, "Name": "Ann"},
        {"Id": None, "Name": None},
    ]
    frame.assign(Key=["a", "b"]).set_index("Key").to_parquet(tmp_path / "y.parquet")
    found = rows_of(read_table(tmp_path / "y.parquet"))
    assert [row["Key"] for row in found] == ["a", "b"]
    assert type(found[0]["Id"]) is int
    assert "it is no Parquet file" in refusal(b"PAR1xxxx", "x.parquet")


def test_json_is_a_list_of_records_or_one_on_each_line():
    records = [{"Id": 1, "Name": "Ann\u2028O'Neil"}, {"Id": None, "Owner": {"Name": "Bo"}}]
    told = [
        {"Id": 1, "Name": "Ann\u2028O'Neil", "Owner": None},
        {"Id": None, "Name": None, "Owner": {"Name": "Bo"}},
    ]
    assert read(json.dumps(records), "x.json")[0] == told
    lines = "\n".join(json.dumps(r, ensure_ascii=False) for r in records)
    assert read(lines + "\n", "x.jsonl")[0] == told
    assert "line 2 is no JSON" in refusal('{"A": 1}\n{"A": ', "x.jsonl")
    assert "has one name twice" in refusal('[{"A": 1, "A": 2}]', "x.json")
    assert "record 2 is no record" in refusal('[{"A": 1}, 2]', "x.json")
    assert "no list of records" in refusal('{"A": 1}', "x.json")
    assert "line 1 is no JSON" in refusal("[" * 100_000, "x.json")


@pytest.mark.parametrize(("library", "suffix"), [("openpyxl", ".xlsx"), ("pyarrow", ".parquet")])
def test_a_missing_library_is_named_with_how_to_install_it(library, suffix, tmp_path):
    (tmp_path / f"x{suffix}").write_bytes(b"x")
    code = f"""
        import sys
        sys.modules[{library!r}] = None
        from smtp_notebook.tabular import read_table
        try:
            read_table({str(tmp_path / f"x{suffix}")!r})
        except RuntimeError as error:
            print(error)
        """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True
    )
    assert f"pip install {library}" in ran.stdout


def test_text_files_and_open_files_are_read_too(tmp_path):
    assert rows_of(read_table(io.StringIO("A\nü\n"), name="x.csv")) == [{"A": "ü"}]
    path = tmp_path / "x.CSV"
    path.write_text("A\nü\n", encoding="utf-8")
    with path.open("rb") as file:
        assert rows_of(read_table(file)) == [{"A": "ü"}]


def test_what_is_too_large_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr(tabular, "MOST_BYTES", 2_000)
    assert "larger than 1 GiB" in refusal("A\n" + "x\n" * 2_000)
    big = sheet(["A"], *[["x" * 500] for _ in range(3)])
    monkeypatch.setattr(tabular, "MOST_BYTES", len(big))
    assert "unpacked it is larger" in refusal(big, "x.xlsx")


def test_a_file_of_two_encodings_is_refused_with_its_line_and_no_name_is_mangled():
    data = "Email,Name\nann@example.com,Müller\n".encode() + b"joe@example.com,J\xfcrg\n"
    with pytest.raises(MergeRefusedError, match="line 3 is not UTF-8"):
        read_table(io.BytesIO(data), name="leads.csv")
    told = []
    german = 'Email,Name\nann@example.com,"Spaß” für Jürgen"\n'.encode(
        "cp1252"
    )  # the ß and its quote are UTF-8
    assert read_table(io.BytesIO(german), name="leads.csv", note=told.append)["Name"][0] == "Spaß” für Jürgen"
    assert "Windows-1252" in told[0]
