"""A notebook as the mail itself: what is shown, what is run, and that no row is run or mailed twice."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re

import nbformat
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from smtp_notebook import (
    AttachmentError,
    MailError,
    MergeRefusedError,
    MessageError,
    OptionError,
    PreflightError,
    State,
    asend_notebook,
    connect,
    pages,
    preflight,
    send_notebook,
)
from smtp_notebook.books import plain_cells
from smtp_notebook.pages import Book
from smtp_notebook.runs import Plan, with_parameters

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
ANN = "ann@example.com"


def code(source, *outputs, tags=(), count=1):
    metadata = {"tags": list(tags)} if tags else {}
    return new_code_cell(source, outputs=list(outputs), execution_count=count, metadata=metadata)


def fresh(source, tags=()):
    return code(source, tags=tags, count=None)


def printed(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def shown(data, **metadata):
    return new_output("display_data", data=data, metadata=metadata)


def failed(name="ValueError", value="bad", lines=("Traceback", "ValueError: bad")):
    return new_output("error", ename=name, evalue=value, traceback=list(lines))


def book(*cells):
    return new_notebook(cells=list(cells))


def saved(folder, *cells, name="report.ipynb"):
    path = folder / name
    nbformat.write(book(*cells), path)
    return path


def sent(sandbox, notebook, **options):
    """Send a notebook without the file beside it, and return the mail that arrived."""
    send_notebook(notebook, ANN, via=sandbox, **({"attach": None} | options))
    return sandbox.messages[-1]


def plain(mail):
    return mail.body("plain").replace("\r\n", "\n")


def images(mail):
    """Return the images that the HTML shows, each of which has to be there, and nothing else inline."""
    parts = {cid: content for _, _, content, cid in mail.files() if cid}
    found = re.findall(r'src="cid:([^"]+)"', mail.body("html"))
    assert set(found) == set(parts)
    return [parts[cid] for cid in found]


def counting(sandbox):
    """A connection to the sandbox that counts what is sent, as a real server's does."""
    return sandbox.connection.with_(sandbox=False, practice=False)


# ------------------------------------------------------------------------------------- what is shown


def test_a_mail_has_the_notebooks_text_and_outputs_in_order_and_no_code(sandbox):
    notebook = book(
        new_markdown_cell("Before\n\n# Sales *in* `May` #\n\nHard\nwrapped, **bold** <u>under</u> $5 or $6."),
        code(
            "secret = 1",
            printed("first <b>\n"),
            shown({"image/png": DOT, "text/plain": "<Figure 1>"}),
            printed("\r10%\r100%\n", "stderr"),
            shown({"text/html": "<table><tr><td onclick=x()>cell</td></tr></table><script>js</script>"}),
            shown({"application/vnd.jupyter.widget-view+json": {}, "text/plain": "IntSlider(value=7)"}),
        ),
        new_markdown_cell("The end<script>alert(1)</script>."),
    )
    mail = sent(sandbox, notebook)
    assert mail.header("subject") == "Sales in May"
    assert mail.recipients == (ANN,)
    lines = [line.strip() for line in plain(mail).splitlines() if line]
    assert lines[-6:] == [
        "first <b>",
        "[Figure 1]",
        "100%",
        "cell",
        "Not shown, because mail programs cannot: IntSlider(value=7)",
        "The end.",
    ]
    html = mail.body("html").replace("\r\n", "\n")
    assert [c.startswith(b"\x89PNG") for c in images(mail)] == [True]
    assert "Hard\nwrapped, <strong>bold</strong> <u>under</u> $5 or $6." in html
    assert not re.search(r"<script|onclick|alert|secret|js", html + plain(mail))
    kinds = [part.get_content_type() for part in mail.email.walk()]
    assert kinds == [
        "multipart/alternative",
        "text/plain",
        "multipart/related",
        "text/html",
        "image/png",
    ]


def test_code_is_shown_above_its_outputs_when_asked_for(sandbox):
    mail = sent(sandbox, book(code("x = '<'\nprint(x)", printed("<\n"))), code=True)
    assert "x = &#x27;&lt;&#x27;" in mail.body("html")
    assert plain(mail) == "    x = '<'\n    print(x)\n\n<\n"


@pytest.mark.parametrize(
    ("tag", "has_code", "has_output"),
    [
        ("other", True, True),
        ("remove-cell", False, False),
        ("remove_cell", False, False),
        ("hide-cell", False, False),
        ("remove-input", False, True),
        ("hide-input", False, True),
        ("remove-output", True, False),
        ("hide-output", True, False),
    ],
)
def test_tags_are_honoured_in_the_mail_and_in_the_html_file(sandbox, tag, has_code, has_output):
    notebook = book(new_markdown_cell("Text"), code("'so' + 'urce'", printed("shown\n"), tags=[tag]))
    mail = sent(sandbox, notebook, code=True, attach="html")
    page = re.sub(r"<[^>]+>", "", mail.files()[0][2].decode())
    assert ("'so' + 'urce'" in plain(mail), "shown" in plain(mail)) == (has_code, has_output)
    assert ("'so' + 'urce'" in page.replace("&#39;", "'"), "\nshown\n" in page) == (has_code, has_output)


def test_an_output_of_its_own_and_a_hidden_text_cell_can_be_tagged_too(sandbox):
    hidden = new_markdown_cell("# Secret", metadata={"tags": ["remove-cell"]})
    one, two = printed("one\n"), shown({"text/plain": "two"}, tags=["remove-output"])
    mail = sent(sandbox, book(hidden, new_markdown_cell("## Title"), code("", one, two)))
    assert mail.header("subject") == "Title"
    assert plain(mail) == "## Title\n\none\n"


def test_an_error_is_shown_by_the_end_of_its_traceback(sandbox):
    lines = [f"line {n} \x1b[31mred\x1b[0m" for n in range(100)]
    mail = sent(sandbox, book(code("x", failed(lines=lines)), code("y", failed(lines=()))))
    body = plain(mail)
    assert "line 99 red" in body
    assert "line 69 " not in body
    assert "70 lines left out" in body
    assert "ValueError: bad" in body
    assert "\x1b" not in body


def test_what_is_printed_and_shown_is_bounded_and_what_is_left_out_counted(sandbox):
    cells = [
        code("a", printed("".join(f"line {n}\n" for n in range(600)))),
        code("b", *[shown({"text/plain": f"display {n}."}) for n in range(60)]),
        code("c", printed("last\n"), shown({"text/html": "x" * (6 * 2**20), "text/plain": "<Huge>"})),
    ]
    body = plain(sent(sandbox, book(*cells)))
    assert body.startswith("… 101 lines left out\n\nline 101\n")
    assert "… 11 displays left out" in body
    assert ("display 10." in body, "display 11." in body) == (False, True)
    assert "Left out, because it is too large (6.0 MB): Huge" in body


def test_images_beside_the_notebook_and_inside_it_travel_and_others_are_named_or_linked(sandbox, tmp_path):
    folder = tmp_path / "reports"
    (folder / "img").mkdir(parents=True)
    (folder / "img" / "a b.png").write_bytes(base64.b64decode(DOT))
    (folder / "drawn.svg").write_text(SVG)
    (folder / "notes.png").write_text("no image at all")
    (tmp_path / "outside.png").write_bytes(base64.b64decode(DOT) + b"outside")
    source = """
![dot](attachment:dot.png) ![beside](img/a%20b.png) ![drawn](drawn.svg)
<img src="img/a b.png" width="50%" alt="raw" onerror="x()">
![web](https://example.com/pixel.gif) [![badge](https://example.com/b.svg)](https://example.com/)
![gone](gone.png) ![out](../outside.png) ![text](notes.png) ![lost](attachment:lost.png) ![odd](file:///etc/passwd)
[other](other.ipynb) [here](#part) [mail](mailto:me@example.com)
"""
    attachments = {"dot.png": {"image/png": DOT}}
    html_output = shown({"text/html": '<p><img src="img/a b.png"></p>', "text/plain": "x"})
    path = saved(folder, new_markdown_cell(source, attachments=attachments), code("", html_output))
    mail = sent(sandbox, path)
    html = mail.body("html")
    assert len(images(mail)) == 5
    assert not [c for c in images(mail) if b"outside" in c]
    assert 'width="284"' in html
    assert re.findall(r'<a href="([^"]*)"[^>]*>([^<]*)</a>', html) == [
        ("https://example.com/pixel.gif", "web"),
        ("https://example.com/", "badge"),
        ("mailto:me@example.com", "mail"),
    ]
    assert '<img src="http' not in html
    assert not re.search(r"onerror|other\.ipynb|file:///etc/passwd\"", html)
    for name in ("gone", "out", "text", "lost", "odd"):
        assert f"Image not shown: {name} (" in html


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("$a_1$ and $$b_2$$", 2),
        ("$5 and $10, or US$5-$10", 0),
        (r"\$a\$ and `$b$`", 0),
        ("```\n$a$\n```\n$c$", 1),
        (r"\begin{align}a_1 &= b\end{align}", 1),
        ("[x](https://example.com/?a=$b$)", 1),
        ("none", 0),
    ],
)
def test_a_formula_is_told_from_a_price_and_comes_back_where_it_cannot_be_drawn(text, formulas):
    math = pages._Math(text)
    assert len(math._found) == formulas
    assert math.restored(math.text) == text


def test_a_formula_is_an_image_with_its_source_as_text(sandbox):
    mail = sent(sandbox, book(new_markdown_cell("So $a_1 + b_1$ and [l](https://example.com/$a$).")))
    assert re.findall('alt="([^"]*)"', mail.body("html")) == ["a_1 + b_1"]
    assert 'href="https://example.com/$a$"' in mail.body("html")
    assert plain(mail).startswith("So $a_1 + b_1$ and")


MARKUP = st.lists(
    st.sampled_from(
        [
            "<",
            ">",
            "</div>",
            "</p>",
            "<b>",
            "![x](",
            "](",
            ")",
            "$",
            "$$",
            "`",
            "\n",
            "\n\n",
            "|",
            "-|-",
            "<script>",
            "</script>",
            "<img src=",
            '"',
            "onerror=x ",
            "javascript:x",
            "data:image/png;base64,",
            "<a href=",
            "<!--",
            "-->",
            "\x00",
            "é",
            "a",
            " ",
            "\\begin{a}",
            "\\end{a}",
            "<table>",
            "<style>",
            "#",
            "* ",
        ]
    ),
    max_size=30,
).map("".join)


@given(MARKUP)
def test_no_markdown_breaks_the_letter_or_gets_anything_live_into_it(tmp_path_factory, source):
    made = pages._Images(tmp_path_factory.getbasetemp()).markdown(source, None)
    tags = re.findall(r"<[^>]*>", made.html)
    assert not [t for t in tags if re.match(r"<(script|style|iframe|!--|/body|/html)", t)]
    assert not [t for t in tags if re.search(r"\son\w+=|javascript:", re.sub(r'"[^"]*"', '""', t))]
    assert not [t for t in tags if re.search(r'(?:href|src)="\s*(?:javascript|data):', t)]


def test_braces_of_a_notebook_are_no_template(sandbox):
    cells = [new_markdown_cell("# {{ title }}\n\n{% raw %}"), code("f'{{x}}'", printed("{{ Email }}\n"))]
    mail = sent(sandbox, book(*cells), code=True)
    assert mail.header("subject") == "{{ title }}"
    assert "{{ Email }}" in plain(mail)


def test_a_text_above_a_theme_a_preheader_and_a_footer_are_as_in_any_mail(sandbox):
    mail = sent(
        sandbox,
        book(new_markdown_cell("# Title")),
        body="Dear **all** {{ x }},",
        subject="Mine",
        preheader="Beside {{ y }}",
        unsubscribe=["mailto:off@example.com", "https://example.com/off?a=1"],
        theme="<main>{{ preheader }}|{{ content }}|{{ unsubscribe }}</main>",
    )
    html = mail.body("html")
    assert mail.header("subject") == "Mine"
    assert "<main>Beside {{ y }}|" in html
    assert "<strong>all</strong> {{ x }}," in html
    assert html.index("Dear") < html.index("Title")
    assert "|https://example.com/off?a=1</main>" in html
    assert plain(mail).startswith("Dear **all** {{ x }},\n\n# Title")
    assert "Unsubscribe: https://example.com/off?a=1" in plain(mail)


# ---------------------------------------------------------------------------------------- as a file


def test_the_html_file_needs_no_network_and_has_the_code_only_when_asked_for(sandbox, tmp_path):
    (tmp_path / "dot.png").write_bytes(base64.b64decode(DOT))
    path = saved(
        tmp_path, new_markdown_cell("# T\n\n![x](dot.png) for $5"), code("qwertz = 1", printed("out\n"))
    )
    for asked in (False, True):
        mail = sent(sandbox, path, attach="html", code=asked)
        ((name, kind, content, _),) = [f for f in mail.files() if f[0].endswith(".html")]
        page = content.decode()
        assert (name, kind) == ("report.html", "text/html")
        assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=\"(?!data:)", page)
        assert f"data:image/png;base64,{DOT}" in page
        assert ("qwertz" in page) == asked
        assert "<title>T</title>" in page


def test_the_notebook_itself_is_attached_as_its_file_has_it_beside_other_files(
    sandbox, tmp_path, monkeypatch
):
    path = saved(tmp_path, new_markdown_cell("x"))
    (tmp_path / "more.csv").write_text("a,b")
    monkeypatch.chdir(tmp_path)
    mail = sent(sandbox, path, attach=["ipynb", "more.csv"])
    found = {name: content for name, _, content, _ in mail.files()}
    assert found == {"report.ipynb": path.read_bytes(), "more.csv": b"a,b"}


def test_a_notebook_without_ids_makes_the_same_mail_each_time_so_that_once_skips_it(sandbox, tmp_path):
    data = {"nbformat": 4, "nbformat_minor": 2, "metadata": {}}
    output = {"output_type": "stream", "name": "stdout", "text": ["a\n", "b\n"]}
    cell = {
        "cell_type": "code",
        "metadata": {},
        "source": ["1\n", "2"],
        "outputs": [output],
        "execution_count": 1,
    }
    path = tmp_path / "old.ipynb"
    path.write_text(json.dumps(data | {"cells": [cell, cell]}))
    outcomes = [send_notebook(path, ANN, via=counting(sandbox), once=True) for _ in range(2)]
    assert [o.state for o in outcomes] == [State.SENT, State.SKIPPED]
    assert plain(sandbox.messages[0]) == "a\nb\n\na\nb\n"
    assert sandbox.messages[0].header("subject") == "old"


# --------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, MessageError, "has no outputs.*run=True"),
        ({"parameters": {"a": 1}}, OptionError, "parameters.*run=True"),
        ({"run": True, "parameters": {"a b": 1}}, OptionError, "'a b' is no name"),
        ({"run": True, "parameters": {"a": object()}}, OptionError, "a object cannot"),
        ({"run": True, "kernel": "cobol"}, MessageError, "kernel 'cobol'.*there are: .*python3"),
        ({"run": True, "to": "a@"}, MailError, "to: "),
        ({"run": True, "to": None}, OptionError, "Nobody"),
        ({"run": True, "timeout": 0}, OptionError, "timeout=0"),
        ({"run": True, "on_error": "skip"}, OptionError, "on_error='skip'"),
        ({"run": True, "attach": "no.pdf"}, AttachmentError, "no.pdf"),
        ({"run": True, "format": "html"}, OptionError, "format: "),
        ({"run": True, "body": "<p>x</p>"}, MessageError, "body: "),
        ({"run": True, "subjct": "x"}, OptionError, "'subject'"),
        ({"run": True, "limit": 3}, OptionError, "limit: .*df="),
        ({"run": True, "campaign": "x"}, OptionError, "campaign: .*df="),
        ({"df": [{"Email": ANN}], "once": True}, OptionError, "once: "),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_run(sandbox, tmp_path, options, error, words):
    path = saved(tmp_path, fresh("open('ran', 'w')"))
    with pytest.raises(error, match=words):
        send_notebook(path, via=sandbox, **({"to": ANN} | options))
    assert sandbox.messages == ()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", "{}", '{"nbformat": 4}', '{"nbformat": 4, "cells": 3}']
)
def test_a_file_that_is_no_notebook_is_refused(sandbox, tmp_path, text):
    path = tmp_path / "x.ipynb"
    path.write_text(text)
    with pytest.raises(MessageError, match="is no notebook"):
        send_notebook(path, ANN, via=sandbox)
    with pytest.raises(AttachmentError):
        send_notebook(tmp_path / "y.ipynb", ANN, via=sandbox)


def test_a_notebook_that_is_being_run_does_not_run_itself(sandbox, tmp_path, monkeypatch):
    path = saved(tmp_path, fresh("1"))
    monkeypatch.setenv("SMTP_NOTEBOOK_RUNNING", str(path))
    with pytest.raises(MessageError, match="being run just now"):
        send_notebook(path, ANN, via=sandbox, run=True)


# ------------------------------------------------------------------------------------------ what is run


@pytest.mark.notebook
def test_a_copy_is_run_in_the_notebooks_folder_and_nothing_of_it_appears_here(
    sandbox, tmp_path, capfd, monkeypatch
):
    source = "import os, sys\nprint(os.getcwd())\nprint('x', file=sys.stderr)\nos.write(2, b'raw')\nx = 6"
    path = saved(
        tmp_path,
        new_markdown_cell("# T"),
        fresh(source),
        fresh("open('pid', 'w').write(str(os.getpid()))\nx * 7"),
    )
    before = path.read_bytes()
    monkeypatch.chdir("/")
    connect(sandbox)
    outcome = send_notebook(str(path), ANN, run=True, attach="ipynb")
    assert outcome.state is State.SENT
    (mail,) = sandbox.messages
    assert str(tmp_path) in plain(mail)
    assert "42" in plain(mail)
    assert path.read_bytes() == before
    assert (
        nbformat.reads(mail.files()[0][2].decode(), as_version=4).cells[2].outputs[0].data["text/plain"]
        == "42"
    )
    heard = capfd.readouterr()
    assert not heard.err
    assert not re.search("raw|42", heard.out)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.notebook
def test_a_failing_cell_stops_the_mail_or_is_sent_as_far_as_it_ran(sandbox, tmp_path):
    stale = code("print('never')", printed("stale\n"))
    path = saved(
        tmp_path,
        new_markdown_cell("# T"),
        fresh("print('good')"),
        fresh("# now\n{}['key\\nBcc: x@example.com']"),
        stale,
    )
    with pytest.raises(MessageError) as caught:
        send_notebook(path, ANN, via=sandbox, run=True)
    assert caught.value.cause.startswith("report.ipynb: cell [2] (# now) failed: KeyError: ")
    assert "on_error='send'" in caught.value.fix
    assert sandbox.messages == ()
    mail = sent(sandbox, path, run=True, on_error="send")
    assert re.match(r"T \(failed: KeyError: .*key.*\)$", mail.header("subject"))
    assert mail.recipients == (ANN,)
    body = plain(mail)
    assert body.startswith("✗ cell [2] (# now) failed: KeyError")
    assert body.index("good") < body.index("Traceback")
    assert not re.search("stale|never", body)


@pytest.mark.notebook
def test_a_cell_that_takes_too_long_ends_the_run_and_can_be_sent_too(sandbox, tmp_path):
    path = saved(tmp_path, fresh("print('so far', flush=True)"), fresh("import time; time.sleep(100)"))
    mail = sent(sandbox, path, run=True, timeout=1, on_error="send")
    assert mail.header("subject") == "report (failed: took longer than 1 s)"
    assert "so far" in plain(mail)


@pytest.mark.notebook
def test_an_interrupt_ends_the_kernel_too(sandbox, tmp_path, interruptible):
    source = """
import os, signal, time
open('pid', 'w').write(str(os.getpid()))
os.kill(os.getppid(), signal.SIGINT)
time.sleep(100)
"""
    path = saved(tmp_path, fresh(source))
    with pytest.raises(KeyboardInterrupt):
        send_notebook(path, ANN, via=sandbox, run=True)
    assert sandbox.messages == ()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.notebook
def test_it_can_be_awaited_on_a_running_loop(sandbox, tmp_path):
    path = saved(tmp_path, fresh("print(a + b)"))

    async def main():
        return await asend_notebook(
            path, ANN, via=sandbox, run=True, parameters={"a": 40, "b": 2}, attach=None
        )

    assert asyncio.run(main()).state is State.SENT
    assert plain(sandbox.messages[0]) == "42\n"


# ------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("tags", "order"),
    [
        ([[], [], []], [None, 0, 1, 2]),
        ([[], ["parameters"], []], [0, 1, None, 2]),
        ([["parameters"], ["injected-parameters"], []], [0, None, 2]),
    ],
)
def test_parameters_stand_where_papermill_puts_them(tmp_path, tags, order):
    cells = [fresh(f"c{n}", tags=t) for n, t in enumerate(tags)]
    made = with_parameters(Book(book(*cells), "x", tmp_path), {"a": 'q"\\', "b": [1, None]}).node.cells
    new = next(c for c in made if c.source.startswith("# Parameters"))
    assert [None if c is new else int(c.source[1]) for c in made] == order
    values = {}
    exec(new.source, values)
    assert (values["a"], values["b"]) == ('q"\\', [1, None])


def test_a_language_that_expands_quoted_text_gets_none_with_a_dollar(tmp_path):
    notebook = book(fresh("x"))
    notebook.metadata.kernelspec = {"name": "julia-1.10", "language": "julia", "display_name": "Julia"}
    with pytest.raises(MessageError, match="julia would expand"):
        with_parameters(Book(notebook, "x", tmp_path), {"name": "$(run(`id`))"})


def test_only_plain_cells_under_names_are_parameters():
    row = {
        "Name": "Ann",
        "First Name": "x",
        "class": "x",
        "n": pd.Series([1]).iloc[0],
        "price": 1.5,
        "gone": pd.NA,
        "day": pd.Timestamp("2026-03-01"),
        "figure": object(),
        "sum": 3,
        "max": 4,
    }
    found = plain_cells(row, "max = 0")
    assert found == {
        "Name": "Ann",
        "n": 1,
        "price": 1.5,
        "gone": None,
        "day": "2026-03-01T00:00:00",
        "max": 4,
    }
    assert type(found["n"]) is int


def test_a_plan_is_checked():
    assert Plan(timeout=None).timeout is None
    for wrong in ({"timeout": -1}, {"timeout": "1"}, {"timeout": True}, {"on_error": ""}):
        with pytest.raises(OptionError):
            Plan(**wrong)


# ---------------------------------------------------------------------------------------- one run per row


def leads(*names):
    return pd.DataFrame({"Email": [f"{n}@example.com" for n in names], "Company": [n.upper() for n in names]})


def report(folder):
    """A report that notes each of its runs, and fails for one company."""
    return saved(
        folder,
        new_markdown_cell("# Report"),
        fresh("Company = 'nobody'\nextra = 0", tags=["parameters"]),
        fresh("open('runs', 'a').write(f'{Company}\\n')\nassert Company != 'BAD', 'bad company'"),
        fresh("import secrets\nprint('For', Company, extra, secrets.token_hex(8))"),
    )


def runs(folder):
    return (folder / "runs").read_text().split()


@pytest.mark.notebook
def test_each_row_gets_its_own_report_once_and_a_second_run_sends_and_runs_none(
    sandbox, tmp_path, monkeypatch
):
    monkeypatch.setattr(preflight, "MEMORY_BUDGET", 0)  # every mail is printed again when it is sent
    path = report(tmp_path)
    options = {
        "campaign": "reports",
        "via": counting(sandbox),
        "subject": "For {{ Company }}",
        "body": "Dear {{ Company | lower }},",
        "parameters": {"extra": 7},
        "attach": "html",
        "progress": False,
    }
    done = send_notebook(path, df=leads("a", "b", "c"), **options)
    assert done.counts == {State.SENT: 3}
    assert runs(tmp_path) == ["A", "B", "C"]
    mails = {m.recipients[0]: m for m in sandbox.messages}
    assert len(mails) == len(sandbox.messages) == 3
    for name in "abc":
        mail = mails[f"{name}@example.com"]
        assert mail.header("subject") == f"For {name.upper()}"
        assert re.fullmatch(
            rf"Dear {name},\n\n# Report\n\nFor {name.upper()} 7 ([0-9a-f]{{16}})\n", plain(mail)
        )
        secret = plain(mail).split()[-1]
        assert secret in mail.files()[0][2].decode()
    again = send_notebook(path, df=leads("a", "b", "c"), **options)
    assert again.counts == {State.SKIPPED: 3}
    more = send_notebook(path, df=leads("a", "b", "c", "d"), **options)
    assert more.counts == {State.SKIPPED: 3, State.SENT: 1}
    assert runs(tmp_path) == ["A", "B", "C", "D"]
    assert len(sandbox.messages) == 4
    nbformat.write(book(fresh("other")), path)
    with pytest.raises(MergeRefusedError, match="template is another"):
        send_notebook(path, df=leads("a", "e"), **options)


@pytest.mark.notebook
def test_a_run_that_fails_is_its_rows_problem_and_is_not_repeated(sandbox, tmp_path):
    path = report(tmp_path)
    with pytest.raises(PreflightError) as caught:
        send_notebook(path, df=leads("a", "bad"), via=sandbox, attach=None)
    assert "AssertionError: bad company" in caught.value.report.failures[0].reason
    assert runs(tmp_path) == ["A", "BAD"]
    done = send_notebook(path, df=leads("bad", "b"), via=sandbox, attach=None, on_problem="skip")
    assert done.counts == {State.INVALID: 1, State.SENT: 1}
    (mail,) = sandbox.messages
    assert (mail.recipients, mail.header("subject")) == (("b@example.com",), "Report")


@pytest.mark.notebook
def test_a_trial_runs_only_the_rows_that_it_mails_and_equal_rows_share_a_run(sandbox, tmp_path):
    path = report(tmp_path)
    data = [{"e-mail": f"{n}@example.com", "Company": "Same"} for n in "abcd"]
    done = send_notebook(
        path,
        "{{ row['e-mail'] }}",
        df=data,
        via=counting(sandbox),
        test_to="me@example.com",
        limit=2,
        attach=None,
    )
    assert [m.recipients for m in sandbox.messages] == [("me@example.com",)] * 2
    assert len(done.sent) == 2
    assert runs(tmp_path) == ["Same"]
