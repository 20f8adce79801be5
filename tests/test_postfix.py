"""A real mail server: what it took has arrived, once and unchanged, and what it refused is said."""

from __future__ import annotations

from collections import Counter
from html import unescape

import pandas as pd
import pytest
from mailservers import running_postfix

from smtp_notebook import Connection, State, Suppressions, mail_merge, read_bounces

NAMES = ["Zoë Brontë", "Łukasz Żółć", "王小明", "Ann O'Neil", "Jörg Müßig", "<b>Bo & Co</b>"]
LETTER = """---
subject: Grüße an {{ Name }}, Nr. {{ n }}
---
Dear **{{ Name }}**,

your number is {{ n }} – voilà, [the page](https://example.com/?q={{ Name }}).

.a line that begins with a dot
"""


@pytest.fixture(scope="module")
def server():
    with running_postfix() as found:
        yield found


@pytest.fixture
def postfix(server):
    server.empty()
    return server


def frame(addresses, first=0):
    numbers = range(first, first + len(addresses))
    names = [NAMES[n % len(NAMES)] for n in numbers]
    return pd.DataFrame({"Email": addresses, "Name": names, "n": numbers})


def merge(postfix, data, campaign, **settings):
    via = Connection.from_url(postfix.url, **settings)
    return mail_merge(
        data, LETTER, from_="Çelik <me@example.com>", via=via, campaign=campaign, progress=False
    )


def to(mails, address):
    return [m for m in mails if m["Delivered-To"] == address]


def test_it_offers_what_the_transport_makes_use_of(postfix):
    offers = {"pipelining", "size", "8bitmime", "smtputf8", "dsn", "enhancedstatuscodes"}
    assert postfix.offers() >= offers


@pytest.mark.parametrize("rows", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_many_mails_arrive_once_each_and_as_they_were_written(postfix, rows):
    data = frame([f"u{i}@example.test" for i in range(rows)])
    report = merge(postfix, data, "all", max_connections=4)
    assert report.counts == {State.SENT: rows}
    again = merge(postfix, data, "all", max_connections=4)
    assert again.counts == {State.SKIPPED: rows}
    mails = postfix.delivered(rows)
    assert Counter(m["Delivered-To"] for m in mails) == dict.fromkeys(data["Email"], 1)
    known = {o.key: o.message_id for o in report}
    written = dict(zip(data["Email"], data.itertuples(), strict=True))
    for mail in mails:
        row = written[mail["Delivered-To"]]
        assert mail["Subject"] == f"Grüße an {row.Name}, Nr. {row.n}"
        assert mail["To"] == row.Email
        assert mail["From"] == "Çelik <me@example.com>"
        assert mail["Message-ID"] == known[row.Email]
        text = mail.get_body(("plain",)).get_content()
        html = mail.get_body(("html",)).get_content()
        assert f"Dear **{row.Name}**," in text
        assert f"your number is {row.n} – voilà" in text
        assert "\n.a line that begins with a dot" in text
        assert f">{row.Name}</strong>" in unescape(html)
        assert "<b>Bo" not in html
        assert f"your number is {row.n} – voilà" in html


def test_an_unknown_user_is_refused_and_the_others_get_theirs(postfix):
    data = frame(["u9001@example.test", "nobody@example.test", "u9002@example.test", "jörg@example.test"], 1)
    report = merge(postfix, data, "unknown")
    assert [o.state for o in report] == [State.SENT, State.REFUSED, State.SENT, State.SENT]
    assert (report[1].status, report[1].code, report[1].enhanced) == (404, 550, "5.1.1")
    mails = postfix.delivered(3)
    assert [len(to(mails, a)) for a in data["Email"]] == [1, 0, 1, 1]


def test_a_domain_that_is_not_relayed_to_is_refused(postfix):
    report = merge(postfix, frame(["ann@elsewhere.test", "u9003@example.test"]), "relay")
    assert [o.state for o in report] == [State.REFUSED, State.SENT]
    assert report[0].code == 554


def test_greylisting_defers_and_the_next_run_sends(postfix):
    data = frame(["grey1@example.test", "u9004@example.test"])
    first = merge(postfix, data, "grey", attempts=1)
    assert [o.state for o in first] == [State.DEFERRED, State.SENT]
    assert (first[0].code, first[0].enhanced) == (450, "4.7.1")
    assert merge(postfix, data, "grey").counts == {State.SENT: 1, State.SKIPPED: 1}
    mails = postfix.delivered(2)
    assert [len(to(mails, a)) for a in data["Email"]] == [1, 1]


def test_greylisting_is_waited_out_within_one_run(postfix):
    report = merge(postfix, frame(["grey2@example.test"]), "patient")
    assert (report[0].state, report[0].attempts) == (State.SENT, 2)
    assert [m["Delivered-To"] for m in postfix.delivered(1)] == ["grey2@example.test"]


def test_what_it_reports_of_a_mail_is_read_and_found_by_its_tag(postfix):
    data = frame(["gone7@example.test", "u1@example.test", "gone8@example.test"])
    via = Connection.from_url(
        postfix.url,
        envelope_from="bounces+{id}@example.test",
        notify="failure, success",
        sender="me@example.com",
    )
    report = mail_merge(data, LETTER, campaign="real", via=via, progress=False)
    assert report.counts == {State.SENT: 3}
    box = postfix.folder / "mail" / "box" / "Maildir"
    postfix.delivered(6)  # a mail, two bounces and three reports of success
    found = list(read_bounces(box))
    told = sorted((o.key, str(o.state), o.status, o.enhanced, o.campaign) for o in found)
    assert told == [
        ("gone7@example.test", "refused", 404, "5.1.1", "real"),
        ("gone7@example.test", "sent", 200, "2.0.0", "real"),  # it was forwarded, and failed there
        ("gone8@example.test", "refused", 404, "5.1.1", "real"),
        ("gone8@example.test", "sent", 200, "2.0.0", "real"),
        ("u1@example.test", "sent", 200, "2.0.0", "real"),
    ]
    assert {o.message_id for o in found} == {o.message_id for o in report}
    assert read_bounces(box, suppress=True).proposals()
    assert [e.address for e in Suppressions()] == ["gone7@example.test", "gone8@example.test"]
    again = mail_merge(data, LETTER, campaign="next", via=via, progress=False, dry_run=True)
    assert again.counts == {State.PLANNED: 1, State.SKIPPED: 2}
