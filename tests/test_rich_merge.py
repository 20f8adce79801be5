"""Objects in a merge: each row its own chart, a shared one encoded once, and what looks odd said before it leaves."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from smtp_notebook import Message, OptionError, State, mail_merge, preview, send
from smtp_notebook.pictures import figure_png

ROWS = [{"Email": f"p{i}@example.com", "Name": f"P{i}", "n": i} for i in range(12)]


class Counted(Figure):
    """A figure that counts how often it is drawn."""

    drawn = 0

    def savefig(self, *args, **options):
        self.drawn += 1
        super().savefig(*args, **options)


def chart_of(n):
    figure = Counted(figsize=(3, 2))
    figure.add_subplot().bar([0, 1], [n, 12 - n])
    return figure


def pictures(sandbox):
    """Return each recipient's picture."""
    return {
        m.recipients[0]: next(p for p in m.email.walk() if p.get_content_type() == "image/png").get_content()
        for m in sandbox.messages
    }


def merge(rows, text, sandbox, **options):
    return mail_merge(rows, text, subject="s", from_="me@example.com", via=sandbox, progress=False, **options)


def test_a_figure_that_every_row_has_is_drawn_once(sandbox):
    logo = chart_of(3)
    assert len(merge(ROWS, "Dear {{ Name }}\n\n{{ logo }}", sandbox, values={"logo": logo}).sent) == 12
    assert logo.drawn == 1
    assert len(pictures(sandbox)) == 12
    assert len(set(pictures(sandbox).values())) == 1


def test_a_function_makes_each_row_a_chart_of_its_own_on_the_calling_thread(sandbox):
    threads = set()

    def chart(row):
        threads.add(threading.get_ident())
        return chart_of(row["n"])

    assert len(merge(ROWS, "{{ chart(row) }}", sandbox, values={"chart": chart}).sent) == 12
    assert threads == {threading.get_ident()}
    expected = {row["Email"]: figure_png(chart_of(row["n"])) for row in ROWS}
    assert pictures(sandbox) == expected


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("{{ change(n) }}{{ figure }}", {"change": True}),
        ("{{ figure.axes[0].set_title(Name) }}{{ figure }}", {}),
        ("{{ titled.name }}{{ figure }}", {}),
        ("{{ [titled] | map(attribute='name') | first }}{{ figure }}", {}),
        ("{{ titled }}{{ figure }}", {}),
    ],
)
def test_a_shared_figure_that_a_row_may_change_is_drawn_for_each(sandbox, text, more):
    """Nobody gets the picture of the row before."""
    figure = chart_of(0)
    figure.axes[0].set_title("before")

    def change(n):
        figure.axes[0].set_title(f"P{n}")
        return ""

    class Titled:
        def __init__(self, name):
            self._name = name

        @property
        def name(self):
            figure.axes[0].set_title(self._name)
            return ""

        def _repr_html_(self):
            return f"<b>{self.name}</b>"

    values = {"figure": figure} | ({"change": change} if more else {})
    rows = [row | {"titled": Titled(row["Name"])} for row in ROWS]
    assert len(merge(rows, text, sandbox, values=values).sent) == 12
    expected = {}
    for row in ROWS:
        figure.axes[0].set_title(row["Name"])
        expected[row["Email"]] = figure_png(figure)
    assert len(set(expected.values())) == 12
    assert pictures(sandbox) == expected


def test_charts_of_pyplot_do_not_pile_up_and_those_of_the_person_stay(sandbox):
    mine = plt.figure()
    before = plt.get_fignums()

    def chart(n):
        figure, axes = plt.subplots(figsize=(2, 1))
        axes.plot([0, n])
        return [axes, figure, [figure], np.array([axes]), axes.bar([0], [n])][n % 5]

    assert (
        len(merge(ROWS, "{{ chart(n) }}{{ mine }}", sandbox, values={"chart": chart, "mine": mine}).sent)
        == 12
    )
    assert plt.get_fignums() == before
    plt.close(mine)


def test_a_frame_with_a_column_called_figure_is_a_frame(sandbox):
    rows = [{"Email": f"p{i}@example.com", "items": pd.DataFrame({"figure": [i]})} for i in range(2)]
    assert len(merge(rows, "{{ items }}", sandbox).sent) == 2


def test_a_chart_that_one_row_cannot_draw_is_that_rows_problem(sandbox):
    def chart(n):
        figure = Figure()
        figure.suptitle("$\\frac{$" if n == 1 else "fine")
        return figure

    report = merge(ROWS[:3], "{{ chart(n) }}", sandbox, values={"chart": chart}, on_problem="skip")
    assert [o.state for o in report] == [State.SENT, State.INVALID, State.SENT]
    assert "cannot be shown" in report[1].reason


def test_frames_and_objects_in_cells_stand_in_their_rows_mail(sandbox):
    rows = [{"Email": f"p{i}@example.com", "items": pd.DataFrame({"n": range(i + 1)})} for i in range(3)]
    assert len(merge(rows, "{{ items }}", sandbox).sent) == 3
    texts = {m.recipients[0]: m.email.get_body(("plain",)).get_content().split() for m in sandbox.messages}
    assert texts == {f"p{i}@example.com": ["n", "-", *map(str, range(i + 1))] for i in range(3)}


# ---------------------------------------------------------------------------------------------- lint


def test_what_looks_odd_is_said_with_the_report_and_changes_nothing(sandbox):
    text = "<p style='display:flex'>Dear {{ Name }} <a href=''>here</a></p>"
    report = mail_merge(ROWS, text, format="html", from_="me@example.com", via=sandbox, progress=False)
    assert len(report.sent) == 12
    notes = [n for n in report.notes if n.startswith("Look at row 0")]
    assert len(notes) == 3, "a subject is missing, a link leads nowhere, Outlook has no flex"
    assert any("subject" in n for n in notes)
    assert any("display: flex" in n or "display:flex" in n for n in notes)
    assert "display:flex" in sandbox.messages[0].email.get_body(("html",)).get_content()
    assert not report[0].warnings, "once for all rows, not for each"


def test_a_plain_merge_has_nothing_to_look_at(sandbox):
    assert not [n for n in merge(ROWS, "Dear {{ Name }}", sandbox).notes if "Look at" in n]


def test_a_dry_run_and_a_preflight_say_it_before_anything_leaves(sandbox):
    long = pd.DataFrame({"text": ["x" * 900] * 150})
    report = merge(ROWS[:2], "{{ long }}", sandbox, values={"long": long}, dry_run=True)
    (note,) = [n for n in report.notes if "Look at row 0" in n]
    assert "102" in note
    assert "ttach" in note
    assert sandbox.messages == ()


def test_one_mail_says_it_with_its_outcome_and_its_preview(sandbox):
    outcome = send(
        Message(
            to="a@example.com",
            from_="me@example.com",
            body="![](https://example.com/x.png)",
            subject="x" * 90,
        ),
        via=sandbox,
    )
    assert any("90 characters" in w or "78" in w for w in outcome.warnings)
    shown = preview(ROWS, "Dear {{ Name }}", from_="me@example.com")
    assert any("subject" in w for w in shown.warnings)
    assert "subject" in shown._repr_mimebundle_()["text/plain"].split("\n\n")[0]


def test_the_magics_preview_says_it_too():
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "smtp_notebook")
    shown = shell.run_cell_magic("send_email", "--to a@example.com --preview", "Hi")
    assert any("subject" in w for w in shown.warnings)
    InteractiveShell.clear_instance()


# ------------------------------------------------------------------------------------------ executors


def processes(count):
    # A fork would copy the threads that other tests started.
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, processes])
def test_an_executor_makes_the_charts_and_each_row_gets_its_own(sandbox, kind):
    here = {}
    with kind(2) as executor:
        values = {"chart": drawn_elsewhere}
        report = merge(ROWS, "{{ chart(row) }} for {{ Name }}", sandbox, values=values, executor=executor)
    assert len(report.sent) == 12
    for row in ROWS:
        here[row["Email"]] = figure_png(chart_of(row["n"]))
    assert pictures(sandbox) == here


def drawn_elsewhere(row):
    assert threading.current_thread() is not threading.main_thread() or multiprocessing.parent_process()
    return chart_of(row["n"])


def test_rows_are_begun_before_the_first_is_finished(sandbox):
    """Twelve functions that wait for one another end only if they run together."""
    together = threading.Barrier(12, timeout=60)

    def wait(n):
        together.wait()
        return n

    with ThreadPoolExecutor(12) as executor:
        report = merge(ROWS, "{{ wait(n) }}", sandbox, values={"wait": wait}, executor=executor)
    assert len(report.sent) == 12
    texts = {m.recipients[0]: m.email.get_body(("plain",)).get_content().strip() for m in sandbox.messages}
    assert texts == {row["Email"]: str(row["n"]) for row in ROWS}


def test_what_an_executor_cannot_make_is_that_rows_problem(sandbox):
    def half(n):
        if n == 3:
            raise ValueError("three is odd")
        return None if n == 4 else n

    text = "one\n\n{{ half(n) }}"
    with ThreadPoolExecutor(2) as executor:
        report = merge(ROWS, text, sandbox, values={"half": half}, executor=executor, on_problem="skip")
    alone = merge(ROWS, text, sandbox, values={"half": half}, on_problem="skip")
    assert [(o.state, o.reason, o.fix) for o in report] == [(o.state, o.reason, o.fix) for o in alone]
    assert [o.row for o in report if o.state is State.INVALID] == [3, 4]
    assert "three is odd" in report[3].reason
    assert "line 3" in report[3].reason


def test_only_functions_of_the_values_that_are_printed_as_they_are_go_to_an_executor(sandbox):
    """What decides, is filtered or belongs to Jinja is called here."""
    threads = set()

    def made(n):
        threads.add(threading.current_thread())
        return n

    text = "{% if made(n) %}{{ made(n) | number }}{% endif %}{% set p = joiner(';') %}{{ p() }}a{{ p() }}b {{ made(n) + 1 }}"
    with ThreadPoolExecutor(2) as executor:
        report = merge(ROWS[1:], text, sandbox, values={"made": made}, executor=executor)
    assert len(report.sent) == 11
    assert threads == {threading.main_thread()}
    assert "a;b" in sandbox.messages[0].email.get_body(("plain",)).get_content()


def test_a_limit_calls_no_more_functions_than_rows_and_a_bad_executor_is_refused(sandbox):
    called = []
    with ThreadPoolExecutor(2) as executor:
        values = {"f": lambda n: called.append(n) or n}
        merge(ROWS, "{{ f(n) }}", sandbox, values=values, executor=executor, limit=3)
    assert sorted(called) == [0, 1, 2]
    with pytest.raises(OptionError, match="executor"):
        merge(ROWS, "x", sandbox, executor=3)
