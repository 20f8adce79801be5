"""Groups: all rows of one group are one mail, no row is lost in it, and the report joins back to the frame."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Server

from smtp_notebook import (
    Event,
    Journal,
    MailError,
    MergeRefusedError,
    OptionError,
    PreflightError,
    Report,
    State,
    Template,
    TemplateError,
    amail_merge,
    mail_merge,
    merge_form,
    preview,
    send_notebook,
    suppress,
)
from smtp_notebook.frames import Frame
from smtp_notebook.groups import Grouped
from smtp_notebook.jobs import MergeJob
from smtp_notebook.outcome import Outcome
from smtp_notebook.rows import Differing, DiffersError, Rows, as_given
from smtp_notebook.standing import regrouped

LETTER = """---
subject: {{ Name }}, {{ rows | length }} items
from: me@example.com
---
Dear **{{ Name }}**,
{% for row in rows %}
- {{ row.Item }} at {{ row.Price | money }}
{% endfor %}

Total: {{ rows | sum(attribute="Price") | money }}
"""
DATA = {
    "Email": ["ann@example.com", "bo@example.com", "Ann@EXAMPLE.com", "bo@example.com", "cy@example.com"],
    "Name": ["Ann", "Bo", "Ann", "Bo", "Cy"],
    "Item": ["Pen", "Cup", "<b>Ink</b>", "Mat", "Hat"],
    "Price": [1.5, 2.0, 3.0, 5.25, 9.0],
}
HEAD = "---\nsubject: s\nfrom: me@example.com\n---\n"


def frame(**columns):
    return pd.DataFrame(DATA | columns)


def texts(box):
    return {m.recipients[0]: m.email.get_body(("plain",)).get_content() for m in box.messages}


def htmls(box):
    return {m.recipients[0]: m.email.get_body(("html",)).get_content() for m in box.messages}


def merge(server, data, template=LETTER, **more):
    options = {"via": server.url(), "campaign": "c", "progress": False, "group_by": "Email"}
    return mail_merge(data, template, **options | more)


def shown(data, body, **more):
    return preview(data, HEAD + body, **{"group_by": "Email"} | more).text


@pytest.fixture
def server():
    with Server() as found:
        yield found


# --------------------------------------------------------------------------------------- one mail


KINDS = {
    "pandas": pd.DataFrame,
    "polars": polars.DataFrame,
    "arrow": pyarrow.table,
    "dicts": lambda data: pd.DataFrame(data).to_dict("records"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_rows_of_a_group_are_one_mail_in_their_order(sandbox, kind):
    report = mail_merge(KINDS[kind](DATA), LETTER, via=sandbox, group_by="Email")
    assert [(o.row, o.key, o.rows) for o in report] == [
        (0, "ann@example.com", 2),
        (1, "bo@example.com", 2),
        (4, "cy@example.com", 1),
    ]
    found = texts(sandbox)
    assert len(sandbox.messages) == 3
    assert found["ann@example.com"].index("Pen at $1.50") < found["ann@example.com"].index(
        "<b>Ink</b> at $3.00"
    )
    assert "Total: $4.50" in found["ann@example.com"]
    assert "Total: $7.25" in found["bo@example.com"]
    assert "Pen" not in found["bo@example.com"] + found["cy@example.com"]
    assert {m.email["subject"] for m in sandbox.messages} == {"Ann, 2 items", "Bo, 2 items", "Cy, 1 items"}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_a_table_and_some_of_their_columns_are_one(sandbox, kind):
    body = HEAD + '{{ rows }}\n\n{{ rows[["Item", "Price"]] | table(caption="Bought") }}'
    mail_merge(KINDS[kind](DATA), body, via=sandbox, group_by="Email")
    whole, _, some = texts(sandbox)["bo@example.com"].partition("Bought")
    assert all(word in whole for word in ("Email", "Name", "Item", "Price", "Cup", "Mat", "5.25"))
    assert all(word in some for word in ("Item", "Price", "Cup", "Mat"))
    assert "Email" not in some
    # A cell cannot become markup, wherever it is shown.
    assert htmls(sandbox)["ann@example.com"].count("&lt;b&gt;Ink&lt;/b&gt;") == 2
    assert "<b>Ink" not in htmls(sandbox)["ann@example.com"]


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("{{ rows[0].Item }} {{ rows[-1]['Item'] }}", "Pen <b>Ink</b>"),
        ('{{ rows["Price"] | sum }}', "4.5"),
        ("{{ rows.Item | join(', ') }}", "Pen, <b>Ink</b>"),
        ("{{ rows | map(attribute='Item') | join('; ') }}", "Pen; <b>Ink</b>"),
        ("{{ (rows | sort(attribute='Price', reverse=true) | first).Item }}", "<b>Ink</b>"),
        ("{% for row in rows | selectattr('Price', '>', 2) %}{{ row.Item }}{% endfor %}", "<b>Ink</b>"),
        ("{% for row in rows[1:] %}{{ loop.index }} {{ row.Item }}{% endfor %}", "1 <b>Ink</b>"),
        ("{{ rows | length }} {{ rows.columns | join(' ') }}", "2 Email Name Item Price"),
        (
            "{% macro t(rs) %}{% for r in rs %}{{ r.Item }}{% endfor %}{% endmacro %}{{ t(rows) }}",
            "Pen<b>Ink</b>",
        ),
        ("{{ Email }}", "ann@example.com"),
        ("{{ row['Name'] }}", "Ann"),
    ],
)
def test_jinja_does_with_rows_what_it_does_with_lists(body, wanted):
    assert shown(frame(), body, row=2).strip() == wanted


def test_what_a_cell_says_cannot_become_a_field_a_link_or_a_header(sandbox):
    evil = frame(Item=["<img src=x>", "a\r\nBcc: x@example.com", "[x](javascript:a)", "{{ 7 * 7 }}", "ok"])
    report = mail_merge(evil, LETTER, via=sandbox, group_by="Email", on_problem="skip")
    assert [o.state for o in report] == [State.SENT, State.INVALID, State.SENT]
    assert "{{" in report[1].reason
    found = htmls(sandbox)["ann@example.com"]
    assert "<img src=x" not in found
    assert 'href="javascript' not in found
    assert all("Bcc" not in m.email for m in sandbox.messages)


# ------------------------------------------------------------------------------ columns that differ


@pytest.mark.parametrize(
    "body",
    [
        *(
            "{{ Item }}",
            "{{ row.Item }}",
            "{{ row['Item'] }}",
            "{{ Item | default('x') }}",
            "{{ Item | upper }}",
        ),
        *(
            "{{ Price | money }}",
            "{{ Price * 2 }}",
            "{{ 2 * Price }}",
            "{% if Item %}x{% endif %}",
            "{{ Item ~ 'x' }}",
        ),
        *(
            "{% if Price > 2 %}x{% endif %}",
            "{% for i in Item %}x{% endfor %}",
            "{{ Item.upper() }}",
            "{{ Item[0] }}",
        ),
        *("{{ Item or 'x' }}", "{% set x = Item %}{{ x }}", "{{ [Item] }}", "{{ f(Item) }}", "{{ row }}"),
        *(
            "{% if Item == 'Pen' %}x{% endif %}",
            "{% if 'Pen' in [Item] %}x{% endif %}",
            "{{ Item | length }}",
        ),
    ],
)
def test_a_column_that_differs_is_an_error_that_names_it_and_says_where_the_cells_are(body):
    with pytest.raises(MailError) as caught:
        shown(frame(), body, values={"f": str})
    assert "Item" in str(caught.value) or "Price" in str(caught.value)
    assert "not the same in all rows" in caught.value.cause
    assert "rows" in caught.value.fix
    assert "for row in rows" in caught.value.fix


def test_such_an_error_names_field_and_line_and_is_a_problem_of_its_group_alone(sandbox):
    with pytest.raises(TemplateError, match="subject, line 3: column 'Item'") as caught:
        preview(
            frame(),
            HEAD.replace("s\n", "{{ Item }}\n", 1).replace("---\n", "---\n#\n", 1) + "x",
            group_by="Email",
        )
    assert caught.value.column == "Item"
    report = mail_merge(frame(), HEAD + "{{ Item }}", via=sandbox, group_by="Email", on_problem="skip")
    assert [o.state for o in report] == [State.INVALID, State.INVALID, State.SENT]


def test_a_column_is_the_same_when_it_is_empty_in_every_row_or_equal_and_of_one_type():
    data = frame(
        Gap=[None, 1.0, float("nan"), None, None],
        Mixed=[1, 1, True, 1, 1],
        Held=[[1], [2], [1], [2], [3]],
        Array=[np.array([1, 2])] * 5,
    )
    assert shown(data, "{{ Gap | default('none') }}{% if Gap %}!{% endif %}").strip() == "none"
    with pytest.raises(MailError, match="Gap"):
        shown(data, "{{ Gap }}", row=1)
    with pytest.raises(MailError, match="Mixed"):
        shown(data, "{{ Mixed }}")
    assert shown(data, "{{ Held | first }}").strip() == "1"
    assert shown(data, "{{ Array | length }}").strip() == "2"


def test_what_differs_is_no_value_for_anything():
    cell = Differing("Item")
    for use in (str, bool, int, float, len, list, format, lambda c: c == 1, lambda c: c + 1, lambda c: c.x):
        with pytest.raises(DiffersError, match="Item"):
            use(cell)
    assert pickle.loads(pickle.dumps(cell)).column == "Item"
    assert isinstance(pickle.loads(pickle.dumps(DiffersError("Item"))), DiffersError)


# ----------------------------------------------------------------------------------- which rows


def test_an_empty_cell_in_the_groups_column_is_a_problem_of_that_row_alone(sandbox):
    data = frame()
    data.loc[[0, 3], "Email"] = [" ", "  \t"]
    report = mail_merge(data, LETTER, via=sandbox, group_by="Email", to="x@example.com", on_problem="skip")
    assert [o.row for o in report.where(State.INVALID)] == [0, 3], "blank ones are no group"
    data.loc[[0, 3], "Email"] = [None, ""]
    report = mail_merge(data, LETTER, via=sandbox, group_by="Email", to="x@example.com", on_problem="skip")
    assert [(o.row, o.state) for o in report] == [
        *((0, State.INVALID), (1, State.SENT), (2, State.SENT), (3, State.INVALID), (4, State.SENT)),
    ]
    assert "by which rows are grouped" in report[0].reason
    assert report[0].fix
    with pytest.raises(PreflightError, match="2 of 5 mails have problems"):
        mail_merge(data, LETTER, via=sandbox, group_by="Email", to="x@example.com")
    with pytest.raises(MailError, match="by which rows are grouped"):
        preview(data, LETTER, row=3, group_by="Email")


def test_several_columns_group_by_all_of_them_and_are_the_key(sandbox):
    data = frame(Month=[1, 1, 1.0, 2, 1])
    report = mail_merge(data, LETTER, via=sandbox, group_by=["Email", "Month"])
    assert [o.key for o in report] == [
        '["ann@example.com", "1"]',
        '["bo@example.com", "1"]',
        '["bo@example.com", "2"]',
        '["cy@example.com", "1"]',
    ]


def test_a_key_of_its_own_has_to_be_one_value_for_each_group(sandbox):
    data = frame(Account=["A1", "B1", "A1", "B1", "C1"])
    report = mail_merge(data, LETTER, via=sandbox, group_by="Email", key="Account")
    assert [o.key for o in report] == ["A1", "B1", "C1"]
    data = frame(Account=["A1", "B1", "A1", "B2", "A1"])
    report = mail_merge(data, LETTER, via=sandbox, group_by="Email", key="Account", on_problem="skip")
    assert [o.state for o in report] == [State.SENT, State.INVALID, State.INVALID]
    assert "not the same" in report[1].reason
    assert "same key" in report[2].reason


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.integers(0, 4),
            st.sampled_from(["A@x.example", "a@X.example", "", "b"]),
            st.none(),
            st.just(2.0),
        ),
        max_size=40,
    )
)
def test_every_row_is_in_one_group_and_none_is_lost(keys):
    data = [{"k": key, "n": n} for n, key in enumerate(keys)]
    grouped = Grouped(Frame(data), ("k",)) if data else Grouped(Frame(pd.DataFrame({"k": []})), ("k",))
    found = list(grouped.numbered())
    rows = [(first, [row["n"] for row in cells["rows"]]) for first, cells in found]
    assert sorted(n for _, group in rows for n in group) == list(range(len(keys)))
    assert [first for first, _ in rows] == sorted(group[0] for _, group in rows)
    for first, group in rows:
        assert group == sorted(group)
        assert grouped.groups.positions(first) == group
        assert all([row["n"] for row in grouped.row(n)["rows"]] == group for n in group)
    assert len(grouped) == len(found)


def test_groups_larger_than_a_block_and_blocks_of_many_groups_are_read_whole(monkeypatch):
    from smtp_notebook import groups

    monkeypatch.setattr(groups, "_BLOCK", 10)
    monkeypatch.setattr(groups, "_REMEMBERED", 3)
    keys = [0] * 25 + [i % 7 for i in range(70)]
    grouped = Grouped(Frame(pd.DataFrame({"k": keys, "n": range(95)})), ("k",))
    found = {first: [row["n"] for row in cells["rows"]] for first, cells in grouped.numbered()}
    assert {keys[first]: group for first, group in found.items()} == {
        k: [n for n, key in enumerate(keys) if key == k] for k in range(7)
    }


# ---------------------------------------------------------------------------------- to_frame and join


INDEXES = {
    "counted": None,
    "text": pd.Index(["v", "w", "x", "y", "z"], name="id"),
    "duplicates": pd.Index([7, 7, 8, 9, 9]),
    "levels": pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1), ("b", 2), ("c", 1)], names=["k", "n"]),
    "times": pd.date_range("2026-01-01", periods=5, tz="Europe/Berlin"),
}


@pytest.mark.parametrize("group_by", [None, "Email"])
@pytest.mark.parametrize("index", INDEXES)
def test_the_report_has_a_line_for_each_row_under_the_frames_own_index(sandbox, index, group_by):
    data = frame() if INDEXES[index] is None else frame().set_index(INDEXES[index])
    template = LETTER if group_by else HEAD + "{{ Item }}"
    # A plain merge knows its rows by their address, so that needs a key.
    report = mail_merge(data, template, via=sandbox, group_by=group_by, key=group_by or "Item")
    told = report.to_frame()
    pd.testing.assert_index_equal(told.index, data.index)
    assert list(told["row"]) == [0, 1, 2, 3, 4]
    assert [a.casefold() for a in data["Email"]] == [a.casefold() for a in told["to"]]
    if index != "duplicates":
        joined = data.join(told)
        pd.testing.assert_frame_equal(joined[list(data.columns)], data)
        assert list(joined["state"]) == ["sent"] * 5
    joined = report.join(data)
    pd.testing.assert_frame_equal(joined[list(data.columns)], data)
    assert list(joined["to"].str.casefold()) == list(data["Email"].str.casefold())


def test_parts_of_a_report_and_copies_of_it_join_back_too(sandbox):
    data = frame().set_index(INDEXES["levels"])
    data.loc[("b", 1), "Email"] = "nobody"
    report = mail_merge(data, LETTER, via=sandbox, group_by="Email", on_problem="skip")
    copy = pickle.loads(pickle.dumps(report))
    for found in (report, copy):
        pd.testing.assert_index_equal(found.to_frame().index, data.index)
        assert list(found.failures.to_frame()["row"]) == [2]
        assert list(found.sent.to_frame()["row"]) == [0, 1, 3, 4]
        assert found.positions(found.sent[1]) == [1, 3]
        joined = found.failures.join(data)
        assert list(joined["state"].isna()) == [True, True, False, True, True]


def test_join_keeps_columns_apart_that_both_have_and_refuses_another_frame(sandbox):
    data = frame().rename(columns={"Name": "state"})
    report = mail_merge(data, HEAD + "{{ rows }}", via=sandbox, group_by="Email")
    joined = report.join(data)
    assert list(joined["state"]) == DATA["Name"]
    assert set(joined["state_mail"]) == {"sent"}
    assert list(report.join(data, suffix="_x")["state_x"]) == ["sent"] * 5
    assert len(report.join(polars.DataFrame(DATA))) == len(report.join(data.to_dict("records"))) == 5
    with pytest.raises(MailError, match="4 rows"):
        report.join(data.head(4))
    assert Report([Outcome(state=State.SENT)]).positions(Outcome(state=State.SENT)) == []


# ------------------------------------------------------------------------------------- running again


def test_a_group_that_went_is_not_mailed_again_and_says_which_rows_were_in_no_mail(server):
    merge(server, frame().head(4))
    more = pd.concat([frame(), frame(Item=["New", "Cup", "<b>Ink</b>", "Mat", "Hat"]).head(1)])
    report = merge(server, more)
    assert [o.state for o in report] == [State.SKIPPED, State.SKIPPED, State.SENT]
    assert report[0].warnings == ("sent with 2 rows, now 3; 1 row was in no mail, or changed since",)
    assert report[1].warnings == ()
    assert any("1 group has other rows" in note for note in report.notes)
    assert report[0].rows == 2
    assert len(server.log.mails) == 3
    again = merge(server, more.iloc[[1, 2, 3, 4]], dry_run=True)
    assert again[1].warnings == ("sent with 2 rows, now 1; 1 row of the mail is not there any more",)
    assert [o.rows for o in Journal().report("c")] == [2, 2, 1]


def test_another_order_index_type_or_empty_column_is_no_other_row(server):
    data = frame(Count=[1, 2, 3, 4, 5])
    merge(server, data)
    other = (
        data.iloc[::-1].reset_index(drop=True).assign(Count=lambda d: d["Count"].astype(float), Extra=None)
    )
    assert merge(server, other[sorted(other.columns)]).warnings == []


def test_what_is_left_goes_with_the_rows_that_it_has_by_then(server):
    merge(server, frame(), limit=1)
    assert len(server.log.mails) == 1
    data = frame()
    data.loc[3, "Item"] = "Changed"
    report = merge(server, data)
    assert report.counts == {State.SKIPPED: 1, State.SENT: 2}
    assert report.warnings == []
    assert merge(server, data).warnings == []


def test_a_partial_mail_and_one_in_doubt_say_it_too():
    with Server({"rcpt": lambda a: "450 later" if a.startswith("x") else None}) as server:
        one = merge(server, frame().head(2), cc="x@example.com")
        assert one.counts == {State.PARTIAL: 2}
        server.heal()
        two = merge(server, frame(), cc="x@example.com")
    assert [o.state for o in two] == [State.SENT, State.SENT, State.SENT]
    assert "sent with 1 row, now 2" in two[0].warnings[0]
    assert two[2].warnings == ()


def test_folding_otherwise_under_one_campaign_is_another_mailing(server):
    merge(server, frame())
    with pytest.raises(MergeRefusedError, match="knows its rows by"):
        merge(server, frame(), group_by=["Email", "Name"])
    with pytest.raises(MergeRefusedError, match="template"):
        merge(server, frame().drop_duplicates("Name"), group_by=None, key="Email")


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ((1, ""), (1, "aaaa"), ""),
        ((1, ""), (3, "aaaabbbbcccc"), "sent with 1 row, now 3; at least 2 of the rows now were in no mail"),
        ((2, "aaaabbbb"), (2, "bbbbaaaa"), ""),
        (
            (2, "aaaaaaaa"),
            (3, "aaaaaaaaaaaa"),
            "sent with 2 rows, now 3; 1 row was in no mail, or changed since",
        ),
        ((2, "aaaabbbb"), (2, "aaaacccc"), "sent with 2 rows, now 2; 1 row was in no mail, or changed since"),
        ((2000, "*1"), (2000, "*1"), ""),
        (
            (2000, "*1"),
            (2000, "*2"),
            "sent with 2,000 rows, now 2,000; perhaps some of the rows now were in no mail",
        ),
        (
            (2000, "*1"),
            (2001, "*2"),
            "sent with 2,000 rows, now 2,001; at least 1 of the rows now were in no mail",
        ),
    ],
)
def test_what_is_said_of_other_rows(before, now, said):
    assert regrouped(Outcome(state=State.SENT, rows=before[0], marks=before[1]), *now) == said


def test_a_large_group_has_one_mark_for_all_its_rows_whatever_their_order():
    data = pd.DataFrame({"k": ["a"] * 1500, "n": range(1500)})
    (_, one), (_, other) = (next(Grouped(Frame(d), ("k",)).numbered()) for d in (data, data.iloc[::-1]))
    assert one.made_of == other.made_of
    assert one.made_of.startswith("1500 *")
    assert len(one.made_of) < 30


# -------------------------------------------------------------------------------- with everything else


def test_limit_counts_mails_and_a_trial_goes_to_me(sandbox):
    report = mail_merge(frame(), LETTER, via=sandbox, group_by="Email", limit=2, test_to="me@example.com")
    assert [m.recipients for m in sandbox.messages] == [("me@example.com",)] * 2
    assert list(report.to_frame()["row"]) == [0, 1, 2, 3]


def test_rows_beyond_the_memory_budget_are_read_and_printed_again_the_same(server, monkeypatch):
    from smtp_notebook import preflight

    monkeypatch.setattr(preflight, "MEMORY_BUDGET", 0)
    report = merge(server, frame())
    assert report.counts == {State.SENT: 3}


def test_a_suppressed_group_is_skipped_as_one(server):
    suppress("bo@example.com")
    report = merge(server, frame())
    assert [o.state for o in report] == [State.SENT, State.SKIPPED, State.SENT]
    assert list(report.to_frame()["state"]) == ["sent", "skipped", "sent", "skipped", "sent"]


def kind_of(found):
    return f"{type(found).__module__.split('.')[0]} {len(found)} {next(iter(found.columns))}"


def length_of(row):
    return f"{row['Name']} {len(row['rows'])}"


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor, ProcessPoolExecutor])
def test_a_function_is_given_the_rows_as_the_frame_that_they_came_in(sandbox, executor):
    body = HEAD + "{{ f(rows) }} | {{ f(rows[['Item']]) | upper }} | {{ g(row) }}"
    for data in (frame(), polars.DataFrame(DATA)):
        sandbox.clear()
        pool = executor(1) if executor else None
        values = {"f": kind_of, "g": length_of}
        report = mail_merge(data, body, via=sandbox, group_by="Email", values=values, executor=pool)
        if pool is not None:
            pool.shutdown()
        assert report.counts == {State.SENT: 3}
        name = type(data).__module__.split(".")[0]
        said = texts(sandbox)["bo@example.com"].strip()
        assert said == f"{name} 2 Email | {name.upper()} 2 ITEM | Bo 2"


def test_an_event_is_made_of_the_groups_row_and_has_its_rows_as_a_frame(sandbox):
    import datetime as dt

    def event(row):
        start = dt.datetime(2026, 12, 1, 9, tzinfo=dt.UTC)
        return Event(f"{row['Name']}: {', '.join(row['rows']['Item'])}", start, duration=60)

    mail_merge(frame(), LETTER, via=sandbox, group_by="Email", event=event)
    parts = [p for m in sandbox.messages for p in m.email.walk() if p.get_content_type() == "text/calendar"]
    assert any("SUMMARY:Bo: Cup\\, Mat" in part.get_content() for part in parts)
    report = mail_merge(
        frame(),
        LETTER,
        via=sandbox,
        group_by="Email",
        event=lambda row: Event(str(row["Item"]), None),
        on_problem="skip",
    )
    assert "not the same in all rows" in report[0].reason


def test_a_frame_can_be_attached(sandbox):
    from smtp_notebook import Attachment

    values = {"file": lambda rows: Attachment(rows, "items.csv")}
    mail_merge(frame(), LETTER, via=sandbox, group_by="Email", values=values, attach="{{ file(rows) }}")
    files = {m.recipients[0]: next(m.email.iter_attachments()).get_content() for m in sandbox.messages}
    assert "Cup" in str(files["bo@example.com"])
    assert "Pen" not in str(files["bo@example.com"])


@pytest.mark.parametrize(
    "body",
    [
        "{{ rows._frame().to_csv('stolen.csv') }}",
        "{{ rows.frame().to_csv('stolen.csv') }}",
        "{{ rows._native([0], ['Item']) }}",
        "{{ rows | attr('_frame') }}",
        "{{ '{0._frame}'.format(rows) }}",
        "{{ rows.__class__ }}",
        "{% set x = rows.columns.append('x') %}",
        "{% for row in rows %}{{ row.update(Item='x') }}{% endfor %}",
    ],
)
def test_a_template_cannot_reach_the_frame_itself_nor_change_a_row(body, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MailError):
        shown(frame(), body)
    assert list(tmp_path.glob("*.csv")) == []


def test_rows_in_a_header_are_refused_as_any_object_is():
    with pytest.raises(TemplateError, match="cannot stand in a header"):
        preview(frame(), HEAD.replace("s\n", "{{ rows }}\n", 1) + "x", group_by="Email")


def test_the_index_is_shown_where_it_says_something():
    plain = shown(frame().sort_values("Price"), "{{ rows }}", row=0)
    assert plain.split()[0] == "Email"
    named = shown(frame().set_index(INDEXES["text"]), "{{ rows }}")
    assert named.split()[0] == "id"


def test_awaited_and_in_a_job_it_is_the_same(server):
    async def go():
        return await amail_merge(
            frame(), LETTER, via=server.url(), campaign="a", group_by="Email", progress=False
        )

    assert asyncio.run(go()).counts == {State.SENT: 3}
    job = MergeJob(frame(), LETTER, via=server.url(), campaign="j", group_by="Email")
    job.check()
    progress = job.wait(20)
    assert (progress.total, progress.due) == (3, 3)
    job.send(expected=3, same=progress.mark)
    assert job.wait(20).report.counts == {State.SENT: 3}
    assert len(server.log.mails) == 6


@pytest.mark.parametrize(
    ("data", "options", "error", "word"),
    [
        (DATA, {"group_by": "Emial"}, MergeRefusedError, "no column 'Emial'"),
        (DATA, {"group_by": []}, OptionError, "is no column"),
        (DATA, {"group_by": 3}, OptionError, "is no column"),
        (DATA | {"rows": [1] * 5}, {"group_by": "Email"}, MergeRefusedError, "Rename it"),
    ],
)
def test_what_cannot_be_grouped_is_refused_by_name(sandbox, data, options, error, word):
    with pytest.raises(error, match=word):
        mail_merge(pd.DataFrame(data), LETTER, via=sandbox, **options)


def test_forms_and_notebooks_refuse_it_by_name(tmp_path):
    with pytest.raises(OptionError, match="group_by"):
        merge_form(frame(), LETTER, group_by="Email")
    with pytest.raises(OptionError, match="group_by"):
        send_notebook(tmp_path / "x.ipynb", df=frame(), run=True, to="a@example.com", group_by="Email")


def test_an_empty_frame_has_no_groups(sandbox):
    assert len(mail_merge(frame().head(0), LETTER, via=sandbox, group_by="Email")) == 0


def test_a_template_is_filled_with_rows_of_any_making():
    rows = Grouped(Frame(frame()), ("Email",)).row(0)["rows"]
    assert isinstance(rows, Rows)
    again = pickle.loads(pickle.dumps(rows))
    assert list(again) == list(rows)
    assert as_given(again[["Item"]])["Item"].tolist() == ["Pen", "<b>Ink</b>"]
    with pytest.raises(KeyError):
        rows["Nothing"]
    body = "{% for row in rows %}{{ row.Item }},{% endfor %}"
    assert Template(body, to="a@example.com").fill({"rows": again}).text.strip() == "Pen,<b>Ink</b>,"


def test_memory_stays_flat_beside_the_frame():
    """16 octets for each row, and a block of rows at a time."""
    import tracemalloc

    count, groups = 12_000, 1_200
    data = pd.DataFrame(
        {"k": [f"k{i % groups}" for i in range(count)], "n": range(count), "text": ["x" * 20] * count}
    )
    tracemalloc.start()
    grouped = Grouped(Frame(data), ("k",))
    for _ in grouped.numbered():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6
