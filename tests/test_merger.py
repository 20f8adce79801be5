"""The form of a merge without a browser: its widgets are real, its clicks send real mail, and each row goes once."""

from __future__ import annotations

import json
import threading
from collections import Counter

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from IPython.core.interactiveshell import InteractiveShell
from ipywidgets import Widget
from ipywidgets.widgets.widget import _instances
from scripted import Gate, Server

from smtp_notebook import (
    Connection,
    Journal,
    MergeRefusedError,
    OptionError,
    State,
    Template,
    TemplateError,
    connect,
    mail_merge,
    merge_form,
    merger,
    servers,
)
from smtp_notebook._sync import Turn
from smtp_notebook.jobs import Phase, Progress
from smtp_notebook.picker import frames_of, pasted
from smtp_notebook.widgets import Latest
from smtp_notebook.wording import far_text, in_time

LETTER = "---\nsubject: Hi {{ n }}\n---\nDear **{{ n }}**"
CALLING = "---\nsubject: s\n---\n{{ f(n) }}"
LONG = 20.0  # seconds, where something has gone wrong if it takes them


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Let a check begin at once, and forget what this process sent before: the tests' servers may have one port."""
    monkeypatch.setattr(merger, "SETTLE", 0.0)
    monkeypatch.setattr(servers, "_LIMITERS", {})
    yield
    for found in [w for w in _instances.values() if isinstance(w, merger.MergeForm)]:
        found.close()


@pytest.fixture
def shell():
    """An IPython whose variables are the notebook's."""
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


@pytest.fixture
def server():
    with Server() as found:
        yield found


@pytest.fixture
def gate():
    found = Gate()
    yield found
    found.open()


def frame(count=6, **columns):
    numbers = list(range(count))
    return pd.DataFrame({"Email": [f"u{i}@example.com" for i in numbers], "n": numbers} | columns)


def bad_frame(count=6):
    data = frame(count)
    data.loc[[1, 4], "Email"] = ["a@", None]
    return data


def form(data, template=LETTER, **more):
    """Return a form after its first check."""
    return merge_form(data, template, **more).wait(LONG)


def campaign(server, data, template=LETTER, **more):
    """Return a form of a mailing that counts."""
    one = Connection.from_url(server.url(), max_connections=1, timeout=LONG, dot_timeout=LONG)
    return form(data, template, **{"via": one, "from_": "me@example.com", "campaign": "c"} | more)


def hears(part, **content):
    part._handle_custom_msg(content, [])


def says(status):
    return f"{status.state} {status.text} {status.fix}".strip()


def send(found):
    """Press Send, and say yes."""
    found._send_button.click()
    assert found.ask.opened, says(found.status)
    hears(found.ask, type="answer", yes=True)


def sent(found):
    send(found)
    return found.wait(LONG)


def got(server):
    return Counter(r for m in server.log.mails for r in m.recipients)


def everybody(count):
    return {f"u{i}@example.com": 1 for i in range(count)}


# ------------------------------------------------------------------------------------- frame, columns


def test_every_frame_of_the_notebook_can_be_chosen_by_its_name(shell, sandbox):
    leads = frame(3)
    shell.user_ns |= {
        "leads": leads,
        "cats": pl.DataFrame({"email": ["a@example.com"]}),
        "Arrow": pa.table({"email": ["a@example.com"]}),
        "dicts": [{"email": "d@example.com"}],
        "words": ["no", "frame"],
        "empty": [],
        "_hidden": leads,
    }
    found = form(leads, via=sandbox)
    assert [label for label, _ in found._frames._dropdown.options] == [
        "Arrow: 1 row of 1 columns",
        "cats: 1 row of 1 columns",
        "dicts: 1 row",
        "leads: 3 rows of 2 columns",
    ]
    assert found._frames.name == "leads"
    for name in ("Arrow", "cats", "dicts"):
        found._frames._dropdown.value = name
        found.wait(LONG)
        assert (found._to.value, found._cells.facts[0][0]) == ("email", "email")


def test_looking_again_finds_what_the_notebook_made_meanwhile(shell, sandbox):
    shell.user_ns["leads"] = frame(3)
    found = form(shell.user_ns["leads"], via=sandbox)
    shell.user_ns |= {"leads": frame(5), "more": frame(1)}
    found._frames.button.click()
    found.wait(LONG)
    assert found._checked.progress.total == 5, "the name stands for another frame now"
    assert "more" in [name for _, name in found._frames._dropdown.options]
    del shell.user_ns["leads"]
    found._frames.button.click()
    assert found._frames._dropdown.label == "given: 3 rows of 2 columns"


def test_a_frame_without_a_variable_is_the_given_one_and_none_at_all_is_said(shell, sandbox):
    assert form(frame(2), via=sandbox)._frames._dropdown.label.startswith("given: 2 rows")
    found = form(None, LETTER, via=sandbox)
    assert "no frame is in this notebook yet" in found._frames._dropdown.label
    assert "Choose a frame" in found._preview.empty
    assert says(found._check_status) == "note No frame is chosen. Choose one under Frame."
    shell.user_ns["only"] = frame(2)
    found._frames.button.click()
    assert found.wait(LONG)._frames.name == "only"
    assert found._checked.progress.due == 2


def test_only_the_notebooks_own_lists_of_dicts_and_tables_are_frames():
    assert list(frames_of({"b": [{}], "A": frame(1), "c": [1], "d": [{}, 1], "_x": frame(1), "e": {}})) == [
        "A",
        "b",
    ]


@pytest.mark.parametrize(
    ("columns", "to", "key"),
    [
        ({"Email": ["a@example.com", "b@example.com"], "Id": [1, 2]}, "Email", "Id"),
        ({"E-Mail": ["a@example.com", "b@example.com"], "Id": [1, 1]}, "E-Mail", ""),
        ({"mail": ["a@example.com", "b@example.com"], "Lead_ID": ["x", "y"]}, "mail", "Lead_ID"),
        ({"mail": ["a@example.com", "b@example.com"], "key": ["x", None]}, "mail", ""),
        ({"mail": ["a@example.com"], "customer id": [7], "id": [8]}, "mail", "id"),
        ({"Email": ["a@example.com"], "E-Mail": ["b@example.com"]}, "", ""),
        ({"who": ["a@example.com"]}, "", ""),
    ],
)
def test_to_and_key_are_guessed_where_there_is_one_answer(sandbox, columns, to, key):
    found = form(pd.DataFrame(columns), "hello", via=sandbox)
    assert (found._to.value, found._key.value) == (to, key)
    if not to:
        assert found._to_said.text
        assert "Nothing says which column has the addresses" in found._preview.empty
        found._to.value = next(iter(columns))
        assert found.wait(LONG)._checked.progress.due == len(columns[next(iter(columns))])


def test_the_to_of_a_templates_head_wins_over_a_column(sandbox):
    data = frame(2, other=["x@example.com", "y@example.com"])
    found = form(data, via=sandbox)
    assert found.message.recipients == ("u0@example.com",)
    found._editor.value = "---\nto: {{ other }}\n---\nhi"
    found.wait(LONG)
    assert found.message.recipients == ("x@example.com",)
    assert (found._to_said.text, found._to.layout.display) == ("To: from the template.", "none")
    found._editor.value = "hi"
    found.wait(LONG)
    assert (found._to_said.text, found._to.layout.display) == ("", None)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("First", "{{ First }}"),
        ("First Name", '{{ row["First Name"] }}'),
        ("class", '{{ row["class"] }}'),
        ("row", '{{ row["row"] }}'),
        ('a "b"', "{{ row['a \"b\"'] }}"),
        ("a\\b", "{{ row['a\\\\b'] }}"),
    ],
)
def test_what_a_columns_button_writes_prints_that_column(column, text):
    assert pasted(column) == text
    assert Template(text).fill({column: "cell"}).text.strip() == "cell"


# ------------------------------------------------------------------------------------------- template


def test_a_file_is_loaded_named_and_read_again_and_what_was_typed_is_not_lost_unasked(tmp_path, sandbox):
    file = tmp_path / "welcome.html"
    file.write_bytes(b"---\r\nsubject: Hi\r\n---\r\n<p>{{ n }}</p>\r\n")
    (tmp_path / "a.txt").write_text("attached")
    found = form(frame(2), str(file), via=sandbox)
    assert (found._path.value, found._load.description) == (str(file), "Reload")
    assert "\r" not in found._editor.value
    assert found.template.fingerprint == Template(file, to="{{ row['Email'] }}").fingerprint
    assert found._editor.format == "html"
    found._editor.value += "<p>more</p>"
    found._load.click()
    assert "What was typed into the template is lost" in found.ask.question
    hears(found.ask, type="answer", yes=False)
    assert found._editor.value.endswith("<p>more</p>")
    found._editor.value = found._editor.value.replace("subject", "attach: a.txt\nsubject")
    assert [a.name for a in found.message.attach] == ["a.txt"], "files lie beside the template, edited or not"
    file.write_text("<p>new {{ n }}</p>")
    found._load.click()
    hears(found.ask, type="answer", yes=True)
    found.wait(LONG)
    assert found._editor.value == "<p>new {{ n }}</p>"
    found._path.value = str(tmp_path / "none.md")
    assert found._load.description == "Load"
    found._load.click()
    assert "cannot be read" in says(found.status)


def test_fields_of_the_form_win_over_the_head_and_are_templates(sandbox):
    found = form(
        frame(2), LETTER, via=sandbox, subject="For {{ n }}", from_="a@example.com", cc="c@example.com"
    )
    assert (found._subject.value, found._from.value) == ("For {{ n }}", "a@example.com")
    assert found.message.subject == "For 0"
    assert found.message.recipients == ("u0@example.com", "c@example.com")
    found._subject.value = ""
    assert found.message.subject == "Hi 0"
    assert "Given in Python: cc." in found._also.text


def test_html_that_nothing_says_is_html_is_refused_until_its_format_is_chosen(sandbox):
    found = form(frame(2), "hello", via=sandbox)
    found._editor.value = "<p>{{ n }}</p>"
    found.wait(LONG)
    assert "this is HTML" in found._editor.problem
    found._format.value = "html"
    found.wait(LONG)
    assert found._editor.problem == ""
    assert "<p>0</p>" in found._preview.page.replace(' style=""', "")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: merge_form(frame(1), LETTER, subjct="x"), OptionError),
        (lambda: merge_form(frame(1), LETTER, dry_run=True), OptionError),
        (lambda: merge_form(frame(1), LETTER, limit=-1), OptionError),
        (lambda: merge_form(frame(1), LETTER, format="pdf"), OptionError),
        (lambda: merge_form(5, LETTER), MergeRefusedError),
        (lambda: merge_form(frame(1), "{% if %}"), TemplateError),
        (lambda: merge_form(frame(1), "none.md"), TemplateError),
    ],
)
def test_what_no_merge_takes_is_refused_where_the_form_is_made(make, error):
    with pytest.raises(error):
        make()


# ------------------------------------------------------------------------------------------------ row


def test_rows_are_stepped_through_and_each_shows_its_mail(sandbox):
    found = form(frame(3), via=sandbox)
    seen = []
    for press in (None, found._next, found._next, found._previous):
        if press is not None:
            press.click()
        found.wait(LONG)
        seen.append((found._row.value, found._cells.facts[1][1], found._preview.text.strip()))
    assert [row for row, *_ in seen] == [0, 1, 2, 1]
    assert [cell for _, cell, _ in seen] == ["0", "1", "2", "1"]
    assert all(f"{row}" in text for row, _, text in seen)
    found._row.value = 99
    assert (found._row.value, found._of.value) == (2, "of 3")
    assert (found._previous.disabled, found._next.disabled) == (False, True)


def test_a_row_that_makes_no_mail_says_why_and_its_cells_are_shown(sandbox):
    data = frame(2, Company=["ACME", None])
    found = form(data, "Dear {{ Company }}", via=sandbox)
    found._next.click()
    found.wait(LONG)
    assert "Row 1" in found._preview.empty
    assert "'Company' is empty" in found._preview.empty
    assert ["Company", "", "(empty)"] in found._cells.facts
    with pytest.raises(TemplateError, match="Row 1"):
        _ = found.message


def test_a_frame_without_rows_and_a_long_cell_break_nothing(sandbox):
    found = form(frame(0), via=sandbox)
    assert (found._preview.empty, found._cells.facts) == ("The frame has no rows.", [])
    assert says(found._check_status) == "checked The frame has no rows."
    assert found._send_button.disabled
    found = form(frame(1, long=["x" * 10_000]), via=sandbox)
    assert len({n: v for n, v, _ in found._cells.facts}["long"]) < 500


# ---------------------------------------------------------------------------------------------- check


def test_the_check_counts_lists_the_problems_and_each_jumps_to_its_row(sandbox):
    found = form(bad_frame(), via=sandbox)
    assert says(found._check_status) == "checked 4 of 6 rows can be sent."
    assert "4 to send" in found._counts.value
    assert "2 with a problem" in found._counts.value
    assert [row["cells"][0] for row in found._problems.rows] == ["1", "4"]
    assert "nothing stands after the @" in found._problems.rows[0]["cells"][2]
    found._problems.selected = "4"
    found.wait(LONG)
    assert (found._row.value, found._cells.facts[0]) == (4, ["Email", "", "(empty)"])
    assert sandbox.messages == ()


def test_more_problems_than_a_window_are_shown_when_they_are_asked_for(sandbox, monkeypatch):
    monkeypatch.setattr(merger, "PROBLEMS", 10)
    found = form(frame(25, x=[None] * 25), "{{ x }}", via=sandbox)
    assert (len(found._problems.rows), found._problems.total) == (10, 25)
    hears(found._problems, type="more")
    assert (len(found._problems.rows), found._problems.total) == (20, 25)
    hears(found._problems, type="more")
    assert [row["id"] for row in found._problems.rows] == [str(i) for i in range(25)]


def test_an_edit_takes_check_and_question_back_and_is_checked_itself(sandbox):
    found = form(frame(3), via=sandbox)
    found._send_button.click()
    assert found.ask.opened
    found._auto.value = False
    found._editor.value = "{{ missing }}"
    assert not found.ask.opened, "what was asked is not what would be sent"
    assert (found._send_button.disabled, found._send_button.description) == (True, "Send")
    assert says(found._check_status) == "note Not checked since the last change."
    hears(found.ask, type="answer", yes=True)
    found._check_button.click()
    found.wait(LONG)
    assert found._problems.total == 3
    found._auto.value = True
    found._editor.value = "good"
    found.wait(LONG)
    assert (found._problems.total, found._send_button.disabled) == (0, False)
    assert sandbox.messages == ()


def test_a_check_of_an_older_text_says_nothing_of_the_newer_one(sandbox, gate):
    found = form(frame(3), "old {{ f(n) }}", via=sandbox, values={"f": lambda n: n})
    assert found._checked is None, "what calls functions is checked when that is asked for"

    def held(n):
        gate()
        return n

    found._values["f"] = held
    found._check_button.click()
    assert gate.reached.wait(LONG)
    found._editor.value = "new"
    gate.open()
    found.wait(LONG)
    assert found._checked is None
    assert says(found._check_status) == "note Not checked since the last change."
    found._check_button.click()
    assert found.wait(LONG)._checked.order.template.source == "new"


def test_a_check_can_be_stopped(sandbox, gate):
    def f(n):
        gate()
        return n

    found = merge_form(frame(3), CALLING, via=sandbox, values={"f": f})
    found._check_button.click()
    assert gate.reached.wait(LONG)
    while found._checker is None or found._stop_button.disabled:
        assert found._checks.wait(LONG)
        found._buttons()
    found._stop_button.click()
    gate.open()
    found.wait(LONG)
    assert found._check_status.state == "stopped"
    assert found._stop_button.disabled


def test_a_row_that_is_shown_and_rows_that_are_checked_or_sent_are_never_rendered_at_once(sandbox):
    threads = set()

    class Sheet:
        """Stands for a figure that every row draws into: it holds what was drawn last, until it is shown."""

        def draw(self, n):
            self.drawn = n
            threads.add(threading.get_ident())
            return self

        def _repr_html_(self):
            return f"<p>drawn {self.drawn}</p>"

    sheet = Sheet()
    found = merge_form(
        frame(150), "---\nsubject: for {{ n }}\n---\n{{ f(n) }}", via=sandbox, values={"f": sheet.draw}
    )
    found._check_button.click()
    for _ in range(60):
        found._next.click()
        message = found.message
        assert f"drawn {message.subject.removeprefix('for ')}<" in message.html
    found.wait(LONG)
    send(found)
    while found._busy:
        found._previous.click()
        message = found.message
        assert f"drawn {message.subject.removeprefix('for ')}<" in message.html
    found.wait(LONG)
    assert len(sandbox.messages) == 150
    for mail in sandbox.messages:
        assert f"drawn {mail.header('subject').removeprefix('for ')}<" in mail.body("html")
    assert len(threads) > 1


def test_a_function_that_fails_is_seen(sandbox):
    def f(_):
        raise ZeroDivisionError

    found = form(frame(3), CALLING, via=sandbox, values={"f": f})
    assert "ZeroDivisionError" in found._preview.empty
    found._check_button.click()
    found.wait(LONG)
    assert "ZeroDivisionError" in found._problems.rows[0]["cells"][2]


def test_whatever_a_callback_raises_is_seen(sandbox, monkeypatch):
    found = form(frame(3), via=sandbox)
    monkeypatch.setattr(found, "code", lambda: 1 / 0)
    found._copy_button.click()
    assert says(found.status) == "failed ZeroDivisionError: division by zero"
    monkeypatch.setattr(merger, "problem_rows", lambda *_: 1 / 0)
    found.status.say("", "")
    found._check_button.click()
    found.wait(LONG)
    assert says(found.status) == "failed ZeroDivisionError: division by zero"


# ----------------------------------------------------------------------------------- one to me, and all


def test_this_one_goes_to_me_alone_and_counts_for_nobody(server):
    found = campaign(server, frame(3), test_to="me@example.com")
    found._next.click()
    found._me_button.click()
    found.wait(LONG)
    assert got(server) == {"me@example.com": 1}
    assert b"Dear **1**" in server.log.mails[0].content
    assert says(found._me_status) == "sent Row 1 to me@example.com: accepted; it counts for nobody."
    assert found._checked.progress.due == 3
    assert Journal().campaigns() == []


def test_a_row_with_a_problem_goes_to_nobody_and_says_why(sandbox):
    found = form(bad_frame(), via=sandbox, test_to="me@example.com")
    found._row.value = 1
    found._me_button.click()
    found.wait(LONG)
    assert found._me_status.state == "invalid"
    assert "nothing stands after the @" in found._me_status.text
    found._me.value = ""
    found._me_button.click()
    assert "No address is given" in says(found.status)
    assert sandbox.messages == ()


def test_send_asks_once_with_everything_that_matters(server):
    mail_merge(frame(2), LETTER, campaign="c", via=server.url(), from_="me@example.com", key="n")
    one = Connection.from_url(server.url(), rate="30/min")
    found = campaign(server, bad_frame(), via=one, key="n", limit=2)
    found._send_button.click()
    assert says(found.status) == (
        "failed 1 row of 6 cannot be sent; nothing was sent. Mend them, or tick that they are left out."
    )
    found._skip.value = True
    found._send_button.click()
    assert (found.ask.question, found.ask.yes) == ("Send 2 mails now?", "Send 2 mails")
    facts = dict(map(tuple, found.ask.facts))
    server_words = facts.pop("Server")
    assert facts == {
        "Rows": "2 of 6 in df",
        "Not sent": "2 had it already; 1 with a problem, left out; 1 beyond the limit",
        "From": "me@example.com",
        "Campaign": "c",
        "Key": "n",
        "Speed": "30/min: 2 s or more",
    }
    assert "not encrypted" in server_words
    hears(found.ask, type="answer", yes=False)
    assert len(server.log.mails) == 2


def test_all_good_rows_are_sent_once_and_the_report_is_shown(server):
    found = campaign(server, bad_frame())
    assert found._send_button.description == "Send 4 mails"
    found._skip.value = True
    sent(found)
    assert got(server) == {
        a: n for a, n in everybody(6).items() if a not in {"u1@example.com", "u4@example.com"}
    }
    assert found.report.counts == {State.SENT: 4, State.INVALID: 2}
    assert says(found.status) == "done 4 mails went."
    assert (found.status.value, found.status.most, found.status.far) == (4, 4, "4 of 4")
    assert "4 sent" in found._shown_report.value
    assert says(found._check_status) == "checked 4 rows had it already; nothing is left."
    assert (found._send_button.disabled, found._stop_button.disabled) == (True, True)
    assert "4 sent, 2 invalid" in repr(found)


def test_a_send_that_is_stopped_goes_on_with_the_rest_and_each_row_goes_once(server, gate):
    server.script["dot"] = lambda met: gate.held() if met.mail == 3 else None
    found = campaign(server, frame(40))
    send(found)
    assert gate.reached.wait(LONG)
    assert (found._send_button.disabled, found._stop_button.disabled) == (True, False)
    found._send_button.click()
    assert not found.ask.opened, "one send at a time"
    found._stop_button.click()
    gate.open()
    found.wait(LONG)
    assert found.status.state == "stopped"
    went = len(server.log.mails)
    assert 3 <= went < 40
    assert f"{went} mails went, {40 - went} rows were not tried." in found.status.text
    assert found._send_button.description == f"Send the rest ({40 - went})"
    assert says(found._check_status) == f"checked {went} rows had it already; {40 - went} are left."
    server.heal()
    sent(found)
    assert got(server) == everybody(40)


def test_a_new_form_goes_on_where_a_kernel_ended(server, tmp_path):
    journal = tmp_path / "j.sqlite3"
    mail_merge(
        frame(20), LETTER, campaign="c", via=server.url(), from_="me@example.com", limit=12, journal=journal
    )
    found = campaign(server, frame(20), journal=journal)
    assert says(found._check_status) == "checked 12 rows had it already; 8 are left."
    assert found._send_button.description == "Send the rest (8)"
    sent(found)
    assert got(server) == everybody(20)
    assert campaign(server, frame(20), journal=journal)._send_button.disabled


def test_a_mailing_without_a_name_is_not_sent_and_a_name_is_offered(server):
    mail_merge(frame(1), LETTER, campaign="earlier", via=server.url(), from_="me@example.com")
    found = campaign(server, frame(3), Template(LETTER, name="welcome.md"), campaign="")
    found._send_button.click()
    assert "needs a name" in says(found.status)
    name = found._suggested
    assert name.startswith("welcome-2")
    assert found._campaign.options == (name, "earlier")
    found._name_button.click()
    found.wait(LONG)
    assert (found._campaign.value, found._name_button.layout.display) == (name, "none")
    sent(found)
    assert [c.name for c in Journal().campaigns()] == [name, "earlier"]


def test_a_check_makes_no_journal(server):
    found = campaign(server, frame(3))
    assert Journal.to_read() is None
    found._campaign.value = ""
    found.wait(LONG)
    assert Journal.to_read() is None


def test_a_changed_template_is_said_and_the_rest_goes_only_when_that_is_ticked(server):
    mail_merge(frame(2), LETTER, campaign="c", via=server.url(), from_="me@example.com")
    found = campaign(server, frame(4), f"{LETTER} changed")
    assert "has changed since it began" in says(found._check_status)
    assert found._rest.layout.display is None
    assert found._send_button.disabled
    found._rest.value = True
    found.wait(LONG)
    assert found._send_button.description == "Send the rest (2)"
    sent(found)
    assert got(server) == everybody(4)


def test_a_form_and_a_cell_without_choices_are_one_campaign(server):
    mail_merge(frame(2), LETTER, campaign="c", via=server.url(), from_="me@example.com")
    assert campaign(server, frame(4))._checked.progress.due == 2
    sent(campaign(server, frame(3)))
    mail_merge(frame(4), LETTER, campaign="c", via=server.url(), from_="me@example.com")
    assert got(server) == everybody(4)


@pytest.mark.parametrize("column", ["Email", "n"])
def test_a_frame_that_changed_in_place_is_not_sent_unseen(sandbox, column):
    data = frame(2)
    found = form(data, "---\nsubject: {{ n }}\n---\nHi", via=sandbox, key="Email" if column == "n" else "n")
    found._send_button.click()
    data[column] = ["eve@example.com", "mal@example.com"] if column == "Email" else [8, 9]
    hears(found.ask, type="answer", yes=True)
    found.wait(LONG)
    assert "not those that were checked and confirmed" in says(found.status)
    assert sandbox.messages == ()
    found._frames.button.click()
    found.wait(LONG)
    sent(found)
    assert len(sandbox.messages) == 2


def test_the_address_stays_the_key_that_was_chosen_when_the_frame_is_made_anew(sandbox):
    found = form(frame(2).rename(columns={"n": "id"}), via=sandbox)
    assert found._key.value == "id"
    found._key.value = ""
    found._frame_changed()
    assert found._key.value == ""


def test_a_row_can_be_sent_to_me_again_after_that_failed(sandbox):
    one = Connection.from_url(
        f"smtp+plain://ann@127.0.0.1:{sandbox.connection.port}", password=lambda: "", sender="me@example.com"
    )
    found = form(frame(2), via=one, campaign="c", test_to="me@example.com")
    found._me_button.click()
    assert "is empty or no text" in says(found.status)
    assert not found._me_button.disabled


def test_a_column_may_be_called_what_an_option_is(sandbox):
    found = form(frame(2).rename(columns={"n": "stop"}), via=sandbox, key="stop", campaign="stop")
    assert 'key="stop"' in found.code()
    assert 'campaign="stop"' in found.code()


def test_rows_that_came_after_the_confirmation_are_not_sent(sandbox):
    data = frame(3)
    found = form(data, via=sandbox)
    found._send_button.click()
    data.loc[3] = ["late@example.com", 3]
    hears(found.ask, type="answer", yes=True)
    found.wait(LONG)
    assert "4 rows are due now, not the 3 that were confirmed" in says(found.status)
    assert sandbox.messages == ()


def test_a_limit_holds_and_one_that_is_no_number_is_said(server):
    found = campaign(server, frame(3), limit=2)
    assert found._send_button.description == "Send 2 mails"
    assert "1 beyond the limit" in found._counts.value
    found._limit.value = "two"
    found.wait(LONG)
    assert "The limit 'two' is no number of rows" in says(found._check_status)
    assert found._send_button.disabled


def test_a_server_that_refuses_rows_is_seen_row_by_row(server):
    server.script["rcpt"] = lambda met: "550 5.1.1 no such user" if "u2@" in met else None
    found = campaign(server, frame(4))
    sent(found)
    assert says(found.status).startswith("done 3 mails went, 1 failed. Row 2: ")
    assert "5.1.1" in found._shown_report.value or "no such user" in found._shown_report.value
    assert found.report.counts == {State.SENT: 3, State.REFUSED: 1}


def test_a_password_is_asked_for_in_the_form_and_is_in_no_state(monkeypatch):
    with Server(login=("ann", "correct-horse"), offers=("AUTH PLAIN",)) as server:
        monkeypatch.setattr("smtp_notebook.connection._prompt", lambda _: pytest.fail("prompted"))
        connect_to = Connection(host="127.0.0.1", port=server.port, security="plain", user="ann")
        found = campaign(server, frame(2), via=connect_to)
        assert says(found._check_status) == "checked 2 of 2 rows can be sent."
        send(found)
        assert "Password of ann" in found.secret.label
        hears(found.secret, type="secret", text="wrong")
        found.wait(LONG)
        assert found.status.state == "failed"
        send(found)
        assert found.secret.opened, "a wrong password is not kept"
        hears(found.secret, type="secret", text="correct-horse")
        found.wait(LONG)
        assert got(server) == everybody(2)
        assert found.connection.knows_secret()
    assert "correct-horse" not in json.dumps(Widget.get_manager_state(), default=str)
    assert "correct-horse" not in found.code()


def test_a_form_whose_cell_ran_again_can_still_be_stopped(server, gate):
    server.script["dot"] = lambda met: gate.held() if met.mail == 2 else None
    first = campaign(server, frame(40))
    send(first)
    assert gate.reached.wait(LONG)
    second = merge_form(frame(40), LETTER, campaign="c", via=first.connection, from_="me@example.com")
    assert "still sending: c" in second._other.text
    second._other_stop.click()
    gate.open()
    first.wait(LONG)
    assert second._watch.wait(LONG)
    second.wait(LONG)
    assert second._other_box.layout.display == "none"
    went = len(server.log.mails)
    assert second._send_button.description == f"Send the rest ({40 - went})"


def test_a_form_that_is_closed_stops_in_order(server, gate):
    server.script["dot"] = lambda met: gate.held() if met.mail == 2 else None
    found = campaign(server, frame(40))
    send(found)
    assert gate.reached.wait(LONG)
    found.close()
    gate.open()
    assert found._sender.wait(LONG).phase == "stopped"
    assert len(server.log.mails) < 40


# ----------------------------------------------------------------------------------------------- code


def test_the_code_does_the_same_merge(tmp_path, monkeypatch, sandbox):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "hi.html").write_text(
        "---\nsubject: Hi {{ n }}\nattach: a.txt\n---\n<p>{{ g }}</p>"
    )
    (tmp_path / "letters" / "a.txt").write_text("a")
    connect(sandbox)
    data = frame(3, who=[f"w{i}@example.com" for i in range(3)])
    for edit, expected in ((False, '"letters/hi.html"'), (True, 'attach_root="letters", format="html"')):
        found = form(data, "letters/hi.html", values={"g": 'say "hi"'}, limit=2, cc=["c@example.com"])
        if edit:
            found._editor.value += '\n<p title="t">more</p>'
        found._to.value = "who"
        found._subject.value = "Other {{ n }}"
        found.wait(LONG)
        code = found.code()
        assert expected in code
        names = {"df": data, "values": {"g": 'say "hi"'}}
        exec(code.replace('connect("sandbox")', ""), names)
        by_code = [
            (m.recipients, m.email["subject"], m.body("html"), len(m.files())) for m in sandbox.messages
        ]
        sandbox.clear()
        sent(found)
        by_form = [
            (m.recipients, m.email["subject"], m.body("html"), len(m.files())) for m in sandbox.messages
        ]
        sandbox.clear()
        assert sorted(by_code) == sorted(by_form)
        assert len(by_code) == 2


def test_the_code_names_what_cannot_be_written(sandbox):
    found = form(frame(1), LETTER, via=sandbox, values={"f": len}, event=lambda _: None, campaign="spring")
    code = found.code()
    assert "values=values," in code
    assert "event=event," in code
    assert 'campaign="spring",' in code
    compile(code, "cell", "exec")


# ----------------------------------------------------------------------------------------------- size


def test_rows_are_shown_while_a_hundred_thousand_are_checked(sandbox):
    count = 100_000
    data = pd.DataFrame({"Id": range(count), "Email": [f"u{i}@example.com" for i in range(count)]})
    found = merge_form(data, "{{ Id }}", via=sandbox)
    assert found._key.value == "Id"
    assert found._checks.wait(LONG)
    for row in range(7, count, 9_999):
        found._row.value = row
        assert found._looks.wait(LONG)
        assert str(row) in found._preview.text
    assert found._checker.progress.phase == Phase.CHECKING
    found.stop()
    assert found.wait(LONG)._check_status.state == "stopped"


# --------------------------------------------------------------------------------------- its own thread


def test_the_newest_of_what_is_asked_is_done_and_what_had_not_begun_is_dropped(gate):
    done, failures = [], []
    latest = Latest(failures.append)
    latest.ask(gate)
    assert gate.reached.wait(LONG)
    latest.ask(lambda: done.append("old"))
    latest.ask(lambda: done.append("new"))
    gate.open()
    assert latest.wait(LONG)
    assert done == ["new"]
    latest.ask(lambda: 1 / 0)
    assert latest.wait(LONG)
    assert [type(f) for f in failures] == [ZeroDivisionError]
    latest.ask(lambda: done.append("never"), after=LONG)
    latest.close()
    assert latest.wait(LONG)
    latest.ask(lambda: done.append("closed"))
    assert (latest.wait(LONG), done) == (True, ["new"])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (59, "59 s"), (240, "4 min"), (3600, "1 h 0 min"), (7530, "2 h 6 min")],
)
def test_a_time_is_said_as_a_person_would(seconds, words):
    assert in_time(seconds) == words


def test_how_far_a_send_is_is_one_line():
    progress = Progress(
        phase=Phase.SENDING, due=249, done=120, sent=119, failures=1, rate=31.2, remaining=4.1
    )
    assert far_text(progress) == "120 of 249, 31/s, 4 s left, 1 failed"
    slow = Progress(phase=Phase.SENDING, due=249, done=2, rate=0.5, remaining=494.0)
    assert far_text(slow) == "2 of 249, 30/min, 8 min left"
    assert far_text(Progress(phase=Phase.STOPPED, due=5, done=2, rate=1.0)) == "2 of 5"


def test_a_turn_goes_to_whoever_asked_first_and_is_let_go_between_rows():
    turn, order, asked = Turn(), [], threading.Semaphore(0)

    def ask(name):
        asked.release()
        with turn:
            order.append(name)

    threads = []
    with turn, turn:
        for name in "ab":
            threads.append(threading.Thread(target=ask, args=(name,)))
            threads[-1].start()
            assert asked.acquire(timeout=LONG)
            while len(turn._asked) <= len(threads):
                threads[-1].join(0.001)
        turn.let()
        assert order == ["a", "b"], "both had it, in their order, and it is here again"
        turn.let()
    for thread in threads:
        thread.join(LONG)
    with turn:
        assert len(turn._asked) == 1
