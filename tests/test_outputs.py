"""What a cell, a block or a function did, as a mail; and that nothing else is changed by it."""

from __future__ import annotations

import asyncio
import io
import itertools
import re
import signal
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import Markdown, display
from jupyter_client.manager import start_new_kernel

from smtp_notebook import MailError, OptionError, connect, email_output, outputs, recorder
from smtp_notebook.outputs import Ended, is_due, seconds_of, spoken
from smtp_notebook.recorder import Recording
from smtp_notebook.screen import MAX_CHARACTERS, MAX_LINES, Screen, plain

TO = "%email_output --to ann@example.com"
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture
def shell(sandbox):
    InteractiveShell.clear_instance()
    found = InteractiveShell.instance()
    found.run_line_magic("load_ext", "smtp_notebook")
    connect(sandbox)
    yield found
    found.run_line_magic("unload_ext", "smtp_notebook")
    InteractiveShell.clear_instance()


@pytest.fixture
def clock(monkeypatch):
    """Make each reading of the clock ten minutes later than the one before."""
    readings = itertools.count(0, 600)
    monkeypatch.setattr(outputs, "CLOCK", lambda: float(next(readings)))


def cell(shell, code, first=TO):
    return shell.run_cell(f"{first}\n{code}", store_history=True)


def mail(sandbox):
    (found,) = sandbox.messages
    return found


def text(sandbox):
    return mail(sandbox).body("plain").replace("\r\n", "\n")


def images(sandbox):
    """Return the images that the HTML shows, each of which has to be there."""
    found = mail(sandbox)
    parts = {cid: content for _, _, content, cid in found.files() if cid}
    return [parts[cid] for cid in re.findall(r'src="cid:([^"]+)"', found.body("html"))]


def hooked():
    """Return what is hooked just now."""
    shell = InteractiveShell.instance()
    places = [
        *((s, "write") for s in (sys.stdout, sys.stderr)),
        *((shell.display_pub, n) for n in ("publish", "clear_output")),
        *((shell.displayhook, n) for n in ("write_output_prompt", "write_format_data", "finish_displayhook")),
        (shell, "_showtraceback"),
    ]
    armed = [f for f in shell.events.callbacks["post_run_cell"] if isinstance(f.__self__, outputs.Armed)]
    return [n for o, n in places if hasattr(vars(o).get(n), "_smtp_notebook_tap")] + armed


# --------------------------------------------------------------------------------------------- cells


def test_a_mail_has_what_the_cell_printed_and_showed_in_order_and_its_value(shell, sandbox, clock):
    code = f"""
import sys
from IPython.display import Markdown, HTML, display
print("first <b>&amp;")
display({{"image/png": {DOT!r}, "text/plain": "<Figure 1>"}}, raw=True)
print("second", file=sys.stderr)
display(Markdown("**third** <i>x</i>"))
display(HTML("<table><tr><td onclick=alert(1)>fourth</td></tr></table><script>fifth</script>"))
6 * 7
"""
    assert cell(shell, code).result == 42
    found = mail(sandbox)
    assert found.recipients == ("ann@example.com",)
    assert found.header("subject") == "Cell finished in 10 min"
    lines = [line for line in text(sandbox).splitlines() if line]
    assert lines[0] == "✓ Cell finished in 10 min"
    assert re.fullmatch(r"cell \[\d+\]", lines[1])
    assert lines[2:] == [
        "first <b>&amp;",
        "[Figure 1]",
        "second",
        "**third** <i>x</i>",
        "fourth",
        "42",
    ]
    html = found.body("html")
    assert "first &lt;b&gt;&amp;amp;" in html
    assert "<strong>third</strong> &lt;i&gt;" in html
    assert ("fourth" in html, "onclick" in html, "fifth" in html) == (True, False, False)
    (image,) = images(sandbox)
    assert image.startswith(b"\x89PNG")
    assert not hooked()


def test_a_frame_as_the_value_is_a_table(shell, sandbox):
    cell(shell, "import pandas as pd\npd.DataFrame({'name': ['a<b', 'c'], 'n': [1200, 2]})")
    html = mail(sandbox).body("html")
    assert re.findall(r"<td[^>]*>([^<]*)</td>", html) == ["a&lt;b", "1200", "c", "2"]


def test_a_figure_as_the_value_is_an_image_also_where_the_shell_shows_only_text(shell, sandbox):
    shell.display_formatter.active_types = ["text/plain"]
    cell(shell, "from matplotlib.figure import Figure\nf = Figure(); f.subplots().plot([1, 2]); f")
    assert len(images(sandbox)) == 1


def test_a_failure_is_mailed_with_the_end_of_its_traceback_and_raised_as_ever(shell, sandbox, clock):
    code = """
def deeper(n):
    if n: deeper(n - 1)
    else: raise ValueError("bad \\x1b[31mvalue\\x1b[0m\\r\\nBcc: evil@example.net")
print("before")
deeper(9)
"""
    result = cell(shell, code)
    assert isinstance(result.error_in_exec, ValueError)
    found = mail(sandbox)
    assert found.header("subject") == "Cell failed: ValueError: bad value Bcc: evil@example.net"
    assert found.recipients == ("ann@example.com",)
    body = text(sandbox)
    assert body.startswith("✗ Cell failed after 10 min: ValueError: bad value")
    assert body.index("before") < body.index("left out") < body.index("ValueError: bad value\n")
    assert "\x1b" not in body + found.body("html")
    assert len(body[body.index("left out") :].strip().splitlines()) == 31
    assert "<pre" in found.body("html")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ExceptionGroup('several', [ValueError('one'), KeyError('two')])", ["one", "two"]),
        ("import sys; sys.exit(3)", ["SystemExit: 3"]),
        ("%nothing_of_this_name", ["nothing_of_this_name"]),
        ("from smtp_notebook import send; send(to='a@', body='x')", ["no e-mail address"]),
        ("class Odd(Exception):\n    def __str__(self): raise RuntimeError\nraise Odd", ["Odd"]),
    ],
)
def test_whatever_fails_is_mailed(shell, sandbox, code, words):
    cell(shell, code)
    assert "failed" in mail(sandbox).header("subject")
    assert all(word in text(sandbox) for word in words)
    assert not hooked()


def test_a_traceback_that_the_cell_itself_shows_is_mailed_in_its_place(shell, sandbox):
    code = "try: 1 / 0\nexcept ZeroDivisionError: get_ipython().showtraceback()\nprint('after')"
    cell(shell, code)
    body = text(sandbox)
    assert "✓" in body
    assert body.count("division by zero") == 1
    assert body.index("division by zero") < body.rindex("after")


@pytest.mark.parametrize(
    ("options", "code", "mailed"),
    [
        ("--min-duration 10m", "1", True),
        ("--min-duration 10m1s", "1", False),
        ("--min-duration 11m", "1 / 0", False),
        ("--on error", "1", False),
        ("--on error", "1 / 0", True),
        ("--on error", "raise KeyboardInterrupt", True),
        ("--on success", "1", True),
        ("--on success", "1 / 0", False),
        ("--on success", "raise KeyboardInterrupt", False),
        ("--on always", "1 / 0", True),
        ("--on error", "import sys; sys.exit(0)", False),
    ],
)
@pytest.mark.filterwarnings("ignore:To exit")
def test_slow_fast_failed_and_finished_cells_are_mailed_as_asked(
    shell, sandbox, clock, options, code, mailed
):
    cell(shell, code, f"{TO} {options}")
    assert len(sandbox.messages) == mailed
    assert not hooked()


def test_options_are_the_mails_and_filled_when_the_cell_is_done(shell, sandbox, tmp_path):
    options = (
        f"{TO} --cc bob@example.com --bcc eve@example.com --from me@example.com --importance high "
        f'--subject "{{{{ n }}}} rows" --attach out.csv --attach missing.csv --attach-root {tmp_path}'
    )
    cell(
        shell,
        f"n = 3\nfrom pathlib import Path\nn_bytes = Path({str(tmp_path)!r}, 'out.csv').write_text('a')",
        options,
    )
    found = mail(sandbox)
    assert found.header("subject") == "3 rows"
    assert found.recipients == ("ann@example.com", "bob@example.com", "eve@example.com")
    assert (found.header("importance"), found.sender) == ("high", "me@example.com")
    assert [p.get_filename() for p in found.email.iter_attachments()] == ["out.csv"]
    assert "missing.csv" in text(sandbox)


def test_a_subject_that_cannot_be_filled_in_does_not_keep_the_mail_back(shell, sandbox):
    cell(shell, "1 / 0", f"{TO} --subject '{{{{ score }}}}'")
    assert mail(sandbox).header("subject").startswith("Cell failed: ZeroDivisionError")
    assert "score" in text(sandbox)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("%email_output", "--to"),
        ("%email_output --too ann@example.com", "--to"),
        ("%email_output --to a@", "a@"),
        ("%email_output --to '{{ a'", "syntax"),
        ("%email_output --to ann@example.com --min-duration soon", "10m"),
        ("%email_output --to ann@example.com --on weekends", "weekends"),
        ("%email_output --to ann@example.com --via nowhere-known", "nowhere-known"),
        ("%email_output --to ann@example.com --password x", "SMTP_NOTEBOOK_PASSWORD"),
        ("%email_output on", "off"),
    ],
)
def test_a_mistake_is_said_before_the_work_begins(shell, sandbox, line, word):
    result = shell.run_cell(f"{line}\nran = True")
    assert isinstance(result.error_in_exec, MailError)
    assert word in str(result.error_in_exec)
    assert "ran" not in shell.user_ns
    assert sandbox.messages == ()
    assert not hooked()


def test_only_what_follows_the_magic_is_mailed(shell, sandbox):
    shell.run_cell(f"print('before')\n{TO}\nprint('after')")
    assert "after" in text(sandbox)
    assert "before" not in text(sandbox)


def test_two_on_one_cell_are_two_mails_and_off_is_none(shell, sandbox):
    shell.run_cell(f"{TO}\nprint('one')\n{TO} --subject second\nprint('two')")
    first, second = sandbox.messages
    assert ("one" in first.body("plain"), "one" in second.body("plain")) == (True, False)
    assert "two" in first.body("plain")
    assert "two" in second.body("plain")
    shell.run_cell(f"{TO}\nprint('x')\n%email_output off\n1 / 0")
    assert len(sandbox.messages) == 2
    assert not hooked()


def test_unloading_the_extension_within_the_cell_mails_nothing(shell, sandbox):
    cell(shell, "%unload_ext smtp_notebook")
    assert not hooked()
    assert sandbox.messages == ()
    shell.run_line_magic("load_ext", "smtp_notebook")


def test_a_cell_run_inside_the_cell_does_not_end_it(shell, sandbox):
    cell(shell, "_ = get_ipython().run_cell('print(\"inner\")')\nprint('outer')")
    assert re.findall("inner|outer", text(sandbox)) == ["inner", "outer"]


def test_what_a_capture_holds_back_is_not_mailed(shell, sandbox):
    code = "from IPython.utils.capture import capture_output\nwith capture_output(): print('kept')\nprint('shown')"
    cell(shell, code)
    assert "shown" in text(sandbox)
    assert "kept" not in text(sandbox)


def test_a_captured_cell_is_mailed_all_the_same(shell, sandbox):
    shell.run_cell(f"%%capture held\n{TO}\nprint('heard')\ndisplay({{'text/plain': 'shown'}}, raw=True)")
    held = shell.user_ns["held"]
    assert held.stdout.startswith("heard\n")
    assert held.outputs[0].data == {"text/plain": "shown"}
    assert re.findall("heard|shown", text(sandbox)) == ["heard", "shown"]
    assert not hooked()


def test_a_display_is_mailed_in_its_last_state(shell, sandbox):
    code = "h = display('one', display_id=True)\nprint('between')\nh.update('two')\nh.update('three')"
    cell(shell, code)
    assert re.findall("one|two|three|between", text(sandbox)) == ["three", "between"]


def test_what_mail_cannot_show_is_named_in_a_line(shell, sandbox):
    code = """
import ipywidgets
display(ipywidgets.IntSlider(value=7))
display({"application/vnd.plotly.v1+json": {}, "text/html": "<div></div>", "text/plain": "Figure({})"}, raw=True)
display({"text/html": "<script>1</script>", "text/plain": "<Map>"}, raw=True)
display({"image/svg+xml": "<svg/>", "text/plain": "<Drawing>"}, raw=True)
display({"text/html": "<p>a\\x00b\\ud800c</p>", "text/plain": "ab"}, raw=True)
display({"image/png": "!!!", "text/plain": "<Broken>"}, raw=True)
display({"text/html": "<img src='cid:nowhere'>", "text/plain": "<Dangling>"}, raw=True)
print("end")
"""
    cell(shell, code)
    body = text(sandbox)
    for name in ("IntSlider(value=7", "Figure({})", "Map", "Drawing", "Broken", "Dangling", "end"):
        assert name in body, name


def test_a_drawing_and_a_chart_that_have_nothing_else_are_drawn(shell, sandbox):
    code = """
svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
spec = {"mark": "point", "data": {"values": [{"x": 1}]}, "encoding": {"x": {"field": "x", "type": "quantitative"}}}
spec["$schema"] = "https://vega.github.io/schema/vega-lite/v5.json"
display({"image/svg+xml": svg, "text/plain": "<Drawing>"}, raw=True)
display({"application/vnd.vegalite.v5+json": spec, "text/plain": "<Chart>"}, raw=True)
"""
    cell(shell, code)
    assert [image[:4] for image in images(sandbox)] == [b"\x89PNG"] * 2
    assert "[Drawing]\n\n[Chart]" in text(sandbox)


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("for i in range(101): print(f'\\r{i}% ', end='', file=sys.stderr)", ["100%"]),
        ("from tqdm import tqdm\nfor i in tqdm(range(50), ascii=True, ncols=20): pass", [r"100%.* 50/50 .*"]),
        ("print('\\x1b[1;31mred\\x1b[0m \\x1b]8;;http://x\\x07link\\x1b]8;;\\x07')", ["red link"]),
        ("print('a\\x00b\\x07c\\ud800')", ["a\ufffdbc\ufffd"]),
        ("print('abc\\rX'); print('12\\b3')", ["Xbc", "13"]),
        ("print(bytes(range(256)).decode('latin-1'))", None),
    ],
)
def test_text_is_mailed_as_a_terminal_would_show_it(shell, sandbox, monkeypatch, code, lines):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    cell(shell, f"import sys\n{code}")
    found = [line for line in text(sandbox).splitlines() if line][2:]
    assert lines is None or len(found) == len(lines)
    for line, wanted in zip(found, lines or (), strict=False):
        assert re.fullmatch(wanted, line), found


def test_a_server_that_is_down_costs_one_line_and_nothing_else(shell, sandbox, capsys):
    result = cell(shell, "print('out')\n5", f"{TO} --from me@example.com --via smtp+plain://127.0.0.1:1")
    shown = capsys.readouterr()
    assert (result.result, result.success) == (5, True)
    (line,) = shown.err.strip().splitlines()
    assert line.startswith("The mail about this cell was not sent: ")
    assert "Traceback" not in shown.out
    failed = cell(shell, "1 / 0", f"{TO} --from me@example.com --via smtp+plain://127.0.0.1:1")
    assert isinstance(failed.error_in_exec, ZeroDivisionError)
    assert not hooked()


def test_even_a_bug_in_the_mail_costs_one_line(shell, sandbox, capsys, monkeypatch):
    def broken(*_):
        msg = "bug"
        raise RuntimeError(msg)

    monkeypatch.setattr(outputs, "letter", broken)
    assert cell(shell, "5").result == 5
    assert "RuntimeError: bug" in capsys.readouterr().err


def test_threads_of_a_cell_are_heard(shell, sandbox):
    code = "import threading\nt = threading.Thread(target=print, args=('threaded',)); t.start(); t.join()"
    cell(shell, code)
    assert "threaded" in text(sandbox)


def test_a_cell_that_awaits_is_mailed_when_it_is_done(shell, sandbox):
    code = (
        "import asyncio\nprint('one')\nawait asyncio.sleep(0)\nprint('two')\nawait asyncio.sleep(0, 'value')"
    )
    assert cell(shell, code).success
    assert re.findall("one|two|value", text(sandbox)) == ["one", "two", "value"]


def test_the_notebooks_name_stands_in_the_mail(shell, sandbox, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "work/report.ipynb")
    cell(shell, "1")
    assert "report.ipynb, cell [" in text(sandbox)


def test_options_of_email_output_are_completed_on_any_line(shell):
    for code, wanted in ((f"x = 1\n{TO} --min", {"--min-duration"}), (f"{TO} --on su", {"success"})):
        with provisionalcompleter():
            assert {c.text for c in shell.Completer.completions(code, len(code))} == wanted


# -------------------------------------------------------------------------------------------- bounds


def test_huge_output_is_counted_and_its_end_mailed(shell, sandbox, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    sys.stdout.write = len  # keep nothing here
    cell(shell, "for i in range(200_000): print(f'line {i}')\nprint('x' * 300_000)\nprint('end')")
    body = text(sandbox)
    assert len(body) < MAX_CHARACTERS + 2000
    assert body.rstrip().endswith("x\nend")
    assert re.search(r"… 200,000 lines left out", body)


@pytest.mark.parametrize("size", [10, 10_000, 1_000_000])
def test_memory_is_bounded_however_much_is_printed_at_once(size):
    screen = Screen()
    text = ("y" * 79 + "\n") * (size // 80 + 1)
    for _ in range(20_000_000 // len(text) if size > 10 else 1000):
        screen.write(text)
        assert screen._size + sum(map(len, screen._rows)) < 8 * MAX_CHARACTERS + 65_536
    lines = screen.lines()
    assert len(lines) <= MAX_LINES
    assert set(lines) == {"y" * 79}
    assert screen.lost + len(lines) == (20_000_000 // len(text) if size > 10 else 1000) * (size // 80 + 1)


def test_ten_thousand_displays_are_counted_and_the_newest_mailed(shell, sandbox, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    code = "for i in range(10_000): print(f'p{i}'); display({'text/plain': f'd{i}'}, raw=True)"
    cell(shell, code)
    body = text(sandbox)
    assert "… 9,950 displays left out" in body
    assert re.findall(r"\bd\d+", body)[0] == "d9950"
    assert re.findall(r"\b[pd]\d+", body)[-4:] == ["p9998", "d9998", "p9999", "d9999"]
    kept = len(re.findall(r"\bp\d+", body))
    assert f"… {10_000 - kept:,} lines left out" in body


def test_displays_are_bounded_in_size_and_a_giant_is_named(shell, sandbox, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    code = """
for i in range(12): display({"text/html": f"<b>h{i}</b>" + " " * 1_000_000, "text/plain": "H"}, raw=True)
display({"text/html": "<b>giant</b>" + " " * 6_000_000, "text/plain": "a giant"}, raw=True)
"""
    cell(shell, code)
    body = text(sandbox)
    assert "… 4 displays left out" in body
    assert "too large (5.7 MB): a giant" in body
    assert re.findall(r"h\d+", body) == [f"h{i}" for i in range(4, 12)]


def test_a_recording_that_is_cleared_has_what_came_after():
    found = Recording()
    found.printed("stdout", "old\n")
    found.clear(wait=True)
    assert found.take()
    found.shown({"text/plain": "new"})
    (piece,) = found.take()
    assert piece.data == {"text/plain": "new"}
    found.clear()
    assert not found.take()


def test_streams_are_kept_apart_and_in_order():
    found = Recording()
    for i in range(1000):
        found.printed("stdout", f"o{i}\n")
        found.printed("stderr", f"e{i}\n")
    pieces = found.take()
    assert [p.stream for p in pieces[:2]] == ["stdout", "stderr"]
    assert len(pieces) <= recorder._MAX_STREAMS
    assert pieces[-1].lines == ("e999",)
    assert sum(p.lost + len(p.lines) for p in pieces) == 2000


# ------------------------------------------------------------------------------------------- screens


@given(st.lists(st.text(alphabet="ab\n\r\b\t\x1b[;0123KJABCDGmh]\x07\\\0\ud800é", max_size=40), max_size=12))
def test_a_screen_takes_anything_in_any_pieces(pieces):
    whole = plain("".join(pieces))
    screen = Screen()
    for piece in pieces:
        screen.write(piece)
        screen.lines()
    # A sequence that never ends is shown or held back; all else does not depend on where pieces end.
    assert screen.lines() == whole
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\n]", "".join(whole))


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["C"]), max_size=30), max_size=40))
def test_plain_text_comes_out_as_it_went_in(lines):
    wanted = [line.rstrip() for line in lines]
    while wanted and not wanted[-1]:
        wanted.pop()
    assert plain("\n".join(lines)) == wanted


@given(st.integers(1, 200), st.lists(st.text(alphabet="ab ", max_size=90), max_size=60))
def test_a_screen_is_bounded_and_counts_what_it_lost(most, lines):
    screen = Screen(most)
    for line in lines:
        screen.write(f"{line}|\n")
        screen.lines()
    kept = screen.lines()
    assert sum(map(len, kept)) <= most + 1
    assert screen.lost + len(kept) == len(lines) or not kept
    assert all(k == f"{w}|" or k.startswith("…") for k, w in zip(kept[::-1], lines[::-1], strict=False))


# --------------------------------------------------------------------------------- blocks, functions


def test_a_block_is_mailed_in_plain_python_too(sandbox, capsys):
    connect(sandbox)
    with email_output(to="ann@example.com", subject="{{ as it is }}"):
        print("out <b>")
        print("err", file=sys.stderr)
    assert mail(sandbox).header("subject") == "{{ as it is }}"
    assert "✓ Block finished in 0.0 s\n\nout <b>\n\nerr" in text(sandbox)
    assert capsys.readouterr() == ("out <b>\n", "err\n")
    assert not hasattr(vars(sys.stdout).get("write"), "_smtp_notebook_tap")


def test_a_function_is_mailed_with_what_it_returned(sandbox, clock):
    connect(sandbox)

    @email_output(to="ann@example.com")
    def train(rows, *, depth):
        """Train."""
        print(rows)
        return {"<score>": depth}

    assert train(5, depth=2) == {"<score>": 2}
    assert train.__doc__ == "Train."
    assert mail(sandbox).header("subject") == "train finished in 10 min"
    assert text(sandbox).split() == ["✓", "train", "finished", "in", "10", "min", "5", "{'<score>':", "2}"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(2)])
def test_an_exception_of_a_block_goes_on_as_it_is(sandbox, error):
    connect(sandbox)
    with pytest.raises(type(error)) as caught, email_output(to="ann@example.com"):
        raise error
    assert caught.value is error
    word = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    assert word in mail(sandbox).header("subject")
    assert "raise error" in text(sandbox)


def test_a_block_whose_mail_fails_raises_what_it_raised(capsys):
    down = {"via": "smtp+plain://127.0.0.1:1", "from_": "me@example.com"}
    with pytest.raises(ZeroDivisionError), email_output(to="ann@example.com", **down):
        1 / 0  # noqa: B018
    with email_output(to="ann@example.com", **down):
        pass
    assert capsys.readouterr().err.count("The mail about this block was not sent: ") == 2


def test_coroutines_and_async_blocks_hear_their_own_task_alone(sandbox):
    connect(sandbox)

    @email_output(to="ann@example.com", subject="a")
    async def work():
        for i in range(3):
            print(f"mine{i}")
            await asyncio.sleep(0)
        await asyncio.to_thread(print, "thread of mine")
        return "done"

    async def other():
        for _ in range(3):
            print("other")
            await asyncio.sleep(0)

    async def both():
        async with email_output(to="ann@example.com", subject="b"):
            results = await asyncio.gather(work(), asyncio.create_task(other()))
        return results[0]

    async def apart():
        task = asyncio.create_task(other())
        async with email_output(to="ann@example.com", subject="c"):
            print("c")
            await asyncio.sleep(0)
        await task

    assert asyncio.run(both()) == "done"
    asyncio.run(apart())
    found = {m.header("subject"): m.body("plain") for m in sandbox.messages}
    assert re.findall(r"mine\d|thread of mine|other|'done'", found["a"]) == [
        "mine0", "mine1", "mine2", "thread of mine", "'done'",
    ]  # fmt: skip
    assert "other" in found["b"]
    assert "mine2" in found["b"]
    assert "other" not in found["c"]


def test_a_cancelled_task_is_mailed_as_interrupted(sandbox):
    connect(sandbox)

    async def main():
        async def forever():
            async with email_output(to="ann@example.com"):
                await asyncio.Event().wait()

        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert "interrupted" in mail(sandbox).header("subject")


def test_blocks_of_many_threads_and_nested_ones_each_have_their_own(sandbox):
    connect(sandbox)
    together = threading.Barrier(4)
    shared = email_output(to="ann@example.com")

    def work(number):
        with shared:
            together.wait(10)
            print(f"outer{number}")
            with shared:
                print(f"inner{number}")
            together.wait(10)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted(re.findall(r"(?:inner|outer)\d", m.body("plain")) for m in sandbox.messages)
    assert found == sorted([[f"inner{n}"] for n in range(4)] + [[f"outer{n}", f"inner{n}"] for n in range(4)])
    assert not hasattr(vars(sys.stdout).get("write"), "_smtp_notebook_tap")


def test_hooks_go_in_whatever_order_blocks_end():
    first, second = Recording(), Recording()
    before = vars(sys.stdout).get("write")
    one, two = recorder.listen(first), recorder.listen(second)
    one()
    print("late")
    two()
    two()
    assert vars(sys.stdout).get("write") is before
    assert not first.take()
    assert second.take()[0].lines == ("late",)


@pytest.mark.parametrize(
    "stream", [None, type("Slotted", (), {"__slots__": (), "write": lambda *_: 0, "flush": lambda _: None})()]
)
def test_a_stream_that_lets_nobody_hook_it_is_left_alone(sandbox, monkeypatch, stream):
    connect(sandbox)
    monkeypatch.setattr(sys, "stdout", stream)
    with email_output(to="ann@example.com"):
        print("x")
    assert "finished" in mail(sandbox).header("subject")


def test_a_decorator_at_the_top_of_a_module_names_no_server_yet(sandbox, monkeypatch):
    monkeypatch.setattr("smtp_notebook.servers.default_sandbox", None)

    @email_output(to="ann@example.com")
    def work():
        connect(sandbox)

    work()
    assert mail(sandbox).header("subject").startswith("work finished")


def test_in_a_shell_a_block_has_its_displays_too(shell, sandbox):
    code = """
from smtp_notebook import email_output
display(Markdown("before"))
with email_output(to="ann@example.com"):
    display(Markdown("within"))
display(Markdown("after"))
"""
    shell.user_ns |= {"Markdown": Markdown, "display": display}
    shell.run_cell(code)
    assert re.findall("before|within|after", text(sandbox)) == ["within"]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (email_output, "to="),
        (lambda: email_output(to="a@"), "a@"),
        (lambda: email_output(to="ann@example.com", subjct="x"), "'subject'"),
        (lambda: email_output(to="ann@example.com", body="x"), "body"),
        (lambda: email_output(to="ann@example.com", on="never"), "never"),
        (lambda: email_output(to="ann@example.com", min_duration=-1), "min_duration"),
        (email_output(to="ann@example.com", via="nowhere-known").__enter__, "nowhere-known"),
        (lambda: email_output(lambda: None), "@email_output(to="),
        (lambda: email_output(to="ann@example.com")(lambda: (yield)), "yields"),
        (lambda: email_output(to="ann@example.com")(dict), "function"),
    ],
)
def test_a_mistake_in_python_is_said_at_once(make, word):
    with pytest.raises(MailError, match=re.escape(word)):
        make()


# ----------------------------------------------------------------------------------------- decisions


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("10 min", 600),
        ("1h30m", 5400),
        ("2H", 7200),
        ("1.5h", 5400),
        (3, 3),
        ("1h 1m 1s", 3661),
    ],
)
def test_durations_are_read(duration, seconds):
    assert seconds_of(duration) == seconds


@pytest.mark.parametrize(
    "duration",
    ["", "10", "m", "-1s", "1s1h", "1d", "1e3s", float("nan"), float("inf"), True, None, "9" * 400 + "s"],
)
def test_what_is_no_duration_is_refused(duration):
    with pytest.raises(OptionError, match="10m"):
        seconds_of(duration)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_every_duration_reads_back(hours, minutes, seconds):
    assert seconds_of(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (3.24, "3.2 s"),
        (45.4, "45 s"),
        (119, "119 s"),
        (720, "12 min"),
        (7500, "2 h 5 min"),
        (90000, "25 h 0 min"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds, words):
    assert spoken(seconds) == words


@pytest.mark.parametrize(
    ("error", "on", "due"),
    [
        (None, "success", True),
        (None, "error", False),
        (SystemExit(0), "success", True),
        (SystemExit(1), "success", False),
        (asyncio.CancelledError(), "error", True),
        (ValueError(), "always", True),
    ],
)
def test_who_is_mailed_is_decided_by_how_it_ended(error, on, due):
    assert is_due(Ended(what="Cell", seconds=5, error=error), on, 0) is due
    assert not is_due(Ended(what="Cell", seconds=5, error=error), on, 5.1)


# ------------------------------------------------------------------------------------- a live kernel


class Kernel:
    """A live IPython kernel that mails to a sandbox of this process."""

    def __init__(self, manager, client):
        self.manager, self.client = manager, client

    def run(self, code, hook=None, timeout=60):
        """Run a cell and return its outputs as messages, neighbouring texts of one stream joined."""
        found = []

        def note(message):
            kind, content = message["msg_type"], message["content"]
            if kind == "status":
                return
            if kind == "stream" and found and found[-1][:2] == (kind, content["name"]):
                found[-1] = (kind, content["name"], found[-1][2] + content["text"])
            elif kind == "stream":
                found.append((kind, content["name"], content["text"]))
            elif kind in {"display_data", "execute_result", "update_display_data"}:
                found.append((kind, content["data"]))
            elif kind == "error":
                found.append((kind, content["ename"]))
            elif kind == "clear_output":
                found.append((kind, content["wait"]))
            if hook is not None:
                hook(found)

        reply = self.client.execute_interactive(code, timeout=timeout, output_hook=note, allow_stdin=False)
        return [*found, reply["content"]["status"]]

    def interrupt(self):
        import os

        os.kill(self.manager.provisioner.pid, signal.SIGINT)


@pytest.fixture(scope="module")
def running():
    manager, client = start_new_kernel(kernel_name="python3")
    yield Kernel(manager, client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(running, sandbox):
    address = f"smtp+plain://127.0.0.1:{sandbox.connection.port}"
    setup = (
        "%reload_ext smtp_notebook\nimport smtp_notebook\n"
        f"_ = smtp_notebook.connect({address!r}, sender='me@example.com')"
    )
    assert running.run(setup) == ["ok"]
    return running


WORK = f"""
import sys, os, threading, asyncio, logging
from IPython.display import display, Markdown, clear_output
%matplotlib inline
import matplotlib.pyplot as plt
print("wiped"); clear_output()
print("out", flush=True)
print("err", file=sys.stderr)
handle = display("state one", display_id=True)
display({{"image/png": {DOT!r}, "text/plain": "<Dot>"}}, raw=True)
handle.update("state two")
thread = threading.Thread(target=print, args=("from a thread",)); thread.start(); thread.join()
sys.stdout.flush()
assert not sys.stdout.isatty() and type(sys.stdout).__name__ == "OutStream"
_ = plt.plot([1, 2])
display(Markdown("*md*"))
{{"answer": 42}}
"""


@pytest.mark.notebook
@pytest.mark.parametrize("awaits", [False, True])
def test_a_kernels_messages_are_the_same_with_the_magic(kernel, sandbox, awaits):
    work = WORK + ("\nawait asyncio.sleep(0, 'awaited')" if awaits else "")
    without = kernel.run(work)
    shown = kernel.run(f"{TO}\n{work}")
    assert without[-1] == "ok"
    assert len(without) > 8
    images_apart = [[m if "image/png" not in str(m) else m[0] for m in found] for found in (shown, without)]
    plain_apart = [re.sub("0x[0-9a-f]+", "", str(found)) for found in images_apart]
    assert plain_apart[0] == plain_apart[1]
    body = text(sandbox)
    wanted = [
        "out",
        "err",
        "state two",
        "[Dot]",
        "from a thread",
        "md",
        "'awaited'" if awaits else "{'answer': 42}",
    ]
    places = [body.index(word) for word in wanted]
    assert places == sorted(places), body
    assert "wiped" not in body
    assert "state one" not in body
    assert len(images(sandbox)) == 2, "a figure that nobody showed comes at the cell's end"
    unhooked = "vars(sys.stdout).get('write'), vars(get_ipython().display_pub).get('publish')"
    assert "tap" not in str(kernel.run(f"print([getattr(f, '__qualname__', '') for f in ({unhooked})])"))


@pytest.mark.notebook
def test_what_earlier_cells_tasks_print_meanwhile_is_not_this_cells(kernel, sandbox):
    kernel.run("""
import asyncio
async def chat():
    while True:
        print("chatter"); await asyncio.sleep(0)
task = asyncio.get_running_loop().create_task(chat())
""")
    shown = kernel.run(f"{TO}\nfor _ in range(20): await asyncio.sleep(0)\nprint('mine')\n_ = task.cancel()")
    body = text(sandbox)
    assert "mine" in body
    assert ("chatter" in body) == ("chatter" in str(shown)), "the mail has what the cell shows"
    assert "chatter" not in body


@pytest.mark.notebook
@pytest.mark.parametrize("call", ["threading.Event().wait(60)", "await ticking(asyncio.Event().wait())"])
def test_an_interrupt_is_mailed_and_stays_one(kernel, sandbox, call):
    sent = []

    def interrupt(found):
        if "ready" in str(found) and not sent:
            sent.append(True)
            kernel.interrupt()

    imports = "import asyncio, threading\nfrom smtp_notebook._sync import ticking"
    code = f"{TO}\n{imports}\nprint('ready', flush=True)\n{call}"
    shown = kernel.run(code, interrupt)
    assert shown[-1] == "error"
    assert shown[-2][1] in {"KeyboardInterrupt", "CancelledError"}
    assert mail(sandbox).header("subject").startswith("Cell interrupted after ")
    assert "ready" in text(sandbox)
    assert shown[-2][1] in text(sandbox)


@pytest.mark.notebook
def test_an_error_in_a_kernel_is_mailed_as_the_notebook_shows_it(kernel, sandbox):
    shown = kernel.run(f"{TO}\nimport os\nos.system('echo from a child')\nraise ValueError('bad')")
    assert shown[-2:] == [("error", "ValueError"), "error"]
    body = text(sandbox)
    assert re.search(r"-+> \d+ raise ValueError\('bad'\)", body)
    assert body.rstrip().endswith("ValueError: bad")
    assert "\x1b" not in body


@pytest.mark.notebook
def test_a_server_that_is_down_leaves_the_cell_as_it_is(kernel, sandbox):
    kernel.run("_ = smtp_notebook.connect('smtp+plain://127.0.0.1:1', sender='me@example.com', attempts=1)")
    shown = kernel.run(f"{TO}\nprint('out')\n5")
    assert shown[-1] == "ok"
    assert [m[0] for m in shown[:-1]] == ["stream", "execute_result", "stream"]
    assert shown[2][2].startswith("The mail about this cell was not sent: ")
    assert shown[2][2].count("\n") == 1
