"""Bulk mail: what Google, Yahoo, Microsoft and laws ask of it, on both ways that a row can take.

The names D1 to D8 are those of the assertions about bulk mail; D7 is `test_rate`'s.
"""

from __future__ import annotations

import base64
from urllib.parse import quote

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_lint import server
from test_mime import parsed
from test_press import SERVER, assert_same

from smtp_notebook import (
    Dkim,
    Message,
    MessageError,
    OptionError,
    PreflightError,
    State,
    Template,
    mail_merge,
    preview,
    send,
    send_notebook,
)
from smtp_notebook.bodies import html_to_text
from smtp_notebook.lint import lint, reveals
from smtp_notebook.press import Press

LINK = "https://example.com/u/{{ Token }}"


def make(**fields):
    given = {"to": "ann@example.org", "from_": "News <news@example.com>", "subject": "S", "body": "hi"}
    return Message(**(given | fields))


def read(message):
    return parsed(message.as_bytes())


def codes(message, **settings):
    return {f.code for f in lint(message, via=server(**settings))}


def rows(count=6, **columns):
    return [
        {"Email": f"p{i}@example.org", "Name": f"Person {chr(65 + i)}", "Token": f"t{i:07x}"}
        | {name: make_one(i) for name, make_one in columns.items()}
        for i in range(count)
    ]


def merge(data, sandbox, **fields):
    given = {"from_": "News <news@example.com>", "subject": "S {{ Name }}", "progress": False}
    return mail_merge(data, "Dear {{ Name }}", via=sandbox, **(given | fields))


def notes(report):
    return [n for n in report.notes if n.startswith("Look at row")]


# --------------------------------------------------------------------------------------- D1, D2: one click


def test_d1_bulk_mail_has_one_address_and_the_header_for_one_click():
    message = read(make(unsubscribe=["https://example.com/u/1", "mailto:u@example.com"], bulk=True))
    assert message.get_all("list-unsubscribe") == ["<https://example.com/u/1>, <mailto:u@example.com>"]
    assert message.get_all("list-unsubscribe-post") == ["List-Unsubscribe=One-Click"]


@pytest.mark.parametrize(
    ("unsubscribe", "has"),
    [
        (None, "no https: address"),
        ("mailto:u@example.com", "no https: address"),
        (["https://example.com/1", "https://example.com/2"], "2 https: addresses"),
    ],
)
def test_d1_bulk_mail_without_one_click_is_refused_with_the_fix(unsubscribe, has):
    with pytest.raises(MessageError, match=has) as caught:
        make(bulk=True, unsubscribe=unsubscribe)
    assert "unsubscribe='https://example.com/u/{{ token }}'" in caught.value.fix


def test_d1_a_row_without_one_click_is_invalid_and_the_others_are_not(sandbox):
    data = rows(12, Url=lambda i: "mailto:u@example.com" if i in {0, 7} else f"https://example.com/{i}")
    report = merge(data, sandbox, bulk=True, unsubscribe="{{ Url }}", on_problem="skip")
    assert [o.row for o in report if o.state is State.INVALID] == [0, 7]
    assert all("one click" in o.reason and o.fix for o in report.failures)
    assert len(sandbox.messages) == 10
    for mail in sandbox.messages:
        assert mail.email["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    with pytest.raises(PreflightError):
        merge(data, sandbox, bulk="{{ 'yes' }}", unsubscribe="{{ Url }}")


@pytest.mark.parametrize("space", ["\r\n", "\n", " ", "\t", "\x00"])
def test_d1_no_line_break_or_blank_is_inside_the_brackets(space):
    with pytest.raises(MessageError, match="unsubscribe"):
        make(unsubscribe=f"https://example.com/u{space}x")


def test_d1_rows_with_one_address_for_unsubscribing_are_named(sandbox):
    alone = merge(rows(), sandbox, unsubscribe=LINK, postal_address="1 High Street")
    assert notes(alone) == []
    data = rows(12, Url=lambda i: f"https://example.com/{min(i, 8)}")
    (note,) = notes(merge(data, sandbox, unsubscribe="{{ Url }}", postal_address="1 High Street"))
    assert "Rows 8 and 9 have the same address for unsubscribing, and 2 more rows one" in note
    assert note.startswith("Look at row 9: bulk-link-shared")
    fixed = merge(rows(2), sandbox, unsubscribe="https://example.com/off", postal_address="1 High Street")
    assert "Rows 0 and 1 have the same address for unsubscribing:" in notes(fixed)[0]


@pytest.mark.parametrize(
    "written",
    [
        "https://example.com/u?e=Ann.Lee@example.org",
        "https://example.com/u/ann.lee%40example.org",
        "https://example.com/u/ann.lee%2540example.org",
        f"https://example.com/u/{base64.b64encode(b'ann.lee@example.org').decode().rstrip('=')}",
        f"https://example.com/u/?{base64.urlsafe_b64encode(b'7|Ann.Lee@Example.org|x').decode()}",
    ],
)
def test_d1_an_address_for_unsubscribing_that_tells_the_recipient_is_warned_of(written, sandbox):
    message = make(to="ann.lee@example.org", unsubscribe=written)
    assert "bulk-link-open" in codes(message)
    assert any("bulk-link-open" in w for w in send(message, via=sandbox).warnings)
    assert "bulk-link-open" not in codes(message.with_(to="bob@example.org"))


def test_d1_every_row_is_looked_at_for_that_and_not_the_first_alone(sandbox):
    data = rows(9, Url=lambda i: f"https://example.com/{'p5%40example.org' if i == 5 else i}")
    (note,) = notes(merge(data, sandbox, unsubscribe="{{ Url }}", postal_address="1 High Street"))
    assert note.startswith("Look at row 5: bulk-link-open")


@given(
    address=st.from_regex(r"[a-z]{3,12}@[a-z]{3,9}\.org", fullmatch=True),
    before=st.text(st.characters(codec="ascii", categories=["Ll"]), max_size=9),
)
def test_d1_an_address_is_found_however_it_is_written(address, before):
    coded = base64.urlsafe_b64encode(f"{before}:{address}".encode()).decode().rstrip("=")
    for written in (address.upper(), quote(address, safe=""), coded):
        assert reveals(f"https://example.com/{before}/{written}", [address])


@given(token=st.text(st.sampled_from("abcdef0123456789"), min_size=16, max_size=40))
def test_d1_a_token_of_hexadecimal_digits_tells_nobody(token):
    assert not reveals(f"https://example.com/u/{token}?n={token}", ["ann.lee@example.org"])


# D2 is test_signing.test_both_names_for_unsubscribing_are_signed.


# ---------------------------------------------------------------------------------------- D3: to be seen


def test_d3_the_letter_shows_the_link_and_the_postal_address_in_both_parts():
    message = make(
        unsubscribe="https://example.com/u/1", postal_address="Müller & Co, 1 High Street", bulk=True
    )
    assert 'href="https://example.com/u/1"' in message.html
    assert "Müller &amp; Co, 1 High Street<br" in message.html
    assert message.text.endswith("-- \nMüller & Co, 1 High Street\nUnsubscribe: https://example.com/u/1\n")
    assert "Müller & Co, 1 High Street" in html_to_text(message.html)
    assert codes(message) == set()
    address = make(postal_address="1 High Street")
    assert ">1 High Street</div>" in address.html
    assert address.text == "hi\n\n-- \n1 High Street\n"


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"theme": "none"}, "the text and the HTML shows"),
        ({"body": "<p>hi</p>", "format": "html"}, "the text and the HTML shows"),
        ({"format": "text"}, "the text shows"),
        ({"theme": "<main>{{ content }}</main>"}, "the HTML shows"),
    ],
)
def test_d3_a_link_that_nobody_sees_is_warned_of(fields, where):
    message = make(unsubscribe="https://example.com/u/1", **fields)
    (finding,) = [f for f in lint(message) if f.code == "bulk-link"]
    assert where in finding.text


@pytest.mark.parametrize(
    "fields",
    [
        {"theme": "none", "body": "hi https://example.com/u/1"},
        {"format": "text", "body": "Unsubscribe at https://example.com/mine"},
        {"format": "html", "body": '<p>x <a href="https://example.com/mine">Hier abmelden</a></p>'},
        {
            "format": "html",
            "body": '<p>x <a href="https://example.com/u/1">Off</a> https://example.com/u/1</p>',
        },
    ],
)
def test_d3_a_link_of_ones_own_is_seen(fields):
    assert "bulk-link" not in codes(make(unsubscribe="https://example.com/u/1", **fields))


def test_d3_bulk_mail_without_a_postal_address_is_told_so_and_no_other_mail():
    link = {"unsubscribe": "https://example.com/u/1"}
    (finding,) = [f for f in lint(make(**link)) if f.code == "bulk-postal"]
    assert finding.level == "info"
    assert "15 U.S.C. 7704(a)(5)" in finding.text
    assert codes(make()) == set()
    hidden = make(**link, theme="none", postal_address="1 High Street")
    assert "bulk-postal" in codes(hidden)
    shown = make(**link, theme="none", body="hi, 1 High\nStreet", postal_address="1 High Street")
    assert "bulk-postal" not in codes(shown)


# ------------------------------------------------------------------------------------------- D4: alignment

KEY = {"selector": "s1", "key_file": "dkim.pem"}


@pytest.mark.parametrize(
    ("domain", "found"),
    {
        "its own": ("example.com", set()),
        "one above": ("example.com", set()),
        "of the same organisation": ("mail.example.com", set()),
        "another": ("example.org", {"dkim-domain"}),
        "one that ends alike": ("ample.com", {"dkim-domain"}),
    }.values(),
)
def test_d4_a_signature_of_another_domain_is_warned_of(domain, found):
    assert codes(make(), dkim=Dkim(domain=domain, **KEY)) == found


def test_d4_a_signature_of_the_domain_above_aligns():
    message = make(from_="me@news.example.com")
    assert codes(message, dkim=Dkim(domain="example.com", **KEY)) == set()
    both = (Dkim(domain="example.com", **KEY), Dkim(domain="relay.example.org", **KEY))
    assert codes(message, dkim=both) == {"dkim-domain"}


class Bouncing:
    """A connection with an envelope sender of its own."""

    def __init__(self, envelope_from, **settings):
        self._connection = server(**settings)
        self.envelope_from = envelope_from

    def __getattr__(self, name):
        return getattr(self._connection, name)


@pytest.mark.parametrize(
    ("envelope", "signer", "found"),
    [
        ("", None, set()),
        ("bounces@example.com", None, set()),
        ("b+{key}@bounces.example.com", None, set()),
        ("bounces@example.org", None, {"from-unaligned"}),
        ("bounces@example.org", "example.com", set()),
        ("bounces@example.org", "example.net", {"from-unaligned", "dkim-domain"}),
        ("bounces@example.com", "example.net", {"dkim-domain"}),
    ],
)
def test_d4_an_envelope_of_another_domain_needs_a_signature_of_the_from(envelope, signer, found):
    via = Bouncing(envelope, dkim=Dkim(domain=signer, **KEY) if signer else ())
    assert {f.code for f in lint(make(), via=via)} == found


@pytest.mark.parametrize(
    ("sender", "host", "warned"),
    [
        # No provider gives names with an exclamation mark, so these are nobody's.
        ("nobody!@gmail.com", "mail.example.com", True),
        ("nobody!@yahoo.co.uk", "smtp.gmail.com", True),
        ("nobody!@outlook.com", "smtp.sendgrid.net", True),
        ("nobody!@icloud.com", "mail.example.com", True),
        ("nobody!@gmail.com", "smtp.gmail.com", False),
        ("nobody!@gmail.com", "smtp-relay.gmail.com", False),
        ("nobody!@yahoo.com", "smtp.mail.yahoo.com", False),
        ("nobody!@outlook.com", "smtp-mail.outlook.com", False),
        ("nobody!@hotmail.de", "smtp.office365.com", False),
        ("nobody!@icloud.com", "smtp.mail.me.com", False),
        ("nobody!@gmail.com", "localhost", False),
        ("ann@notgmail.com", "mail.example.com", False),
        ("nobody!@gmail.com.example.org", "mail.example.com", False),
        ("nobody!@gmail.com", "evilgmail.com", True),
    ],
)
def test_d4_a_mailbox_of_a_provider_goes_by_its_own_server(sender, host, warned):
    assert ("from-provider" in codes(make(from_=sender), host=host)) is warned


def test_d4_every_sender_of_a_merge_is_looked_at(tmp_path):
    data = rows(9, From=lambda i: "nobody!@yahoo.com" if i == 6 else "me@example.com")
    report = mail_merge(
        data,
        "hi",
        subject="S",
        from_="{{ From }}",
        via="smtp://mail.example.com",
        dry_run=True,
        progress=False,
    )
    (note,) = notes(report)
    assert note.startswith("Look at row 6: from-provider")


# ------------------------------------------------------------------------------ D5: what looks personal


@pytest.mark.parametrize("subject", ["Re: the offer", "RE[2]: x", "Fwd: x", "fw: x", " re : x"])
def test_d5_an_answer_that_answers_nothing_is_warned_of(subject):
    message = make(subject=subject)
    assert codes(message) == {"subject-reply"}
    for name in ("In-Reply-To", "References"):
        assert codes(message.with_(headers={name: "<1@example.org>"})) == set()


@pytest.mark.parametrize("subject", ["Results: done", "Regards", "Forward: march", "A re: b", "Reminder"])
def test_d5_other_subjects_are_not(subject):
    assert codes(make(subject=subject)) == set()


def test_d5_a_sender_who_bears_the_recipients_name_is_warned_of():
    named = make(from_="ann LEE <news@example.com>", to="Bo <b@example.org>; Ann Lee <ann@example.org>")
    assert codes(named) == {"sender-name"}
    assert codes(named.with_(from_="Ann's shop <news@example.com>")) == set()
    assert codes(make(from_="Ann <ann@example.org>", to="Ann <ann@example.org>")) == set(), (
        "a mail to oneself"
    )


@pytest.mark.parametrize("sender", ["Person G <news@example.com>", "{{ 'Person G' }} <news@example.com>"])
def test_d5_every_row_is_looked_at_for_both(sandbox, sender):
    report = merge(rows(9), sandbox, from_=sender, to="{{ Name }} <{{ Email }}>")
    (note,) = notes(report)
    assert note.startswith("Look at row 6: sender-name")
    data = rows(9, Title=lambda i: "Re: x" if i == 4 else f"Number {i}")
    (note,) = notes(merge(data, sandbox, subject="{{ Title }}"))
    assert note.startswith("Look at row 4: subject-reply")


# --------------------------------------------------------------------------- D6, D8: nothing unasked


def test_d6_mail_to_single_people_has_no_header_of_lists():
    assert not [n for n in read(make(bulk=False)).keys() if n.lower().startswith("list-")]  # noqa: SIM118
    assert not [n for n in read(make()).keys() if n.lower().startswith("list-")]  # noqa: SIM118
    for fields in (
        {"unsubscribe": "mailto:u@example.com"},
        {"list_id": "news.example.com"},
        {"headers": {"List-Archive": "<https://example.com/a>"}},
    ):
        with pytest.raises(MessageError, match="no bulk mail"):
            make(bulk=False, **fields)
        assert make(**fields).is_bulk
    assert not make().is_bulk
    assert not make(feedback_id="a:b:c:sender").is_bulk
    with pytest.raises(OptionError, match="neither yes nor no"):
        make(bulk="perhaps")


def test_d6_implied_bulk_mail_without_one_click_is_warned_of_and_not_refused():
    assert "bulk-one-click" in codes(make(list_id="news.example.com"))
    assert "bulk-one-click" in codes(make(unsubscribe="mailto:u@example.com"))
    assert "bulk-one-click" not in codes(make(unsubscribe="https://example.com/u"))


# D7 is test_rate.test_no_two_mails_come_closer_than_the_pace and its neighbours.


def test_d8_nothing_says_by_itself_that_a_mail_is_automatic():
    bulk = {"bulk": True, "unsubscribe": "https://example.com/u", "list_id": "news.example.com"}
    assert not {"precedence", "auto-submitted"} & {n.lower() for n in read(make(**bulk)).keys()}  # noqa: SIM118
    asked = read(make(headers={"Auto-Submitted": "auto-generated", "Precedence": "bulk"}))
    assert (asked["auto-submitted"], asked["precedence"]) == ("auto-generated", "bulk")


# ------------------------------------------------------------------------------------- List-Id, Feedback-ID


@pytest.mark.parametrize(
    ("given", "value", "line"),
    [
        ("news.example.com", "<news.example.com>", b"List-Id: <news.example.com>\r\n"),
        ("<news.example.com>", "<news.example.com>", b"List-Id: <news.example.com>\r\n"),
        ("News <news.example.com>", "News <news.example.com>", b"List-Id: News <news.example.com>\r\n"),
        ('"News" <a.b>', "News <a.b>", b"List-Id: News <a.b>\r\n"),
        ("Ann's, daily <a.b>", "Ann's, daily <a.b>", b"=?utf-8?"),
        ("Größe <a.b>", "Größe <a.b>", b"=?utf-8?"),
        ("=?utf-8?q?x?= <a.b>", "=?utf-8?q?x?= <a.b>", b"=?utf-8?"),
        ("word " * 30 + "<a.b>", "word " * 30 + "<a.b>", b"\r\n word"),
    ],
)
def test_a_list_has_a_name_and_an_identifier(given, value, line):
    message = make(list_id=given)
    assert message.list_id == value
    assert line in message.as_bytes()
    found = read(message)["list-id"]
    assert found == value
    assert b"<" in message.as_bytes().split(b"List-Id: ")[1].split(b"\r\nMIME")[0], (
        "the identifier is in clear"
    )
    assert Message(list_id=message.list_id).list_id == value


@pytest.mark.parametrize(
    "given", ["news", "ann@example.com", "a b", "<a.b", "x <a>", "a.b.", "<a..b>", "a.b\r\nX: y", "ä.example.com",
              "a." + "b" * 254, "News <a.b> x"],
)  # fmt: skip
def test_what_is_no_identifier_of_a_list_is_refused(given):
    with pytest.raises(MessageError, match="list_id") as caught:
        make(list_id=given)
    assert caught.value.fix


@given(
    name=st.text(
        st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="<>\x85"), max_size=60
    )
)
def test_whatever_a_list_is_called_it_arrives_so(name):
    try:
        message = make(list_id=f"{name} <a.example.com>")
        content = message.as_bytes()
    except MessageError:
        return
    assert parsed(content)["list-id"] == message.list_id


@pytest.mark.parametrize("given", ["c:u:news:sender", "sender", "::news:sender", "c/1:sender-01"])
def test_a_feedback_id_is_three_identifiers_and_the_sender(given):
    assert read(make(feedback_id=given))["feedback-id"] == given


@pytest.mark.parametrize(
    "given",
    ["a:b:c:d:sender", "a:b:c:no", "a:b:c:", "a b:sender", "a:b:" + "s" * 16, "ä:sender", "a\n:sender"],
)
def test_what_is_no_feedback_id_is_refused(given):
    with pytest.raises(MessageError, match="feedback_id"):
        make(feedback_id=given)


@pytest.mark.parametrize(("name", "field"), [("List-Id", "list_id"), ("Feedback-ID", "feedback_id")])
def test_headers_that_have_a_field_are_set_by_it(name, field):
    with pytest.raises(MessageError, match=f"Use {field}="):
        make(headers={name: "x"})


# ------------------------------------------------------------------------------------------ both ways

EVERYTHING = {
    "to": "{{ Name }} <{{ Email }}>",
    "from_": "News <news@example.com>",
    "subject": "For {{ Name }}",
    "unsubscribe": [LINK, "mailto:u@example.com"],
    "list_id": "Größe <news.example.com>",
    "feedback_id": "c:u:news:sender",
    "postal_address": "Müller & Co, 1 High Street",
    "bulk": True,
}


def test_a_newsletter_is_filled_into_its_mold_to_the_same_octets():
    template = Template("Dear {{ Name }}", **EVERYTHING)
    press = Press(template, SERVER)
    for row in [
        *rows(20),
        *({"Email": "x@example.org", "Name": "Zoë", "Token": t} for t in ("a/b?c", "é", "a b", "", "<x>")),
    ]:
        printed = assert_same(press, template, row)
        if row["Token"].isalnum() and row["Token"].isascii():
            assert printed.link == f"https://example.com/u/{row['Token']}"
    assert press.slow_rows < 45, "rows whose token is a word are filled"
    fresh = Press(template, SERVER)
    for row in rows(20):
        fresh.print(row)
    assert fresh.slow_rows == 1


@pytest.mark.parametrize(
    "more",
    [
        {"list_id": "{{ Name }} <news.example.com>"},
        {"list_id": "{{ Token }}.example.com"},
        {"feedback_id": "{{ Token }}:sender"},
        {"postal_address": "{{ Name }}, 1 High Street"},
        {"bulk": "{{ 'yes' if Token else '' }}"},
        {"bulk": "{% if Token %}yes{% endif %}"},
        {"unsubscribe": ["https://example.com/{{ Token }}", "mailto:u@example.com?subject={{ Token }}"]},
        {"unsubscribe": "<https://example.com/{{ Token }}>, <mailto:u@example.com>"},
        {"unsubscribe": ["mailto:u@example.com", "{{ Url }}"]},
        {"unsubscribe": ["{% if Token %}https://example.com/x{% endif %}", "mailto:u@example.com"]},
        {"unsubscribe": [f"https://example.com/{'x' * 80}/{{{{ Token }}}}", "mailto:u@example.com"]},
    ],
)
def test_values_in_any_of_its_fields_make_the_same_mail_both_ways(more):
    template = Template("Dear {{ Name }}", **(EVERYTHING | more))
    press = Press(template, SERVER)
    data = rows(4, Url=lambda i: f"https://example.com/{i}" if i else "http://example.com")
    for row in [*data, data[1] | {"Token": ""}, data[1] | {"Token": "a: b"}, data[2] | {"Name": "<b>,é"}]:
        assert_same(press, template, row)


def test_a_head_has_the_fields_too(sandbox):
    head = (
        "---\nto: {{ Email }}\nfrom: news@example.com\nsubject: S\nbulk: yes\nlist-id: News <news.example.com>\n"
        f"feedback-id: c:u:news:sender\npostal-address: 1 High Street\nunsubscribe: {LINK}\n"
        "unsubscribe: mailto:u@example.com\n---\nDear {{ Name }}"
    )
    message = preview(rows(1), head)
    assert (message.bulk, message.list_id) == (True, "News <news.example.com>")
    assert message.text.endswith("-- \n1 High Street\nUnsubscribe: https://example.com/u/t0000000\n")
    assert message.warnings == ()
    assert mail_merge(rows(3), head, via=sandbox, progress=False).counts == {State.SENT: 3}


def test_the_mail_of_a_notebook_has_the_footer_too(sandbox):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title")])
    link = "https://example.com/u/1"
    given = {"from_": "me@example.com", "attach": None, "unsubscribe": link}
    send_notebook(book, "ann@example.org", via=sandbox, postal_address="1 {{ High }} Street", **given)
    (mail,) = sandbox.messages
    assert "1 {{ High }} Street" in mail.email.get_body(("plain",)).get_content()
    assert "1 {{ High }} Street<br" in mail.email.get_body(("html",)).get_content()


def test_the_connectors_json_leaves_them_out():
    message = make(unsubscribe="https://example.com/u", list_id="a.b", feedback_id="a:sender", bulk=True)
    assert set(message.to_connector()) <= {"To", "Subject", "Body", "From", "IsHtml", "Importance"}
