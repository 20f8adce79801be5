"""The magics in a real IPython shell."""

from __future__ import annotations

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from smtp_notebook import MailError, OptionError, State, connect
from smtp_notebook.magics import split_options


@pytest.fixture
def shell():
    InteractiveShell.clear_instance()
    found = InteractiveShell.instance()
    found.run_line_magic("load_ext", "smtp_notebook")
    yield found
    found.run_line_magic("unload_ext", "smtp_notebook")
    InteractiveShell.clear_instance()


def run(shell, cell):
    result = shell.run_cell(cell)
    if result.error_before_exec or result.error_in_exec:
        raise result.error_before_exec or result.error_in_exec
    return result.result


def test_the_cell_is_the_mail_and_the_variables_fill_it(shell, sandbox):
    connect(sandbox)
    run(shell, "who, count = 'Ann', 3")
    outcome = run(
        shell,
        '%%send_email --to "{{ who }} <ann@example.com>" -s "For {{ who }}" --result kept\nDear {{ who }}, **{{ count }}**',
    )
    (mail,) = sandbox.messages
    assert (mail.email["subject"], mail.recipients) == ("For Ann", ("ann@example.com",))
    assert outcome is shell.user_ns["kept"]
    assert outcome.state is State.SENT


def test_what_a_newsletter_needs_has_its_options(shell, sandbox):
    connect(sandbox)
    run(
        shell,
        '%%send_email --to ann@example.com --unsubscribe "https://example.com/u" --unsubscribe mailto:u@example.com '
        '--bulk yes --list-id "News <news.example.com>" --feedback-id c:u:news:sender --postal-address "1 High Street"\nhi',
    )
    mail = sandbox.messages[0].email
    assert mail["List-Unsubscribe"] == "<https://example.com/u>, <mailto:u@example.com>"
    assert (mail["List-Id"], mail["Feedback-ID"]) == ("News <news.example.com>", "c:u:news:sender")
    assert "1 High Street" in mail.get_body(("plain",)).get_content()


def test_no_value_becomes_an_option(shell, sandbox):
    connect(sandbox)
    run(shell, "x = 'a\" --bcc evil@example.net'")
    run(shell, "%%send_email --to ann@example.com --subject {{ x }}\nhi")
    assert sandbox.messages[0].recipients == ("ann@example.com",)
    assert sandbox.messages[0].email["subject"] == 'a" --bcc evil@example.net'


@pytest.mark.parametrize("option", ["--preview", "--dry-run"])
def test_looking_and_dry_runs_send_nothing(shell, sandbox, option):
    connect(sandbox)
    run(shell, f"%%send_email --to ann@example.com {option}\nhi")
    assert sandbox.messages == ()


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ("%%send_email --too ann@example.com\nhi", "--to"),
        ("%%send_email --to ann@example.com --password x\nhi", "SMTP_NOTEBOOK_PASSWORD"),
        ("%%send_email --to a@\nhi", "a@"),
        ("%%send_email --to ann@example.com\n{{ nothing }}", "nothing"),
        ("%%send_email --to 'ann@example.com\nhi", "quote"),
        ("%%send_email --to ann@example.com\n<p>hi</p>", "html"),
        ("%send_email --to ann@example.com", "--template"),
        ("%smtp smtp://u:pw@example.com", "keyring"),
        ("%inbox now", "no arguments"),
    ],
)
def test_a_mistake_is_one_line_with_what_to_do(shell, cell, word):
    with pytest.raises(MailError) as caught:
        run(shell, cell)
    (line,) = caught.value._render_traceback_()
    assert word in line
    assert "\n" not in line


def test_backslashes_and_jinja_survive_the_splitting():
    line = r"""--attach C:\reports\june.pdf -s "It's {{ row['a b'] }}" --to {{ a | default("x y") }}"""
    assert split_options(line) == [
        "--attach",
        r"C:\reports\june.pdf",
        "-s",
        "It's {{ row['a b'] }}",
        "--to",
        '{{ a | default("x y") }}',
    ]
    with pytest.raises(OptionError):
        split_options("'open")


def test_the_line_form_takes_a_template_file(shell, sandbox, tmp_path):
    (tmp_path / "t.md").write_text("---\nsubject: S {{ n }}\n---\nbody")
    connect(sandbox)
    run(shell, "n = 5")
    run(shell, f"%send_email --to ann@example.com --template {tmp_path / 't.md'}")
    assert sandbox.messages[0].email["subject"] == "S 5"


def test_options_are_completed(shell):
    line = "%%send_email --im"
    with provisionalcompleter():
        found = {c.text for c in shell.Completer.completions(line, len(line))}
    assert found == {"--importance"}


def test_smtp_shows_and_names_the_server(shell):
    assert "sandbox" in repr(run(shell, "%smtp"))
    assert run(shell, "%smtp smtp+plain://127.0.0.1:2525").port == 2525
    assert run(shell, "%smtp").port == 2525
