"""Variants: each row of a campaign gets one of several texts, always the same one, and the shares hold."""

from __future__ import annotations

import math
import pickle
import random
import sqlite3
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Server

from smtp_notebook import (
    Journal,
    JournalError,
    MergeRefusedError,
    OptionError,
    Outcome,
    Report,
    State,
    Template,
    TemplateError,
    Variants,
    mail_merge,
    merge_form,
    preview,
    schema,
    send,
)
from smtp_notebook.jobs import MergeJob
from smtp_notebook.roll import Roll

LETTER = "---\nfrom: me@example.com\n---\nDear **{{ n }}**"
AB = Variants("Short {{ n }}", "A longer subject for {{ n }}")


def frame(count=6, first=0):
    numbers = list(range(first, first + count))
    return pd.DataFrame({"Email": [f"u{i}@example.com" for i in numbers], "n": numbers})


def merge(server, data, **more):
    options = {"via": server.url(), "campaign": "c", "progress": False, "subject": AB}
    return mail_merge(data, LETTER, **options | more)


@pytest.fixture
def server():
    with Server() as found:
        yield found


def subject_of(mail):
    line = next(line for line in mail.content.split(b"\r\n") if line.lower().startswith(b"subject:"))
    return line.partition(b":")[2].strip().decode()


# ------------------------------------------------------------------------------------- the choice


@pytest.mark.parametrize("shares", [(0.5, 0.5), (9, 1), (1, 1, 1), (0.2, 0.3, 0.5)])
def test_shares_hold_within_statistical_bounds_and_whatever_the_keys_look_like(shares):
    texts = Variants(*map(str, range(len(shares))), shares=shares)
    count = 20_000
    for keys in (map(str, range(count)), (f"u{i}@example.com" for i in range(count))):
        found = Counter(texts.choose("spring", key) for key in keys)
        for name, share in zip(texts.names, shares, strict=True):
            part = share / math.fsum(shares)
            # Five standard deviations: the hash is fixed, so this is so or is not.
            assert abs(found[name] - count * part) < 5 * math.sqrt(count * part * (1 - part))


def test_two_campaigns_choose_independently():
    """Who had A last time is no likelier to have A again."""
    texts = Variants("a", "b")
    both = Counter((texts.choose("one", str(i)), texts.choose("two", str(i))) for i in range(20_000))
    assert all(abs(n - 5_000) < 5 * math.sqrt(20_000 * 0.25 * 0.75) for n in both.values())


def test_another_process_chooses_the_same():
    """The choice is written down in nothing but the code: these are for ever."""
    assert [AB.choose("spring", f"u{i}@example.com") for i in range(8)] == list(EXPECTED)
    code = (
        "from smtp_notebook import Variants; v = Variants('a', 'b'); "
        "print(''.join(v.choose('spring', f'u{i}@example.com') for i in range(8)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == EXPECTED


EXPECTED = "ABABABAB"


@given(st.text(), st.text(), st.lists(st.floats(0, 1e6), min_size=2, max_size=5).filter(any))
def test_a_choice_is_always_one_that_has_a_share(campaign, key, shares):
    texts = Variants({str(i): "x" for i in range(len(shares))}, shares=shares)
    assert shares[int(texts.choose(campaign, key))] > 0


# --------------------------------------------------------------------------------------- a merge


def test_each_row_gets_the_text_that_its_outcome_names(server):
    report = merge(server, frame(40))
    names = {o.to[0]: o.variant for o in report}
    assert set(names.values()) == {"A", "B"}
    for mail in server.log.mails:
        name = names[mail.recipients[0]]
        assert subject_of(mail).startswith({"A": "Short", "B": "A longer subject"}[name])
    assert report.by_variant() == {
        name: {State.SENT: count} for name, count in sorted(Counter(names.values()).items())
    }
    assert list(report.to_frame()["variant"]) == [o.variant for o in report]
    assert f"Variant A: {Counter(names.values())['A']} sent" in report.text()
    assert "Variant A:" in report._repr_mimebundle_()["text/html"]


def test_another_order_a_resume_and_a_retry_choose_the_same(server):
    data = frame(30)
    planned = {o.key: o.variant for o in merge(server, data, dry_run=True)}
    first = merge(server, data, limit=10)
    shuffled = data.sample(frac=1, random_state=random.Random(3).randrange(99))
    rest = merge(server, shuffled)
    assert {o.key: o.variant for o in rest} == planned
    assert {o.key: o.variant for o in first.sent}.items() <= planned.items()
    assert len(server.log.mails) == 30
    stored = Journal().report("c")
    assert {o.key: o.variant for o in stored} == planned
    assert stored.by_variant() == {n: {State.SENT: c} for n, c in sorted(Counter(planned.values()).items())}
    # What was skipped says which text it had.
    assert merge(server, data).by_variant().keys() == {"A", "B"}


def test_a_row_that_is_tried_again_keeps_its_text():
    with Server({"data": ["451 later", "451 later", None]}) as server:
        report = merge(server, frame(4))
    assert report.counts == {State.SENT: 4}
    planned = {o.key: AB.choose("c", o.key) for o in report}
    assert {o.key: o.variant for o in report} == planned
    assert sum(o.attempts for o in report) > 4


def test_rows_printed_again_come_out_as_they_were_checked(server, monkeypatch):
    from smtp_notebook import preflight

    monkeypatch.setattr(preflight, "MEMORY_BUDGET", 0)
    report = merge(server, frame(20))
    assert report.counts == {State.SENT: 20}
    said = {m.recipients[0]: subject_of(m).split()[0] for m in server.log.mails}
    assert said == {o.to[0]: {"A": "Short", "B": "A"}[o.variant] for o in report}


@pytest.mark.parametrize(
    "other",
    [
        Variants("Short {{ n }}", "Another"),
        Variants("Short {{ n }}", "A longer subject for {{ n }}", shares=(1, 9)),
        Variants(a="Short {{ n }}", b="A longer subject for {{ n }}"),
    ],
)
def test_other_variants_under_one_campaign_are_another_template(server, other):
    merge(server, frame(3))
    with pytest.raises(MergeRefusedError, match="template"):
        merge(server, frame(6), subject=other)
    again = merge(server, frame(6), subject=other, changed="send-rest")
    assert len(again.sent) == 3


def test_the_body_may_vary_with_the_subject_by_one_choice(server):
    body = Variants("Plain {{ n }}", "Rich {{ n }}")
    report = merge(server, frame(20), body=body)
    for mail in server.log.mails:
        short = subject_of(mail).startswith("Short")
        assert (b"Plain" in mail.content) == short
        assert (b"Rich" in mail.content) != short
    assert set(report.by_variant()) == {"A", "B"}


def test_a_problem_of_one_text_is_a_problem_of_its_rows_alone(sandbox):
    data = frame(20).assign(Gift=None)
    texts = Variants("Hi", "Your {{ Gift }}")
    report = mail_merge(data, LETTER, via=sandbox, subject=texts, campaign="c", on_problem="skip")
    assert {o.key for o in report.failures} == {k for k in data["Email"] if texts.choose("c", k) == "B"}
    assert 0 < len(report.failures) < 20


def test_a_job_chooses_as_the_merge_does(server):
    job = MergeJob(frame(12), LETTER, via=server.url(), campaign="c", subject=AB)
    job.check()
    checked = {o.key: o.variant for o in job.wait(20).report}
    job.send()
    assert {o.key: o.variant for o in job.wait(20).report} == checked
    assert checked == {key: AB.choose("c", key) for key in frame(12)["Email"]}


def test_preview_shows_the_variant_that_is_asked_for():
    data = frame(1)
    assert preview(data, LETTER, subject=AB).subject == "Short 0"
    assert preview(data, LETTER, subject=AB, variant="B").subject == "A longer subject for 0"
    with pytest.raises(OptionError, match="A, B"):
        preview(data, LETTER, subject=AB, variant="C")
    with pytest.raises(OptionError, match="no variant"):
        preview(data, LETTER, subject="x", variant="A")


def test_the_form_takes_them_and_previews_the_first():
    form = merge_form(frame(3), LETTER, subject=AB)
    form.wait()
    assert form.message.subject == "Short 0"
    form.close()


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Variants("one"), "nothing to choose"),
        (Variants, "nothing to choose"),
        (lambda: Variants("a", 3), "not text"),
        (lambda: Variants("a", b="c"), "have a name"),
        (lambda: Variants("a", "b", shares=(1,)), "1 shares for 2"),
        (lambda: Variants("a", "b", shares=(1, -1)), "no weights"),
        (lambda: Variants("a", "b", shares=(0, 0)), "no weights"),
        (lambda: Variants("a", "b", shares=(float("nan"), 1)), "no weights"),
        (lambda: Variants("a", "b", shares="ab"), "no weights"),
        (lambda: Variants({"": "a", "b": "c"}), "no name"),
        (lambda: Template("x", to=AB), "to: this field cannot"),
        (lambda: Template("x", from_=AB), "from: this field cannot"),
        (lambda: Template("x", attach=[AB]), "in a list"),
        (lambda: Template("x", headers={"X-A": AB}), "in a list"),
        (lambda: Template("x", subject=AB, body=Variants("a", "b", "c")), "same names"),
        (lambda: send(to="a@example.com", subject=AB), "many rows"),
    ],
)
def test_what_cannot_vary_is_refused_by_name(make, word):
    with pytest.raises(OptionError, match=word):
        make()


def test_an_error_in_the_second_text_is_known_before_any_row():
    with pytest.raises(TemplateError, match="syntax"):
        Template("x", subject=Variants("fine", "{{ broken"))


def test_a_choice_shows_itself_as_it_is_written():
    for texts in (AB, Variants(a="x", b="y"), Variants("x", "y", shares=(1, 3))):
        assert eval(repr(texts), {"Variants": Variants}) == texts
        assert pickle.loads(pickle.dumps(texts)) == texts
        assert hash(pickle.loads(pickle.dumps(texts))) == hash(texts)
    assert Variants("x", "y") != AB


# ------------------------------------------------------------------------- the journal and the roll


def test_a_journal_of_before_is_moved_its_records_whole_and_a_damaged_one_still_found(server, tmp_path):
    path = tmp_path / "journal"
    Journal(path).close()
    merge(server, frame(3), journal=path, subject="plain")
    with sqlite3.connect(path) as db:  # back to what the step before wrote
        db.execute("DROP VIEW standing")
        db.execute("ALTER TABLE record DROP COLUMN variant")
        db.execute("ALTER TABLE record DROP COLUMN rows")
        db.execute(schema.MIGRATIONS[1].statements[-1])
        db.execute(f"PRAGMA user_version={len(schema.MIGRATIONS) - 1}")
        names = [row[1] for row in db.execute("PRAGMA table_info(record)")]
    db.close()
    assert not {"variant", "rows"} & set(names)
    assert Journal(path).report("c").counts == {State.SENT: 3}
    again = merge(server, frame(5), journal=path, subject="plain")
    assert again.counts == {State.SENT: 2, State.SKIPPED: 3}
    with sqlite3.connect(path) as db:
        db.execute("UPDATE record SET variant='B' WHERE id=1")
    db.close()
    with pytest.raises(JournalError, match="checksum"):
        list(Journal(path).report("c"))


def test_a_report_in_memory_counts_as_one_in_a_table_does():
    outcomes = [
        Outcome(state=s, key=str(i), row=i, variant=v)
        for i, (s, v) in enumerate(
            [(State.SENT, "A"), (State.SENT, "A"), (State.FAILED, "B"), (State.SENT, "")]
        )
    ]
    roll = Roll()
    for outcome in outcomes:
        roll.add(outcome)
    wanted = {"A": {State.SENT: 2}, "B": {State.FAILED: 1}}
    assert Report(outcomes).by_variant() == wanted
    assert Report(roll.outcomes()).by_variant() == wanted
    assert list(roll.outcomes()) == outcomes
    assert Report(roll.outcomes()).failures.by_variant() == {"B": {State.FAILED: 1}}
    assert Report(outcomes[3:]).by_variant() == {}
