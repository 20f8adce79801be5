"""A source gives every row at least once, never what is half written, and keeps none back because of another."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Server

from smtp_notebook import Connection, database, sources, watch
from smtp_notebook.frames import Frame, row_key
from smtp_notebook.outcome import (
    MergeRefusedError,
    OptionError,
    Outcome,
    SecretError,
    SettingsError,
    SourceError,
    State,
)
from smtp_notebook.sources import Batch, Source, Wanted, as_source, csv_folder, sql
from smtp_notebook.template import is_missing

START = 1_800_000_000.0


def rows_of(batch):
    """All rows of a batch in their order, with None for a missing cell."""
    return [
        {n: None if is_missing(v) else v for n, v in row.items()}
        for part in batch.parts
        for row in Frame(part.rows).rows()
    ]


def ids(batch, column="Id"):
    return [row[column] for row in rows_of(batch)]


def wanted(*keys, columns=("Id",)):
    def key_of(row: Mapping[str, object]) -> str:
        try:
            return row_key(columns, row)
        except ValueError:
            return ""

    return Wanted(columns, keys, key_of)


def stored(cursor):
    """The cursor as the journal gives it back."""
    return json.loads(json.dumps(cursor))


def sent(key):
    return Outcome(state=State.SENT, key=key)


# -------------------------------------------------------------------------------------- a function


def test_a_function_gives_all_its_rows_each_time_and_owes_nothing():
    given = [{"Id": 1}]
    source = as_source(lambda: pd.DataFrame(given))
    assert isinstance(source, Source)
    assert as_source(source) is source
    assert ids(source.begin("now")) == [1]
    assert source.begin("all") == Batch()
    given.append({"Id": 2})
    found = source.read(None)
    assert ids(found) == [1, 2]
    assert found.cursor is None
    assert source.again(wanted("1")) == Batch()
    assert source.sent([sent("1"), sent("2")], {}) == ["1", "2"]


def test_none_is_no_rows_and_dicts_iterators_and_async_functions_are_rows():
    async def later():
        return [{"Id": 3}]

    def yielding():
        yield {"Id": 4}

    assert as_source(lambda: None).read(None) == Batch()
    assert ids(as_source(lambda: [{"Id": 1}]).read(None)) == [1]
    assert ids(as_source(later).read(None)) == [3]
    assert ids(as_source(yielding).read(None)) == [4]
    assert as_source(later).name == "later()"


def test_a_function_cannot_tell_what_was_there_at_a_moment():
    with pytest.raises(OptionError, match="cannot tell which were there") as caught:
        as_source(lambda: None).begin(dt.datetime.now(dt.UTC))
    assert 'since="all"' in caught.value.fix


def test_what_is_no_source_is_refused_with_what_would_be_one():
    async def coroutine():
        return []

    class Half:
        name = "half"

        def read(self, cursor): ...

        def begin(self, since): ...

    for what, fix in (
        (pd.DataFrame({"Id": [1]}), "give a function that reads it"),
        ([{"Id": 1}], "give a function that reads it"),
        ("leads.csv", "csv_folder"),
        (3, "Give a function that returns rows"),
        (coroutine(), "async function itself"),
        (Half(), "Source"),
        (Half, "Give a function"),
    ):
        with pytest.raises(OptionError, match="source") as caught:
            as_source(what)
        assert fix in caught.value.fix


def test_a_source_that_can_fit_itself_to_the_template_does():
    class Fitting(sources._Function):
        def for_template(self, template):
            return as_source(lambda: [{"Id": template}])

    source = as_source(Fitting(list), "Dear {{ Id }}")
    assert ids(source.read(None)) == ["Dear {{ Id }}"]


# ---------------------------------------------------------------------------------------- a folder


@pytest.fixture
def clock(monkeypatch):
    """The time of day and the seconds that only grow, moved by ``clock.pass_(seconds)``."""

    class Clock:
        def __init__(self):
            self.day = self.timer = 0.0

        def pass_(self, seconds):
            self.day += seconds
            self.timer += seconds

    found = Clock()
    monkeypatch.setattr(sources, "CLOCK", lambda: time.time() + found.day)
    monkeypatch.setattr(sources, "TIMER", lambda: found.timer)
    return found


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "exports"
    made.mkdir()
    return made


def write(folder, name, *numbers, mtime=None, text=None):
    path = folder / name
    path.write_text(
        text or "Id,Email\n" + "".join(f"{n},u{n}@example.com\n" for n in numbers), encoding="utf-8"
    )
    if mtime is not None:
        os.utime(path, (START + mtime, START + mtime))
    return path


def test_each_file_is_read_once_and_oldest_first(folder):
    source = csv_folder(folder, quiet=0)
    cursor = source.begin("all").cursor
    write(folder, "b.csv", 1, 2, mtime=1)
    write(folder, "a.csv", 3, mtime=2)
    write(folder, "c.csv", 4, mtime=1)
    batch = source.read(stored(cursor))
    assert [part.name for part in batch.parts] == ["b.csv", "c.csv", "a.csv"]
    assert ids(batch) == [1, 2, 4, 3]
    again = source.read(stored(batch.cursor))
    assert again == Batch(cursor=batch.cursor)


def test_rows_come_again_until_the_cursor_is_handed_back(folder):
    source = csv_folder(folder, quiet=0)
    cursor = source.begin("all").cursor
    write(folder, "a.csv", 1)
    assert ids(source.read(cursor)) == [1]
    assert ids(csv_folder(folder, quiet=0).read(stored(cursor))) == [1]


def test_now_takes_what_is_there_as_there_already(folder):
    write(folder, "a.csv", 1)
    source = csv_folder(folder, quiet=0)
    first = source.begin("now")
    assert ids(first) == [1]
    write(folder, "b.csv", 2)
    assert ids(source.read(stored(first.cursor))) == [2]


def test_a_moment_divides_by_the_time_of_each_file(folder):
    write(folder, "a.csv", 1, mtime=-10)
    write(folder, "b.csv", 2, mtime=0)
    source = csv_folder(folder, quiet=0)
    first = source.begin(dt.datetime.fromtimestamp(START, dt.UTC))
    assert ids(first) == [1]
    assert ids(source.read(first.cursor)) == [2]


def test_a_file_that_changed_is_read_again_whatever_its_time_says(folder):
    source = csv_folder(folder, quiet=0)
    write(folder, "a.csv", 1, mtime=10)
    cursor = source.read(source.begin("all").cursor).cursor
    write(folder, "a.csv", 1, 2, mtime=10)  # appended to within the same tick of the file system
    batch = source.read(stored(cursor))
    assert ids(batch) == [1, 2]
    write(folder, "a.csv", 7, 8, mtime=-99)  # replaced by cp -p, which brings the old time along
    batch = source.read(stored(batch.cursor))
    assert ids(batch) == [7, 8]
    assert len(batch.cursor["read"]) == 1


def test_a_file_that_is_still_written_counts_when_it_was_quiet(folder, clock):
    source = csv_folder(folder, quiet=5)
    cursor = source.begin("all").cursor
    waits = ("'a.csv': not read before nothing has touched it for 5 s.",)
    write(folder, "a.csv", 1)
    assert source.read(cursor) == Batch(cursor=cursor, notes=waits)
    clock.pass_(3)
    write(folder, "a.csv", 1, 2)
    os.utime(folder / "a.csv", (START * 2, START * 2))  # a writer whose clock is years ahead
    assert source.read(cursor) == Batch(cursor=cursor, notes=waits)
    clock.pass_(6)
    assert ids(source.read(cursor)) == [1, 2]


def test_a_clock_that_is_ahead_keeps_no_file_back_once_it_was_seen_twice(folder, clock, monkeypatch):
    write(folder, "a.csv", 1)
    source = csv_folder(folder, quiet=5)
    cursor = source.begin("all").cursor
    monkeypatch.setattr(sources, "CLOCK", lambda: 0.0)  # every file is of the future
    assert source.read(cursor).parts == ()
    clock.pass_(6)
    assert ids(source.read(cursor)) == [1]


def test_a_file_that_is_being_written_at_the_start_is_new_when_it_is_whole(folder, clock):
    write(folder, "a.csv", 1)
    source = csv_folder(folder, quiet=5)
    assert source.begin("now").parts == ()
    clock.pass_(6)
    write(folder, "b.csv", 2)
    os.utime(folder / "b.csv", (START, START))
    clock.day = 0.0  # the time of day stays: b.csv is new
    first = source.begin("now")
    assert ids(first) == [1]
    clock.pass_(6)
    assert ids(source.read(first.cursor)) == [2]


def test_a_file_that_was_cut_off_within_its_last_line_is_given_more_time(folder, clock):
    write(folder, "a.csv", text="Id,Email\n0,u0@example.com")
    source = csv_folder(folder, quiet=5)
    clock.pass_(6)
    first = source.begin("now")
    assert ids(first) == [0]  # who is there when the watch begins is there, whatever its end
    write(folder, "b.csv", text="Id,Email\n1,ann@example.co")
    write(folder, "c.csv", 2)
    (folder / "d.csv").write_bytes("Id\n3\n".encode("utf-16"))
    clock.pass_(20)
    batch = source.read(first.cursor)
    assert ids(batch) == [2, 3]
    assert batch.notes == ("'b.csv' ends within a line: it is read once nothing has touched it for 60 s.",)
    clock.pass_(41)
    assert rows_of(source.read(batch.cursor)) == [{"Id": 1, "Email": "ann@example.co"}]


def test_a_file_that_was_dropped_a_moment_ago_is_named_as_not_read_yet(folder, clock):
    source = csv_folder(folder, quiet=5)
    write(folder, "a.csv", 1)
    first = source.begin("now")
    assert first.notes == ("'a.csv': not read before nothing has touched it for 5 s.",)
    write(folder, "b.csv", 2)
    batch = source.read(first.cursor)
    assert (ids(batch), batch.notes) == (
        [], ("'a.csv' and 1 more: not read before nothing has touched it for 5 s.",),
    )  # fmt: skip
    clock.pass_(6)
    batch = source.read(first.cursor)
    assert (ids(batch), batch.notes) == ([1, 2], ())


def test_a_file_that_changes_while_it_is_read_is_left_for_later(folder):
    source = csv_folder(folder, quiet=0)
    cursor = source.begin("all").cursor
    write(folder, "a.csv", 1)
    whole, _, notes = source._look()
    write(folder, "a.csv", 1, 2)
    assert source._parts(whole, notes) == ([], set(), [])
    assert notes == []
    assert ids(source.read(cursor)) == [1, 2]


@pytest.mark.parametrize(
    "name",
    [
        ".a.csv",
        "a.csv.part",
        "a.csv.tmp",
        "a.csv.crdownload",
        "~$a.csv",
        ".~lock.a.csv#",
        "a.csv~",
        "a.csv.filepart",
    ],
)
def test_names_of_what_is_no_file_yet_never_count(folder, name):
    write(folder, name, 1)
    write(folder, "B.CSV", 2)
    assert ids(csv_folder(folder, quiet=0).begin("now")) == [2]
    assert ids(csv_folder(folder, quiet=0, pattern="*").begin("now")) == [2]


def test_a_file_that_cannot_be_read_is_said_once_and_keeps_no_other_back(folder):
    source = csv_folder(folder, quiet=0)
    write(folder, "a.csv", text="Id,Email\n1\n", mtime=1)
    write(folder, "b.csv", 2, mtime=2)
    batch = source.read(source.begin("all").cursor)
    assert ids(batch) == [2]
    assert len(batch.notes) == 1
    assert "'a.csv': line 2 has 1 cell" in batch.notes[0]
    assert source.read(stored(batch.cursor)).notes == ()
    write(folder, "a.csv", 1, mtime=3)
    assert ids(source.read(stored(batch.cursor))) == [1]


def test_notes_of_reading_are_passed_on(folder):
    (folder / "a.csv").write_bytes("Name\nJürgen\n".encode("cp1252"))
    batch = csv_folder(folder, quiet=0).begin("now")
    assert "Windows-1252" in batch.notes[0]


def test_a_missing_or_unreadable_folder_is_an_error_and_an_empty_one_forgets_nothing(folder, tmp_path):
    write(folder, "a.csv", 1)
    source = csv_folder(folder, quiet=0)
    cursor = stored(source.begin("now").cursor)
    folder.rename(tmp_path / "away")
    for look in (lambda: source.read(cursor), lambda: source.begin("now"), lambda: source.again(wanted("1"))):
        with pytest.raises(SourceError, match="cannot be read: No such file"):
            look()
    folder.mkdir()  # a share that is not mounted leaves an empty folder
    assert source.read(cursor) == Batch(cursor=cursor)
    folder.rmdir()
    (tmp_path / "away").rename(folder)
    assert source.read(cursor) == Batch(cursor=cursor)
    folder.joinpath("a.csv").unlink()
    write(folder, "b.csv", 2)
    after = source.read(cursor)
    assert ids(after) == [2]
    assert len(after.cursor["read"]) == 1
    with pytest.raises(SourceError, match="Not a directory"):
        csv_folder(folder / "b.csv").read(cursor)


def test_links_and_folders_below(folder, tmp_path):
    below = folder / "below"
    below.mkdir()
    write(below, "a.csv", 1)
    write(tmp_path, "else.csv", 2)
    (folder / "link.csv").symlink_to(tmp_path / "else.csv")
    (folder / "nowhere.csv").symlink_to(tmp_path / "gone.csv")
    (folder / "loop").symlink_to(folder)
    (folder / "folder.csv").mkdir()
    assert ids(csv_folder(folder, quiet=0).begin("now")) == [2]
    assert sorted(ids(csv_folder(folder, quiet=0, recursive=True).begin("now"))) == [1, 2]


def test_a_pipe_is_never_opened(folder):
    os.mkfifo(folder / "a.csv")
    assert csv_folder(folder, quiet=0).begin("now").parts == ()


def test_wanted_rows_are_found_in_the_newest_file_that_has_them(folder):
    write(folder, "a.csv", text="Id,n\n1,old\n2,old\n", mtime=1)
    write(folder, "b.csv", text="Id,n\n2,new\n3,new\n3,twice\n", mtime=2)
    write(folder, "c.csv", text="Name\nno Id\n", mtime=3)
    source = csv_folder(folder, quiet=0)
    found = source.again(wanted("1", "2", "3", "gone"))
    assert [(r["Id"], r["n"]) for r in rows_of(found)] == [(1, "old"), (2, "new"), (3, "new"), (3, "twice")]
    assert found.cursor is None


def test_what_was_looked_for_is_not_read_again_until_a_file_changes(folder):
    path = write(folder, "a.csv", 1, 2, mtime=1)
    source = csv_folder(folder, quiet=0)
    assert ids(source.again(wanted("1", "9"))) == [1]
    facts = path.stat()
    path.write_bytes(b"x" * facts.st_size)  # the same size and time: whoever reads it now would see rubbish
    os.utime(path, ns=(facts.st_mtime_ns, facts.st_mtime_ns))
    assert ids(source.again(wanted("1", "9"))) == [1]
    write(folder, "a.csv", 9, mtime=2)
    assert ids(source.again(wanted("1", "9"))) == [9]


def test_a_file_is_read_once_while_its_rows_wait_for_approval(folder):
    source = csv_folder(folder, quiet=0)
    cursor = source.begin("all").cursor
    path = folder / "a.csv"
    path.write_bytes("Id,Name\n1,Jürgen\n".encode("cp1252"))
    first = source.read(cursor)
    facts = path.stat()
    path.write_bytes(b"x" * facts.st_size)  # the same size and time: whoever reads it now would see rubbish
    os.utime(path, ns=(facts.st_mtime_ns, facts.st_mtime_ns))
    again = source.read(cursor)
    assert rows_of(again) == rows_of(first) == [{"Id": 1, "Name": "Jürgen"}]
    assert again.notes == first.notes != ()
    assert source.read(stored(again.cursor)).parts == ()
    assert source._kept == {}


def test_a_poll_reads_a_bounded_amount_and_the_rest_follows(folder, monkeypatch):
    for number in range(5):
        write(folder, f"{number}.csv", number, mtime=number)
    size = (folder / "0.csv").stat().st_size
    monkeypatch.setattr(sources, "_MOST_AT_ONCE", 2 * size)
    source = csv_folder(folder, quiet=0)
    cursor = source.begin("all").cursor
    seen = []
    for left in (3, 1, 0, 0):
        batch = source.read(stored(cursor))
        cursor = batch.cursor
        seen.append(ids(batch))
        assert batch.notes == ((f"{left} more files are read with the next poll.",) if left else ())
    assert seen == [[0, 1], [2, 3], [4], []]
    found = []
    fresh = csv_folder(folder, quiet=0)
    while "0" not in found:
        found = [str(i) for i in ids(fresh.again(wanted("0")))]
    assert found == ["0"]


def test_thousands_of_files_are_looked_at_and_not_read_again(folder):
    for number in range(300):
        (folder / f"{number}.csv").write_text("Id\n", encoding="utf-8")
    source = csv_folder(folder, quiet=0)
    cursor = stored(source.begin("now").cursor)
    assert len(json.dumps(cursor)) < 21 * 300
    for number in range(0, 300, 100):
        # What does not change the content is no change.
        (folder / f"{number}.csv").chmod(0o600)
    assert source.read(cursor) == Batch(cursor=cursor)


@pytest.mark.parametrize("cursor", [None, 3, {"read": 3}, {"read": [3]}, {"other": []}, []])
def test_a_cursor_that_nobody_understands_reads_everything(folder, cursor):
    write(folder, "a.csv", 1)
    assert ids(csv_folder(folder, quiet=0).read(cursor)) == [1]


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("https://example.com/x", {}),
        (".", {"pattern": "a/*.csv"}),
        (".", {"pattern": ()}),
        (".", {"pattern": ""}),
        (".", {"quiet": -1}),
        (".", {"quiet": float("nan")}),
    ],
)
def test_a_folder_that_cannot_be_meant_is_refused_at_once(path, options):
    with pytest.raises(OptionError):
        csv_folder(path, **options)


def test_spreadsheets_and_settings_of_reading_and_the_key_are_passed_on(folder):
    pd.DataFrame({"Id": [1], "Name": ["Ann"]}).to_excel(folder / "a.xlsx", index=False)
    source = csv_folder(folder, quiet=0, pattern=["*.xlsx", "*.csv"], key="Id", delimiter=";")
    write(folder, "b.csv", text="Id;Name\n2;B,o\n")
    assert rows_of(source.begin("now")) == [{"Id": 1, "Name": "Ann"}, {"Id": 2, "Name": "B,o"}]
    assert source.key == ("Id",)
    assert source.name == "folder exports"
    assert isinstance(source, Source)
    assert repr(source) == "<source folder exports>"


@pytest.fixture
def stranger():
    """A folder that everybody may enter, and somebody who is not root while the test runs."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        before = os.geteuid()
        if before == 0:
            os.seteuid(65_534)
        yield Path(name)
        os.seteuid(before)


def test_a_file_that_nobody_may_read_is_tried_again_and_nobody_guesses_what_is_in_it(stranger):
    path = write(stranger, "a.csv", 1)
    write(stranger, "b.csv", 2)
    path.chmod(0)
    source = csv_folder(stranger, quiet=0)
    with pytest.raises(SourceError, match="'a.csv' cannot be read yet"):
        source.begin("now")
    batch = source.read(source.begin("all").cursor)
    assert ids(batch) == [2]
    assert "'a.csv' cannot be read: Permission denied." in batch.notes
    path.chmod(0o600)
    assert ids(source.read(batch.cursor)) == [1]


def test_a_folder_below_that_nobody_may_enter_loses_nothing_that_was_read(stranger):
    (stranger / "below").mkdir()
    write(stranger / "below", "a.csv", 1)
    write(stranger, "b.csv", 2)
    source = csv_folder(stranger, quiet=0, recursive=True)
    cursor = source.begin("now").cursor
    (stranger / "below").chmod(0)
    batch = source.read(cursor)
    (stranger / "below").chmod(0o700)
    assert batch == Batch(cursor=cursor, notes=("'below' cannot be read: Permission denied.",))
    assert source.read(cursor) == Batch(cursor=cursor)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "half", "replace", "old", "move", "delete", "pass", "poll", "restart"]),
        st.integers(0, 2),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_happens_in_a_folder_each_row_of_its_whole_files_is_read(steps):
    """Lines come in two writes, files are replaced, dated back, renamed and deleted, and polls come at any time."""
    now, numbers, seen = [0.0], iter(range(10_000)), set()
    before = sources.CLOCK, sources.TIMER
    start = time.time()
    sources.CLOCK, sources.TIMER = (lambda: start + now[0]), (lambda: now[0])
    try:
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            source, cursor = csv_folder(place, quiet=5), {"read": []}

            def poll():
                batch = source.read(stored(cursor))
                seen.update(ids(batch))
                return batch.cursor

            for step, number in steps:
                path = place / f"{number}.csv"
                if step == "poll":
                    cursor = poll()
                elif step == "restart":
                    source = csv_folder(place, quiet=5)
                elif step == "pass":
                    now[0] += 4 * number
                elif step == "move" and path.exists():
                    path.rename(place / f"{number + 3}.csv")
                elif step == "delete":
                    path.unlink(missing_ok=True)
                elif step == "old" and path.exists():
                    os.utime(path, (START - number, START - number))
                elif step == "replace" or (step in {"append", "half"} and not path.exists()):
                    write(place, path.name, next(numbers))
                elif step in {"append", "half"}:
                    with path.open("a") as file:
                        file.write(
                            f"{next(numbers)},x@example.com\n" if step == "append" else f"{next(numbers)},"
                        )
            now[0] += 60
            for path in place.iterdir():
                whole = [line for line in path.read_text().splitlines(keepends=True) if line.count(",") == 1]
                path.write_text(
                    "".join(line for line in whole if line.endswith("m\n") or line.startswith("Id"))
                )
            now[0] += 60
            cursor = poll()
            there = {
                int(line.split(",")[0]) for p in place.iterdir() for line in p.read_text().splitlines()[1:]
            }
    finally:
        sources.CLOCK, sources.TIMER = before
    assert there <= seen


# -------------------------------------------------------------------------------------- a database

BASE = dt.datetime(2026, 11, 29, 10, 0, tzinfo=dt.UTC)
QUERY = "SELECT id, email, created FROM leads WHERE email LIKE '%@%' -- 100 % of them"


class Crm:
    """A table of leads, written to by a connection of its own: ``add(id, minutes)``, and `engine` to read it by."""

    def __init__(self, engine, connection, stamp):
        self.engine = engine
        self._connection = connection
        self._stamp = stamp

    def run(self, *statements):
        for statement in statements:
            self._connection.cursor().execute(statement)
        self._connection.commit()

    def add(self, number, minutes=None, email=None):
        created = "NULL" if minutes is None else f"'{self.at(minutes)}'"
        self.run(f"INSERT INTO leads VALUES ({number}, '{email or f'u{number}@example.com'}', {created})")

    def at(self, minutes):
        return (BASE + dt.timedelta(minutes=minutes)).strftime(self._stamp)

    def source(self, query=QUERY, **options):
        return sql(self.engine, query, **({"cursor": "created"} | options))


@pytest.fixture(scope="module")
def store(postgres):
    """A PostgreSQL, and the name of a database of this module's."""
    return postgres, postgres.fresh()


@pytest.fixture(params=["sqlite3", "SQLAlchemy on SQLite", "psycopg", "SQLAlchemy on PostgreSQL"])
def crm(request, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CLOCK", (BASE + dt.timedelta(days=1)).timestamp)
    if "sqlite" in request.param.lower():
        path = tmp_path / "crm.db"
        engine = f"sqlite:///{path}" if "Alchemy" in request.param else lambda: sqlite3.connect(path)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            made = Crm(engine, connection, "%Y-%m-%d %H:%M:%S")
            made.run("CREATE TABLE leads (id INTEGER PRIMARY KEY, email TEXT, created TEXT)")
            yield made
        return
    server, name = request.getfixturevalue("store")

    def connect():
        return server.connect(name, autocommit=False)

    # A client's zone is not the server's.
    engine = sa.create_engine(
        server.url(name), poolclass=sa.NullPool, connect_args={"options": "-c timezone=America/New_York"}
    )
    with contextlib.closing(connect()) as connection:
        made = Crm(engine if "Alchemy" in request.param else connect, connection, "%Y-%m-%d %H:%M:%S+00")
        # Quicker than a database for each test.
        made.run("DROP TABLE IF EXISTS leads, nowhere, odd")
        made.run("CREATE TABLE leads (id integer PRIMARY KEY, email text, created timestamptz)")
        yield made


def test_what_came_later_is_read_with_its_overlap_and_nothing_twice_is_lost(crm):
    crm.add(1, 0)
    crm.add(2, 50)
    crm.add(3, 60)
    source = crm.source()
    first = source.begin("now")
    assert ids(first, "id") == [2, 3]  # within the overlap of 15 minutes
    cursor = stored(first.cursor)
    assert ids(source.read(cursor), "id") == [2, 3]
    assert source.read(cursor).cursor is cursor  # nothing to write
    crm.add(4, 60)  # at the very same time as the last
    crm.add(5, 48)  # of a transaction that began earlier
    crm.add(6, 61)
    batch = source.read(cursor)
    assert ids(batch, "id") == [5, 2, *sorted([3, 4]), 6] or ids(batch, "id") == [5, 2, 4, 3, 6]
    again = crm.source()
    assert set(ids(again.read(stored(batch.cursor)), "id")) == {5, 2, 3, 4, 6}
    assert "database" in source.name


def test_what_lies_before_the_start_is_never_read_however_wide_the_overlap_becomes(crm):
    crm.add(1, 0)
    crm.add(2, 60)
    cursor = stored(crm.source().begin("now").cursor)
    crm.add(3, 61)
    assert ids(crm.source(overlap=86_400).read(cursor), "id") == [2, 3]


def test_an_empty_table_begins_before_everything(crm):
    source = crm.source()
    cursor = stored(source.begin("now").cursor)
    assert source.read(cursor) == Batch(cursor=cursor)
    crm.add(1, -10_000)
    assert ids(source.read(cursor), "id") == [1]


def test_all_reads_everything_and_a_moment_divides(crm):
    for number, minutes in ((1, 0), (2, 50), (3, 60), (4, 70)):
        crm.add(number, minutes)
    source = crm.source()
    everything = source.begin("all")
    assert ids(everything) == []
    assert ids(source.read(stored(everything.cursor)), "id") == [1, 2, 3, 4]
    since = source.begin(BASE + dt.timedelta(minutes=60))
    assert ids(since, "id") == [2]
    assert ids(source.read(stored(since.cursor)), "id") == [2, 3, 4]


def test_a_time_that_lies_ahead_hides_no_row_that_comes_before_it(crm):
    ahead = 40 * 365 * 24 * 60  # somebody's typing error
    crm.add(1, 0)
    source = crm.source()
    cursor = stored(source.begin("now").cursor)
    crm.add(2, ahead)
    batch = source.read(cursor)
    assert ids(batch, "id") == [1, 2]
    assert "ahead" in batch.notes[0]
    crm.add(3, 1)
    assert ids(source.read(stored(batch.cursor)), "id") == [1, 3, 2]
    # What was there at the first start too.
    first = source.begin("now")
    assert ids(first, "id") == [1, 3, 2]
    crm.add(4, 2)
    assert 4 in ids(source.read(stored(first.cursor)), "id")


def test_where_every_time_lies_ahead_all_were_there_and_all_are_read(crm):
    crm.add(1, 40 * 365 * 24 * 60)
    source = crm.source()
    first = source.begin("now")
    assert ids(first, "id") == [1]
    crm.add(2, 0)
    assert ids(source.read(stored(first.cursor)), "id") == [2, 1]
    since = source.begin(BASE + dt.timedelta(minutes=10))
    assert ids(since, "id") == [2]
    assert ids(source.read(stored(since.cursor)), "id") == [2, 1]


def test_a_row_without_a_time_is_never_dropped_in_silence(crm):
    crm.add(1, 60)
    crm.add(2)
    source = crm.source()
    first = source.begin("now")
    assert sorted(ids(first, "id")) == [1, 2]
    crm.add(3)
    batch = source.read(stored(first.cursor))
    assert sorted(ids(batch, "id")) == [1, 2, 3]
    assert batch.notes == ("2 rows have no created: they are read with every poll.",)


def test_without_a_cursor_every_row_is_read_each_time(crm):
    crm.add(1)
    source = crm.source(cursor=None)
    assert ids(source.begin("now"), "id") == [1]
    assert source.begin("all") == Batch()
    crm.add(2)
    batch = source.read(None)
    assert sorted(ids(batch, "id")) == [1, 2]
    assert batch.cursor is None
    assert source.again(wanted("1", columns=("id",))) == Batch()
    with pytest.raises(OptionError, match="without cursor="):
        source.begin(BASE)


def test_wanted_rows_are_found_by_their_key_in_whatever_form_the_database_has_it(crm):
    crm.add(1, 0)
    crm.add(2, 1, "Ann@Example.COM")
    crm.add(3, 2, " bob@example.com ")
    source = crm.source()
    assert ids(source.again(wanted("1", "99", columns=("id",))), "id") == [1]
    keys = wanted(
        "ann@example.com", "bob@example.com", "u1@example.com", "gone@example.com", columns=("email",)
    )
    for _ in range(2):
        assert sorted(ids(source.again(keys), "id")) == [1, 2, 3]
    both = wanted('["2", "ann@example.com"]', '["1", "else@example.com"]', columns=("id", "email"))
    assert ids(source.again(both), "id") == [2]
    assert source.again(wanted("1", columns=("nowhere",))) == Batch()
    assert source.again(wanted(columns=("id",))) == Batch()
    many = wanted(*map(str, range(1_000)), columns=("id",))
    assert sorted(ids(source.again(many), "id")) == [1, 2, 3]


def test_a_key_that_is_gone_is_not_looked_for_in_every_row_at_every_poll(crm, clock):
    source = crm.source()
    assert source.again(wanted("7", columns=("id",))) == Batch()
    assert source._rests("7", sources.TIMER())
    crm.add(7, 0)
    assert ids(source.again(wanted("7", columns=("id",))), "id") == [7]
    clock.pass_(3_601)
    assert not source._rests("7", sources.TIMER())


def test_a_poll_reads_a_bounded_number_of_rows_and_the_rest_follows(crm, monkeypatch):
    monkeypatch.setattr(sources, "_MOST_ROWS", 3)
    for number in range(12):
        crm.add(number, number // 5)  # five rows of one time: more than a poll is to read
    source = crm.source()
    cursor, seen = source.begin("all").cursor, []
    for _ in range(4):
        batch = source.read(stored(cursor))
        cursor = batch.cursor
        seen.append((len(rows_of(batch)), bool(batch.notes)))
    assert seen == [(5, True), (10, True), (12, False), (12, False)]


def test_nothing_is_written_and_a_query_that_would_is_refused(crm):
    crm.add(1, 0)
    for query in (
        "DELETE FROM leads RETURNING id, created",
        "INSERT INTO leads VALUES (9, 'x@example.com', NULL) RETURNING id, created",
    ):
        for by in (None, "created"):
            with pytest.raises(SourceError):
                crm.source(query, cursor=by).read(None)
    assert ids(crm.source().read(None), "id") == [1]


def test_a_database_that_cannot_be_asked_is_one_sentence_and_is_asked_again(crm):
    source = crm.source("SELECT id, created FROM nowhere;")
    with pytest.raises(SourceError, match="nowhere") as caught:
        source.read(None)
    assert "\n" not in str(caught.value)
    crm.run("CREATE TABLE nowhere (id INTEGER, created TEXT)")
    assert source.read(None).parts == ()


def test_columns_are_found_in_any_case_and_two_of_one_name_are_refused(crm):
    crm.add(1, 0)
    crm.run(
        'CREATE TABLE odd ("Id" INTEGER, "Cre%ated ""At""" INTEGER)',
        """INSERT INTO odd VALUES (1, 5), (2, 6)""",
    )
    odd = crm.source("SELECT * FROM odd", cursor='cre%ated "at"', overlap=0)
    first = odd.begin("now")
    assert ids(first) == [2]
    assert odd.read(stored(first.cursor)).cursor == first.cursor
    assert ids(crm.source(cursor="CREATED").begin("now"), "id") == [1]
    with pytest.raises(OptionError, match="no column 'made'") as caught:
        crm.source(cursor="made").begin("now")
    assert "'created'" in caught.value.fix
    for by in ("created", None):
        with pytest.raises(
            (MergeRefusedError, SourceError), match="more than one column called 'id'|ambiguous"
        ):
            crm.source("SELECT leads.*, id FROM leads", cursor=by).begin("now")


def test_a_place_of_another_column_is_never_taken_for_this_ones(crm):
    crm.add(1, 0)
    cursor = stored(crm.source().begin("now").cursor)
    for by in ("id", None):
        with pytest.raises(OptionError, match="begun with cursor='created'"):
            crm.source(cursor=by).read(cursor)
    with pytest.raises(MergeRefusedError, match="not written in a way"):
        crm.source().read({"by": "created", "last": {"decimal": "x"}, "floor": None})
    with pytest.raises(OptionError, match="begun with cursor=None"):
        crm.source().read([])


def test_a_column_that_does_not_say_what_came_later_is_refused(crm):
    crm.add(1, 0)
    with pytest.raises(OptionError, match="other text"):
        crm.source(cursor="email").begin("now")
    with pytest.raises(OptionError, match="column of numbers does not say when"):
        crm.source(cursor="id").begin(BASE)


def test_growing_numbers_are_followed_with_an_overlap_of_their_own_unit(crm):
    for number in (1, 50, 100):
        crm.add(number, 0)
    source = crm.source(cursor="id", overlap=20)
    first = source.begin("now")
    assert ids(first, "id") == [100]
    crm.add(90, 0)  # a number that was drawn earlier and committed later
    crm.add(101, 0)
    assert ids(source.read(stored(first.cursor)), "id") == [90, 100, 101]


def test_a_source_is_asked_from_any_thread(crm):
    crm.add(1, 0)
    source = crm.source()
    found = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: found.append(ids(source.read(None), "id")))
        thread.start()
        thread.join()
    assert found == [[1], [1]]
    assert isinstance(source, Source)
    assert source.sent([sent("1")], {}) == ["1"]


def test_values_of_the_query_are_bound(crm):
    crm.add(1, 0, "o''neil@example.com")
    crm.add(2, 1)
    engine = crm.engine
    place, params = ":who", {"who": "o'neil@example.com"}
    if callable(engine):
        with contextlib.closing(engine()) as connection:
            driver = type(connection).__module__.partition(".")[0]
        place, params = ("?", ["o'neil@example.com"]) if driver == "sqlite3" else ("%(who)s", params)
    source = crm.source(f"SELECT * FROM leads WHERE email = {place}", params=params)
    first = source.begin("now")
    assert ids(first, "id") == [1]
    assert ids(source.read(stored(first.cursor)), "id") == [1]
    assert ids(source.again(wanted("1", "2", columns=("id",))), "id") == [1]
    assert ids(
        crm.source(f"SELECT * FROM leads WHERE email = {place}", params=params, cursor=None).read(None), "id"
    ) == [1]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 14) | st.sampled_from(["poll", "restart", "tick", "null", "delete"]), max_size=30)
)
def test_rows_that_come_late_within_the_overlap_are_all_read(steps):
    """Each number is a row that is that many minutes late; a transaction that began earlier."""
    clock, numbers, seen, there = 0, iter(range(10_000)), set(), set()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crm.db"
        crm = sqlite3.connect(path)
        crm.execute("CREATE TABLE leads (id INTEGER, at TEXT)")
        crm.commit()

        def source():
            return sql(lambda: sqlite3.connect(path), "SELECT * FROM leads", cursor="at", overlap=15 * 60)

        asked = source()
        cursor = stored(asked.begin("now").cursor)
        for step in [*steps, "poll"]:
            if step == "poll":
                batch = asked.read(cursor)
                seen.update(ids(batch, "id"))
                cursor = stored(batch.cursor)
            elif step == "restart":
                asked = source()
            elif step == "tick":
                clock += 7
            elif step == "delete":
                crm.execute("DELETE FROM leads WHERE at = (SELECT max(at) FROM leads)")
            else:
                number = next(numbers)
                moment = (
                    None
                    if step == "null"
                    else str(BASE.replace(tzinfo=None) + dt.timedelta(minutes=clock - step))
                )
                crm.execute("INSERT INTO leads VALUES (?, ?)", (number, moment))
            crm.commit()
        there = {row[0] for row in crm.execute("SELECT id FROM leads")}
        crm.close()
    assert there <= seen


# ------------------------------------------------------------------------- what one database has alone


def test_a_select_is_a_query_and_keeps_its_types(postgres):
    name = postgres.fresh()
    engine = sa.create_engine(postgres.url(name))
    table = sa.Table(
        "leads",
        sa.MetaData(),
        sa.Column("Id", sa.Uuid, primary_key=True),
        sa.Column("order", sa.Numeric(20, 4)),
        sa.Column("day", sa.Date),
    )
    table.create(engine)
    keys = [uuid.UUID(int=number) for number in range(3)]
    with engine.begin() as connection:
        rows = [
            {"Id": key, "order": Decimal(n) / 10, "day": dt.date(2026, 1, n + 1)}
            for n, key in enumerate(keys)
        ]
        connection.execute(sa.insert(table), rows)
    by_number = sql(engine, sa.select(table).where(table.c.order > 0), cursor="order", overlap=0)
    first = by_number.begin("now")
    assert rows_of(first) == rows[2:]
    assert by_number.read(stored(first.cursor)).cursor == first.cursor
    assert ids(by_number.again(wanted(str(keys[1]), str(keys[0])))) == [keys[1]]
    by_day = sql(engine, table, cursor="day")
    assert ids(by_day.begin("now")) == keys[1:]
    engine.dispose()
    postgres.drop(name)


def test_the_users_engine_is_handed_back_as_it_was(tmp_path, postgres):
    lite = sa.create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    name = postgres.fresh()
    large = sa.create_engine(postgres.url(name), isolation_level="AUTOCOMMIT", pool_size=1, max_overflow=0)
    for engine in (lite, large):
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE leads (id INTEGER)"))
        source = sql(engine, "SELECT * FROM leads", cursor="id")
        source.begin("now")
        with pytest.raises(SourceError):
            sql(engine, "INSERT INTO leads VALUES (1) RETURNING id").read(None)
        with engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO leads VALUES (7)"))
        assert ids(source.read(None), "id") == [7]
        engine.dispose()
    postgres.drop(name)


def test_a_server_that_is_gone_is_said_and_found_again(postgres):
    name = postgres.fresh()
    engine = sa.create_engine(postgres.url(name))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE leads (id INTEGER)"))
    every = [sql(engine, "SELECT * FROM leads"), sql(lambda: postgres.connect(name), "SELECT * FROM leads")]
    assert [rows_of(source.read(None)) for source in every] == [[], []]
    postgres.stop(kill=True)
    try:
        for source in every:
            with pytest.raises(SourceError, match="connection") as caught:
                source.read(None)
            assert str(caught.value).count("\n") == 0
    finally:
        postgres.start()
    # The pool of the engine holds dead connections; nobody sees any of it.
    assert [rows_of(source.read(None)) for source in every] == [[], []]
    engine.dispose()
    postgres.drop(name)


def test_a_query_that_takes_too_long_is_given_up(postgres):
    for engine in (sa.create_engine(postgres.url(), poolclass=sa.NullPool), postgres.connect):
        with pytest.raises(SourceError, match="statement timeout"):
            sql(engine, "SELECT pg_sleep(30) AS id", timeout=0.05).read(None)


def test_a_locked_file_is_an_error_and_is_read_later(tmp_path):
    path = tmp_path / "x.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("CREATE TABLE leads (id INTEGER)")
    source = sql(f"sqlite:///{path}", "SELECT * FROM leads", timeout=0.01)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(SourceError, match="database is locked"):
        source.read(None)
    holder.execute("COMMIT")
    assert source.read(None).parts[0].rows == []
    holder.close()


def test_a_function_that_gives_one_connection_twice_is_told_so(tmp_path):
    connection = sqlite3.connect(tmp_path / "x.db", check_same_thread=False)
    connection.execute("CREATE TABLE leads (id INTEGER)")
    source = sql(lambda: connection, "SELECT * FROM leads")
    source.read(None)
    with pytest.raises(SourceError, match="closed database") as caught:
        source.read(None)
    assert "open a new connection each time" in caught.value.fix
    other = sqlite3.connect(":memory:")
    problems = []

    def ask():
        try:
            sql(lambda: other, "SELECT 1 AS id").read(None)
        except SourceError as error:
            problems.append(error.fix)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    other.close()
    assert "open a new connection each time" in problems[0]


def test_a_function_may_give_an_engine(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    source = sql(lambda: engine, sa.select(sa.literal(1).label("id")))
    assert ids(source.read(None), "id") == [1]
    engine.dispose()


def test_dates_that_sqlite3_converts_are_followed_too(tmp_path):
    path = tmp_path / "x.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE leads (id INTEGER, at timestamp)")
    connection.execute(
        "INSERT INTO leads VALUES (1, '2026-01-01 10:00:00'), (2, '2026-01-01 10:00:00.500000')"
    )
    connection.commit()
    connection.close()
    source = sql(lambda: converting(path), "SELECT * FROM leads", cursor="at", overlap=0.5)
    first = source.begin("now")
    assert ids(first, "id") == [1, 2]
    assert ids(source.read(stored(first.cursor)), "id") == [1, 2]


def converting(path):
    def read(octets):
        return dt.datetime.fromisoformat(octets.decode())

    sqlite3.register_converter("timestamp", read)
    return sqlite3.connect(path, detect_types=sqlite3.PARSE_DECLTYPES)


# ------------------------------------------------------------------------------------------ secrets


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://ann:pass-wort@db.example.com/crm",
        "postgresql+psycopg://db.example.com/crm?user=ann&password=pass-wort",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3D%7Bx%7D%3BUID%3Dann%3BPWD%3Dpass-wort",
        "nonsense://ann:pass-wort@db.example.com/crm",
        "//ann:pass-wort@db.example.com:port/crm",
    ],
)
def test_a_password_in_a_typed_url_is_refused_and_never_repeated(url):
    with pytest.raises((SettingsError, OptionError)) as caught:
        sql(url, "SELECT 1")
    assert "pass-wort" not in str(caught.value)
    assert caught.value.__context__ is None or "pass-wort" not in str(caught.value.__context__)


def test_no_message_of_a_driver_shows_a_password(postgres):
    made = sa.URL.create("postgresql+psycopg", "tester", "pass-wort", "127.0.0.1", postgres.port, "postgres")
    source = sql(made, "SELECT 1 AS id")

    def saying():
        message = "cannot reach postgresql://ann:pass-wort@db/crm with host=db password=pass-wort user=ann"
        raise RuntimeError(message)

    def connecting():
        import psycopg

        return psycopg.connect(
            host="127.0.0.1", port=postgres.port, user="tester", password="pass-wort", dbname="postgres"
        )

    # A wrong one ends a watch: tried again and again it locks accounts.
    for each, kind in (
        (source, SecretError),
        (sql(connecting, "SELECT 1"), SecretError),
        (sql(saying, "SELECT 1"), SourceError),
    ):
        with pytest.raises(kind) as caught:
            each.read(None)
        assert "pass-wort" not in f"{caught.value} {source.name} {source!r}"
    right = sa.URL.create(
        "postgresql+psycopg", "tester", postgres.password, "127.0.0.1", postgres.port, "postgres"
    )
    assert ids(sql(right, "SELECT 1 AS id").read(None), "id") == [1]


@pytest.mark.parametrize(
    ("engine", "query", "options"),
    [
        (3, "SELECT 1", {}),
        (sqlite3.connect(":memory:"), "SELECT 1", {}),
        ("sqlite://", 3, {}),
        ("sqlite://", "  ;", {}),
        ("nonsense", "SELECT 1", {}),
        ("sqlite://", "SELECT 1", {"overlap": -1}),
        ("sqlite://", "SELECT 1", {"timeout": 0}),
        ("sqlite://", "SELECT 1", {"cursor": ""}),
        ("sqlite://", "SELECT ?", {"params": [1]}),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_opened(engine, query, options):
    with pytest.raises(OptionError):
        sql(engine, query, **options)


@pytest.mark.parametrize("made", ["3", "sa.create_engine('sqlite://').connect()", "None"])
def test_what_a_function_opens_has_to_be_a_connection(made):
    source = sql(lambda: eval(made), "SELECT 1")
    with pytest.raises((OptionError, SourceError)):
        source.read(None)


def test_a_driver_that_is_missing_is_named():
    with pytest.raises(SettingsError, match="The driver oracledb is not installed") as caught:
        sql("oracle+oracledb://ann@db.example.com/crm", "SELECT 1")
    assert "pip install oracledb" in caught.value.fix


def test_sqlite_needs_no_sqlalchemy_and_a_url_says_that_it_does():
    code = """
        import sys, sqlite3
        sys.modules["sqlalchemy"] = None
        from smtp_notebook.sources import sql
        print(sql(lambda: sqlite3.connect(":memory:"), "SELECT 1 AS id", cursor="id").begin("now").parts[0].rows)
        try:
            sql("sqlite://", "SELECT 1")
        except ValueError as error:
            print(error)
        """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True
    )
    assert ran.stdout.splitlines()[0] == "[{'id': 1}]"
    assert 'pip install "smtp_notebook[sql]"' in ran.stdout


# --------------------------------------------------------------------------------- places in a column

ZONES = (
    st.none() | st.integers(-1439, 1439).map(lambda m: dt.timezone(dt.timedelta(minutes=m))) | st.timezones()
)
TIMES = st.datetimes(timezones=ZONES)
TEXTS = st.builds(
    lambda at, between, places, zone: (
        at.strftime(f"{at.year:04}-%m-%d{between}%H:%M:%S") + f".{at.microsecond:06}"[:places] + zone
    ),
    st.datetimes(),
    st.sampled_from("T "),
    st.sampled_from([0, 4, 7]),
    st.sampled_from(["", "Z", "+02:00", "-0500"]),
)
PLACES = (
    TIMES
    | TEXTS
    | st.dates()
    | st.dates().map(str)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False, allow_infinity=False)
)


@settings(max_examples=120, deadline=None)
@given(PLACES)
def test_a_place_comes_back_from_json_exactly(value):
    found = database.unpack(stored(database.pack(value)))
    assert found == value
    assert isinstance(found, type(value))
    assert str(found) == str(value) or (
        isinstance(value, dt.datetime) and found.utcoffset() == value.utcoffset()
    )


@settings(max_examples=120, deadline=None)
@given(PLACES, st.floats(0, 1e6))
def test_an_earlier_place_is_never_later_and_of_the_same_kind(value, by):
    found = database.earlier(value, by)
    assert found <= value
    assert database.pack(found) is not None
    if isinstance(value, str):
        assert len(found) == len(value)


@settings(max_examples=100, deadline=None)
@given(st.datetimes(dt.datetime(1000, 1, 1), timezones=st.just(dt.UTC)), TEXTS | TIMES | st.dates())
def test_a_moment_as_a_column_would_have_it_is_that_moment_or_a_little_before(moment, value):
    found = database.like(value, moment)
    assert type(found) is type(value) or isinstance(found, type(value))
    if isinstance(found, str):
        there = dt.datetime.fromisoformat(found)
        assert 0 <= (moment - (there if there.tzinfo else there.replace(tzinfo=dt.UTC))).total_seconds() < 1
    elif isinstance(found, dt.datetime):
        assert (found if found.tzinfo else found.replace(tzinfo=dt.UTC)) == moment


@pytest.mark.parametrize(
    "value", [True, None, float("nan"), Decimal("NaN"), "yesterday", "29.11.2026", b"x", uuid.uuid4(), [1]]
)
def test_what_has_no_order_in_time_is_no_place(value):
    with pytest.raises(OptionError):
        database.pack(value)


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"datetime": 3}, {"datetime": "x"}, {"other": "x"}, True, {"date": "1", "decimal": "2"}],
)
def test_what_was_never_packed_is_not_guessed_at(value):
    with pytest.raises(MergeRefusedError):
        database.unpack(value)


# ------------------------------------------------------------------------------------------ a watch


@pytest.fixture
def server():
    with Server() as found:
        yield found


def watching(source, server):
    via = Connection.from_url(server.url(), max_connections=1)
    letter = "---\nsubject: Hi\nto: {{ Email }}\n---\nDear {{ Id }}"
    return watch(source, letter, via=via, from_="me@example.com", campaign="c", every="5m", key="Id")


def reached(server):
    return sorted(r for mail in server.log.mails for r in mail.recipients)


def test_a_watch_mails_each_row_of_a_folder_once_whatever_its_files_repeat(folder, server):
    write(folder, "monday.csv", 1)
    watching(csv_folder(folder, quiet=0), server).poll()
    write(folder, "broken.csv", text="Id,Email\n9\n")
    write(folder, "tuesday.csv", 1, 2)
    report = watching(csv_folder(folder, quiet=0), server).poll()
    assert any("'broken.csv': line 2 has 1 cell" in note for note in report.notes)
    write(folder, "wednesday.csv", 1, 2, 3)
    write(folder, "broken.csv", 9)
    (folder / "monday.csv").rename(folder / "old.csv")
    last = watching(csv_folder(folder, quiet=0), server)
    last.poll()
    last.poll()
    assert reached(server) == ["u2@example.com", "u3@example.com", "u9@example.com"]


def test_a_watch_mails_each_row_of_a_query_once_however_wide_the_overlap(tmp_path, server):
    with contextlib.closing(sqlite3.connect(tmp_path / "crm.db")) as crm:

        def add(number, moment):
            crm.execute("INSERT INTO leads VALUES (?, ?, ?)", (number, f"u{number}@example.com", moment))
            crm.commit()

        def poll():
            source = sql(lambda: sqlite3.connect(tmp_path / "crm.db"), "SELECT * FROM leads", cursor="at")
            return watching(source, server).poll()

        crm.execute("CREATE TABLE leads (Id INTEGER, Email TEXT, at TEXT)")
        add(1, "2026-11-29 10:00:00")
        poll()
        add(2, "2026-11-29 10:00:00")
        poll()
        add(3, "2026-11-29 09:50:00")  # of a transaction that began earlier
        add(4, None)
        add(None, "2026-11-29 10:01:00")
        poll()
        poll()
    assert reached(server) == ["u2@example.com", "u3@example.com", "u4@example.com"]
