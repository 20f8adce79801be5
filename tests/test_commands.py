"""merge, send, journal, sandbox and demo: what they print, where, and how they end."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import signal
import smtplib
import threading
from email import message_from_bytes, policy

import pytest
from commands import invoke
from conftest import ROOT
from scripted import ACCEPT_DROP, DROP, Server

from smtp_notebook import Connection, Journal, Report, Sandbox, State, mail_merge, terminal
from smtp_notebook.cli import main
from smtp_notebook.outcome import Outcome

TEMPLATE = "---\nto: {{ Email }}\nfrom: me@example.com\nsubject: Hello {{ Name }}\n---\nDear {{ Name }}\n"
COMMANDS = ("merge", "send", "watch", "journal", "sandbox", "doctor", "demo")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with three leads and a template, where the commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMTP_NOTEBOOK_CONFIG", str(tmp_path / "config"))
    leads(tmp_path, "ann", "bo", "cy")
    (tmp_path / "welcome.md").write_text(TEMPLATE, encoding="utf-8")
    return tmp_path


def leads(folder, *names, bad=()):
    rows = [f"{n},{n}@example.com" for n in names] + [f"{n},nowhere" for n in bad]
    (folder / "leads.csv").write_text("\n".join(["Name,Email", *rows]) + "\n", encoding="utf-8")


def merge(*arguments, **more):
    return invoke("merge", "leads.csv", "welcome.md", *arguments, **more)


def subjects(server):
    return sorted(message_from_bytes(m.content, policy=policy.default)["subject"] for m in server.log.mails)


# ------------------------------------------------------------------------------------------- merge


def test_without_send_a_merge_says_so_first_and_no_server_hears_of_it(place):
    with Server() as server:
        piped = (place / "leads.csv").read_text()
        done = invoke("merge", "-", "welcome.md", "--via", server.url(), "--json", stdin=piped)
        shown = merge("--via", server.url(), "--campaign", "c")
        assert server.log.connections == 0
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"], found["dry_run"]) == (0, True, True)
    assert found["counts"] == {"planned": 3}
    assert shown.stdout.splitlines()[0].startswith("Dry run: nothing is sent.")
    assert not (place / "state" / "journal.sqlite3").exists()


def test_a_merge_that_is_run_again_sends_what_is_left_and_nobody_twice(place):
    with Server() as server:
        options = ("--via", server.url(), "--campaign", "c", "--send")
        first = merge(*options)
        leads(place, "ann", "bo", "cy", "di")
        second = merge(*options, "--json")
        assert subjects(server) == ["Hello ann", "Hello bo", "Hello cy", "Hello di"]
    assert (first.exit_code, first.stderr) == (0, "")
    assert first.stdout.splitlines()[0] == "Merge to 127.0.0.1: 3 sent"
    assert json.loads(second.stdout)["counts"] == {"sent": 1, "skipped": 3}


def test_json_has_each_outcome_with_its_documented_keys(place):
    with Server({"rcpt": lambda met: "550 5.1.1 no such user" if "bo@" in met else None}) as server:
        done = merge("--via", server.url(), "--campaign", "c", "--send", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert set(found) == {"ok", "dry_run", "interrupted", "error", "title", "counts", "notes", "warnings", "outcomes"}  # fmt: skip
    assert (found["ok"], found["counts"]) == (False, {"sent": 2, "refused": 1})
    (bad,) = (o for o in found["outcomes"] if o["state"] == "refused")
    assert set(bad) == {
        "key", "row", "to", "state", "status", "code", "enhanced", "reason", "fix", "message_id", "refused", "warnings",
    }  # fmt: skip
    assert (bad["key"], bad["row"], bad["to"]) == ("bo@example.com", 1, ["bo@example.com"])
    assert (bad["status"], bad["code"], bad["enhanced"]) == (404, 550, "5.1.1")
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    assert not [name for name in (*found, *bad) if f"`{name}`" not in page]


def test_a_bad_row_stops_a_merge_and_is_left_out_on_request(place):
    leads(place, "ann", bad=("bo",))
    with Server() as server:
        options = ("--via", server.url(), "--campaign", "c", "--send")
        stopped = merge(*options)
        assert not server.log.mails
        skipped = merge(*options, "--skip-problems")
        assert subjects(server) == ["Hello ann"]
    assert (stopped.exit_code, skipped.exit_code) == (1, 1)
    assert "row 1 (nowhere): invalid" in stopped.stdout
    assert "--skip-problems" in stopped.stderr
    assert "on_problem" not in stopped.stderr
    assert "1 sent, 1 invalid" in skipped.stdout


@pytest.mark.parametrize(("number", "form"), [(signal.SIGINT, "text"), (signal.SIGTERM, "json")])
def test_an_interrupted_merge_reports_how_far_it_went_and_ends_with_130(smtp_notebook, place, number, form):
    """After the first mail the rate keeps the others back, and that is where it is interrupted."""
    arrived = threading.Event()

    def kept(_met):
        arrived.set()

    with Server({"dot": kept}) as server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SMTP_NOTEBOOK_CONFIG", str(place / "config"))
            Connection.from_url(server.url(), rate="1/hour").save("slow")
        options = ["--json"] if form == "json" else []
        process = smtp_notebook.start("merge", "leads.csv", "welcome.md", "--via", "slow", "--campaign", "c", "--send", *options)  # fmt: skip
        assert arrived.wait(30)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert len(server.log.mails) == 1
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert "Interrupted." in err
    if form == "json":
        found = json.loads(out)
        assert (found["ok"], found["interrupted"], found["counts"]) == (
            False,
            True,
            {"planned": 2, "sent": 1},
        )
    else:
        assert out.count("Merge to 127.0.0.1: 2 planned, 1 sent") == 1


def test_a_merge_whose_output_nobody_reads_sends_all_the_same(smtp_notebook, place):
    reading, writing = os.pipe()
    os.close(reading)
    with Server() as server:
        process = smtp_notebook.start(
            "merge", "leads.csv", "welcome.md", "--via", server.url(), "--campaign", "c", "--send", "--json", stdout=writing
        )  # fmt: skip
        os.close(writing)
        _, err = process.communicate(timeout=30)
        assert len(server.log.mails) == 3
    assert (process.returncode, err) == (0, "")


def test_a_password_in_a_url_is_refused_and_not_repeated(place):
    for arguments in (
        ["merge", "leads.csv", "welcome.md", "--via", "smtp://ann:s3cret@mail.example.com"],
        ["send", "--to", "ann@example.com", "hi", "--via", "ann:s3cret@mail.example.com", "--send"],
    ):
        done = invoke(*arguments)
        assert done.exit_code == 2
        assert "shell's history" in done.stderr
        assert "s3cret" not in done.output


def test_a_merge_that_would_send_asks_for_a_server_and_for_a_name(place):
    nowhere = merge("--send")
    assert (nowhere.exit_code, nowhere.stdout) == (2, "")
    assert "--via" in nowhere.stderr
    with Server() as server:
        unnamed = merge("--send", "--via", server.url())
        assert not server.log.mails
    assert unnamed.exit_code == 1
    assert re.search(r"Add --campaign welcome-\d{4}-\d\d;", unnamed.stderr)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["merge", "nothing.csv", "welcome.md"], "There is no file 'nothing.csv'"),
        (["merge", "leads.csv", "nothing.md"], "There is no file 'nothing.md'"),
        (["merge", "leads.csv", "welcome.md", "--password", "x"], "No such option"),
        (["merge", "leads.csv", "welcome.md", "--preview", "0", "--send"], "--send"),
        (["merge", "leads.csv", "welcome.md", "--eml", "x.eml"], "--preview"),
        (["merge", "leads.csv", "welcome.md", "--header", "X-Tag"], "NAME:VALUE"),
        (["merge", "leads.csv", "welcome.md", "--subject", "{{ oops"], "subject"),
        (["merge", "leads.csv", "welcome.md", "--via", "nobody"], "No connection is saved as 'nobody'"),
        (["send", "--to", "ann@example.com"], "--body FILE"),
        (["send", "--to", "nobody", "hi"], "nobody"),
        (["send", "--to", "ann@example.com", "--attach", "nothing.pdf", "hi"], "nothing.pdf"),
        (["journal", "export", "-", "--journal", "nothing/"], "There is no journal"),
        (["sandbox", "--port", "70000"], "70000"),
    ],
)
def test_what_cannot_be_done_as_asked_is_one_sentence_on_stderr(place, arguments, words):
    done = invoke(*arguments)
    assert done.exit_code == (1 if arguments[0] == "journal" else 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not isinstance(done.exception, (AttributeError, NameError))


def test_options_are_templates_that_win_over_the_head(place):
    leads(place, "ann")
    (place / "a.txt").write_text("for ann")
    with Server() as server:
        done = merge(
            "--limit", 1, "--subject", "To {{ Name }}", "--cc", "boss@example.com", "--cc", "{{ Name }}@example.org",
            "--header", "X-Tag: {{ Name }}", "--attach", "{{ Name[0] }}.txt", "--importance", "high",
            "--via", server.url(), "--campaign", "c", "--send",
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        (mail,) = server.log.mails
    read = message_from_bytes(mail.content, policy=policy.default)
    assert (read["subject"], read["x-tag"], read["importance"]) == ("To ann", "ann", "high")
    assert read["cc"] == "boss@example.com, ann@example.org"
    assert [part.get_filename() for part in read.iter_attachments()] == ["a.txt"]


def test_a_trial_goes_to_oneself_and_counts_for_nobody(place):
    with Server() as server:
        done = merge("--via", server.url(), "--test-to", "me@example.com", "--limit", "1", "--send")
        assert [m.recipients for m in server.log.mails] == [["me@example.com"]]
    assert done.exit_code == 0
    assert "none of them counts as sent" in done.stdout


def test_a_preview_prints_and_saves_one_rows_mail(place):
    shown = merge("--preview", 1, "--eml", "bo.eml")
    read = message_from_bytes((place / "bo.eml").read_bytes(), policy=policy.default)
    assert (shown.exit_code, read["subject"]) == (0, "Hello bo")
    assert shown.stdout.splitlines()[:3] == [
        "From: me@example.com",
        "To: bo@example.com",
        "Subject: Hello bo",
    ]
    assert "Dear bo" in shown.stdout
    found = json.loads(merge("--preview", 1, "--json").stdout)
    assert ["Subject", "Hello bo"] in found["headers"]
    assert merge("--preview", 9).exit_code == 1


def test_every_rows_mail_can_be_saved_and_a_bad_one_keeps_no_other_back(place):
    leads(place, "ann", bad=("bo",))
    done = merge("--out", "mails")
    assert done.exit_code == 1
    assert "Row 1" in done.stderr
    assert [p.name for p in (place / "mails").iterdir()] == ["000.eml"]


def test_files_to_attach_stay_in_the_templates_folder(place):
    (place / "inner").mkdir()
    (place / "secret.txt").write_text("x")
    (place / "inner" / "welcome.md").write_text(TEMPLATE)
    done = invoke("merge", "leads.csv", "inner/welcome.md", "--attach", "../secret.txt")
    assert done.exit_code == 1
    assert "3 invalid" in done.stdout


# -------------------------------------------------------------------------------------------- send


def test_one_mail_takes_its_text_as_it_is_from_standard_input_too(place):
    with Server() as server:
        options = ("--to", "ann@example.com", "--from", "me@example.com", "--via", server.url())
        dry = invoke("send", *options, "-s", "{{ Name }}", "hi")
        assert not server.log.mails
        done = invoke("send", *options, "-s", "{{ Name }}", "--format", "text", "-", "--send", "--json", stdin="Grüße {{ x }}")  # fmt: skip
        (mail,) = server.log.mails
    read = message_from_bytes(mail.content, policy=policy.default)
    assert dry.stdout.startswith("Dry run: nothing is sent.")
    assert (done.exit_code, read["subject"], read.get_content().strip()) == (0, "{{ Name }}", "Grüße {{ x }}")
    (outcome,) = json.loads(done.stdout)["outcomes"]
    assert (outcome["state"], outcome["message_id"]) == ("sent", read["message-id"])


def test_once_skips_a_mail_that_went_and_a_file_tells_its_format(place):
    (place / "body.html").write_text("<p>Hi <b>Ann</b></p>")
    with Server() as server:
        options = (
            "--to",
            "ann@example.com",
            "--from",
            "me@example.com",
            "-s",
            "Hi",
            "--body",
            "body.html",
            "--once",
        )
        first, second = (invoke("send", *options, "--via", server.url(), "--send") for _ in range(2))
        (mail,) = server.log.mails
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "1 skipped" in second.stdout
    assert message_from_bytes(mail.content, policy=policy.default).get_body(("html",)) is not None


@pytest.mark.parametrize(("action", "state"), [("550 5.7.1 no", "refused"), (DROP, "in_doubt")])
def test_a_mail_that_was_not_accepted_is_exit_code_1_with_its_outcome(place, action, state):
    with Server({"dot": action}) as server:
        done = invoke("send", "--to", "ann@example.com", "--from", "me@example.com", "-s", "x", "hi",
                      "--via", server.url(), "--send", "--json")  # fmt: skip
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"], list(found["counts"])) == (1, False, [state])
    assert found["error"]["type"] == "DeliveryError"


# ----------------------------------------------------------------------------------------- journal


@pytest.fixture
def doubtful(place):
    """A journal with one row that went and one in doubt."""
    leads(place, "ann", "bo")
    with Server({"dot": lambda met: ACCEPT_DROP if "bo@" in met else None}) as server:
        done = merge("--via", server.url(), "--campaign", "spring", "--send")
        assert done.exit_code == 1, done.output
        yield server


def test_the_journal_lists_its_mailings_and_shows_their_rows(doubtful):
    listed = invoke("journal")
    assert re.search(
        r"^\d{4}-\d\d-\d\d  spring  1 sent, 1 in doubt  \(127\.0\.0\.1\)$", listed.stdout, re.MULTILINE
    )
    (campaign,) = json.loads(invoke("journal", "--json").stdout)["campaigns"]
    assert (campaign["name"], campaign["counts"]) == ("spring", {"sent": 1, "in_doubt": 1})
    assert "bo@example.com" in invoke("journal", "show", "spring").stdout
    found = json.loads(invoke("journal", "show", "spring", "--state", "sent", "--json").stdout)
    assert [o["key"] for o in found["outcomes"]] == ["ann@example.com"]
    rows = list(csv.DictReader(io.StringIO(invoke("journal", "show", "spring", "--csv").stdout)))
    assert [row["state"] for row in rows] == ["sent", "in_doubt"]
    assert invoke("journal", "show", "sprng").exit_code == 1


@pytest.mark.parametrize(("said", "copies"), [("--delivered", 2), ("--not-delivered", 3)])
def test_a_person_settles_a_row_in_doubt(doubtful, said, copies):
    assert invoke("journal", "resolve", "spring", "bo@example.com").exit_code == 2
    assert invoke("journal", "resolve", "spring", "bo@example.com", said).exit_code == 0
    doubtful.heal()
    merge("--via", doubtful.url(), "--campaign", "spring", "--send")
    assert len(doubtful.log.mails) == copies
    assert invoke("journal", "resolve", "spring", "bo@example.com", said).exit_code == 1


def test_a_mailing_is_forgotten_only_by_somebody_who_says_so(doubtful):
    asked = invoke("journal", "forget", "spring")
    assert (asked.exit_code, "--yes" in asked.stderr) == (2, True)
    assert Journal().campaign_names() == ["spring"]
    assert invoke("journal", "forget", "spring", "--yes").exit_code == 0
    assert Journal().campaign_names() == []


def test_the_journal_is_exported_as_csv(doubtful, place):
    assert invoke("journal", "export", "all.csv").exit_code == 0
    rows = list(csv.DictReader((place / "all.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["campaign"], row["key"], row["state"]) for row in rows] == [
        ("spring", "ann@example.com", "sent"),
        ("spring", "bo@example.com", "in_doubt"),
    ]
    assert invoke("journal", "export", "-").stdout.splitlines()[0].startswith("campaign,")


@pytest.mark.parametrize(
    "arguments",
    [[], ["show", "x"], ["resolve", "x", "y", "--delivered"], ["forget", "x", "--yes"], ["export", "-"]],
)
def test_looking_for_a_journal_makes_none(place, arguments):
    done = invoke("journal", *arguments)
    assert done.exit_code == (1 if arguments else 0)
    assert "There is no journal" in done.stderr
    assert not (place / "state").exists()


# ---------------------------------------------------------------------------------- sandbox and demo


def test_the_sandbox_says_its_url_first_then_a_line_for_each_mail(smtp_notebook, tmp_path):
    process = smtp_notebook.start("sandbox", "--json", "--save", "mails")
    started = json.loads(process.stdout.readline())
    host, port = started["url"].removeprefix("smtp+plain://").split(":")
    assert (started["event"], host) == ("started", "127.0.0.1")
    with smtplib.SMTP(host, int(port)) as client:
        client.sendmail("a@example.com", ["b@example.com"], b"Subject: Hi \x1b[2J\r\n\r\nhi\r\n")
    mail = json.loads(process.stdout.readline())
    taken = invoke("sandbox", "--port", port)
    assert (taken.exit_code, f"Port {port}" in taken.stderr) == (2, True)
    process.send_signal(signal.SIGTERM)
    assert (process.wait(timeout=20), process.stderr.read()) == (0, "")
    assert (mail["sender"], mail["recipients"]) == ("a@example.com", ["b@example.com"])
    assert b"\r\n\r\nhi" in (tmp_path / mail["file"]).read_bytes()


def test_a_strangers_subject_changes_nothing_on_the_terminal():
    assert terminal.printable("Hi\x1b[2J\r\n\u202eevil\x00") == "Hi [2J evil"
    assert terminal.printable_text("a\x1b[2J\n  b\tc \n\n") == "a\ufffd[2J\n  b\tc"
    # A mail's lines end with CRLF; a CR elsewhere would go back to the line's start.
    assert terminal.printable_text("a\r\nb \r\nc\rd\r\n") == "a\nb\nc\ufffdd"


def test_the_demo_needs_no_network_no_letters_and_no_journal(smtp_notebook, tmp_path):
    """The terminal knows only ASCII; the leads have names from everywhere."""
    done = smtp_notebook(
        "demo", "--out", "d", PYTHONIOENCODING="ascii", SMTP_NOTEBOOK_URL="smtps://nowhere.test"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "5 sent, 1 invalid" in done.stdout
    assert "Nothing left this machine" in done.stdout
    kept = {p.name for p in (tmp_path / "d").iterdir()}
    assert {"leads.csv", "welcome.md", "mail-1.eml", "mail-1.html"} <= kept
    assert not (tmp_path / "state" / "journal.sqlite3").exists()
    again = invoke("merge", tmp_path / "d" / "leads.csv", tmp_path / "d" / "welcome.md")
    assert "5 planned, 1 invalid" in again.stdout


def test_the_demo_reports_as_json_too():
    found = json.loads(invoke("demo", "--json").stdout)
    assert (found["ok"], found["counts"]) == (True, {"sent": 5, "invalid": 1})


# ------------------------------------------------------------------------------------ what all share


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example_that_is_understood(name):
    done = invoke(name, "-h")
    assert done.exit_code == 0
    examples = re.findall(rf"^ +(smtp-notebook {name}\b.*)$", done.stdout, re.MULTILINE)
    assert examples
    assert "exit code" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_no_option_takes_a_password():
    def options(command):
        yield from (o for p in command.params for o in p.opts)
        for inner in getattr(command, "commands", {}).values():
            yield from options(inner)

    assert not [o for o in options(main) if re.search(r"pass|pwd|secret|token|api-?key", o)]


def test_every_word_that_is_told_otherwise_is_one_of_the_librarys():
    modules = (p for p in (ROOT / "smtp_notebook").glob("*.py") if p.name != "terminal.py")
    said = "".join(path.read_text(encoding="utf-8") for path in modules)
    assert not [theirs for theirs, _ in terminal._WORDS if theirs not in said]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ('Add campaign="spring"; x', "Add --campaign spring; x"),
        ('changed="send-rest" sends; another campaign= mails', "--changed send-rest sends; another --campaign mails"),
        ("Beyond limit=.", "Beyond --limit."),
        ("Give from_='me@example.com'.", "Give --from me@example.com."),
        ("Name another file: journal=….", "Name another file: --journal …."),
        ("If nobody got it there: Journal().forget('a b').", 'If nobody got it there: smtp-notebook journal forget "a b".'),
        ("report('a b').in_doubt lists those", "'smtp-notebook journal show \"a b\" --state in_doubt' lists those"),
        ("more than max_per_poll=100: none", "more than --max-per-poll 100: none"),
        ("https://example.com/?key=a&campaign=b", "https://example.com/?key=a&campaign=b"),
    ],
)  # fmt: skip
def test_the_librarys_sentences_name_options_instead_of_arguments(theirs, ours):
    assert terminal.as_options(theirs) == ours


def test_a_long_line_is_wrapped_on_a_terminal_and_nowhere_else():
    report = Report([Outcome(state=State.FAILED, row=3, key="ann@example.com", reason="word " * 40)])
    wide, narrow = terminal.report_lines(report), terminal.report_lines(report, columns=60)
    assert "\n" not in "".join(wide)
    lines = "\n".join(narrow).splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[2].startswith("      word")


def test_the_json_of_many_rows_is_written_as_it_is_read():
    report = Report(Outcome(state=State.SENT, row=i, key=str(i)) for i in range(3))
    lines = list(terminal.report_json(report))
    assert len(lines) == 5
    assert [o["row"] for o in json.loads("\n".join(lines))["outcomes"]] == [0, 1, 2]


def test_a_sandbox_can_be_given_its_port(sandbox):
    port = sandbox.connection.port
    sandbox.stop()
    with Sandbox(port=port) as again:
        assert again.connection.port == port
        assert len(mail_merge([{"Email": "a@example.com"}], "hi", via=again).sent) == 1


def test_the_examples_of_the_reference_end_as_they_say(place, monkeypatch):
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL) for line in block.splitlines()]  # fmt: skip
    # The demo makes the files of the others.
    lines.sort(key=lambda line: " demo --out" not in line)
    assert len(lines) >= 10
    with Server() as server:
        monkeypatch.setenv("SMTP_NOTEBOOK_URL", server.url())
        for line in lines:
            command, _, said = line.partition("#")
            done = invoke(*shlex.split(command)[1:])
            assert done.exit_code == (1 if "exit code 1" in said else 0), (line, done.output)
        # Three to oneself, five leads, and one mail by itself.
        assert len(server.log.mails) == 9


def test_a_sigterm_that_comes_twice_at_once_is_one_request_and_a_later_one_another(monkeypatch):
    # timeout(1) sends it to the process, and then to its group.
    times = iter([10.0, 10.001, 12.0])
    monkeypatch.setattr(terminal, "CLOCK", lambda: next(times))
    with terminal._stopping():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
