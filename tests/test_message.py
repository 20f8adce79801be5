"""Messages: every field, every refusal, every kind of attachment, and the preview."""

from __future__ import annotations

import datetime as dt
import email
import html as html_module
import http.server
import io
import os
import re
import subprocess
import threading
import warnings
import zipfile
from email import policy

import matplotlib.pyplot as plt
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smtp_notebook import (
    Address,
    AddressError,
    Attachment,
    AttachmentError,
    Message,
    MessageError,
    OptionError,
)
from smtp_notebook.bodies import html_to_text
from smtp_notebook.message import preview_html


def parsed(message):
    return email.message_from_bytes(message.as_bytes(), policy=policy.default)


PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def make(**fields):
    return Message(**({"to": "ann@example.com", "from_": "me@example.com", "body": "hi"} | fields))


# ------------------------------------------------------------------------------------------- fields


def test_importance_sets_the_three_headers_that_mail_programs_read():
    high, low, normal = (parsed(make(importance=i)) for i in ("High", "low", "normal"))
    assert (high["importance"], high["x-priority"], high["x-msmail-priority"]) == ("high", "1", "High")
    assert (low["importance"], low["x-priority"], low["x-msmail-priority"]) == ("low", "5", "Low")
    assert (normal["importance"], normal["x-priority"]) == (None, None)


def test_one_click_goes_only_with_an_https_uri():
    both = parsed(make(unsubscribe=["https://example.com/u?id=1", "mailto:u@example.com?subject=off"]))
    assert both["list-unsubscribe"] == "<https://example.com/u?id=1>, <mailto:u@example.com?subject=off>"
    assert both["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    only = parsed(make(unsubscribe="mailto:u@example.com"))
    assert only["list-unsubscribe"] == "<mailto:u@example.com>"
    assert only["list-unsubscribe-post"] is None
    assert parsed(make())["list-unsubscribe"] is None


@pytest.mark.parametrize(
    "uri", ["http://example.com", "javascript:x", "https://", "https://exämple.test", "https://a b", "x"]
)
def test_other_unsubscribe_uris_are_refused(uri):
    with pytest.raises(MessageError):
        make(unsubscribe=uri)


def test_a_read_receipt_goes_to_the_sender_or_to_who_is_named():
    assert parsed(make(read_receipt=True))["disposition-notification-to"] == "me@example.com"
    assert parsed(make(read_receipt="r@example.com"))["disposition-notification-to"] == "r@example.com"
    assert parsed(make())["disposition-notification-to"] is None


def test_the_envelope_is_to_cc_and_bcc_each_once():
    message = make(
        to="a@example.com; A@EXAMPLE.com", cc="b@example.com, a@example.com", bcc=["c@example.com"]
    )
    assert message.recipients == ("a@example.com", "b@example.com", "c@example.com")


@pytest.mark.parametrize(
    ("fields", "error", "names"),
    [
        ({"subjct": "x"}, OptionError, "'subject'"),
        ({"from": "x@example.com"}, OptionError, "from_"),
        ({"to": "a@"}, AddressError, "to:"),
        ({"cc": "a@example.com\nBcc: x@example.com"}, AddressError, "line break"),
        ({"from_": "a@example.com; b@example.com"}, AddressError, "reply_to"),
        ({"subject": "a\nBcc: x@example.com"}, MessageError, "subject"),
        ({"body": "<p>hi</p>"}, MessageError, 'format="html"'),
        ({"body": 5}, MessageError, "int"),
        ({"format": "rtf"}, OptionError, "markdown"),
        ({"importance": "urgent"}, OptionError, "high"),
        ({"headers": {"To": "x@example.com"}}, MessageError, "to="),
        ({"headers": {"Content-Type": "x"}}, MessageError, "Content-Type"),
        ({"headers": {"A B": "x"}}, MessageError, "header"),
        ({"headers": {"X-A": ""}}, MessageError, "empty"),
        ({"attach": "nowhere.pdf"}, AttachmentError, "does not exist"),
        ({"attach": "."}, AttachmentError, "folder"),
        ({"attach": "../../etc/passwd"}, AttachmentError, "outside"),
        ({"attach": "a\nb"}, AttachmentError, "control character"),
        ({"attach": b"bytes"}, AttachmentError, "name"),
        ({"attach": object()}, AttachmentError, "object"),
        ({"zzqqy": "x"}, OptionError, "subject"),
        ({"body": "a\ud800"}, MessageError, "half of a character"),
        ({"body": "a\ud800", "format": "html"}, MessageError, "half of a character"),
        ({"body": "a\0"}, MessageError, "NUL"),
        ({"text": "\0"}, MessageError, "text:"),
        ({"html": "\ud800"}, MessageError, "html:"),
        ({"text": 5}, MessageError, "int"),
        ({"subject": "\ud800"}, MessageError, "control character"),
        ({"subject": "a\0b"}, MessageError, "U+0000"),
        ({"date": "yesterday"}, MessageError, "str"),
        ({"message_id": "mine"}, MessageError, "<unique@example.com>"),
        ({"message_id": "<a@b>\r\nBcc: x@example.com"}, MessageError, "line break"),
        ({"headers": [("X-A", "1"), ("x-a", "2")]}, MessageError, "twice"),
        ({"headers": {"X-A": "1"}, "X-A": "2"}, MessageError, "twice"),
        ({"headers": "X-A: 1"}, MessageError, "pairs"),
        ({"headers": {"Sender": "x@example.com"}}, MessageError, "Sender"),
        ({"headers": {"Bcc": "x@example.com"}}, MessageError, "bcc="),
        ({"headers": {"Resent-Bcc": "x@example.com"}}, MessageError, "Resent-Bcc"),
        ({"headers": {"X-Priority": "1"}}, MessageError, "importance="),
        ({"X-MSMail-Priority": "High"}, MessageError, "importance="),
        ({"headers": {"List-Unsubscribe": "<https://example.com>"}}, MessageError, "unsubscribe="),
        ({"headers": {"X-A": "b\r\nBcc: x@example.com"}}, MessageError, "line break"),
        ({"headers": {"X-A\r\nBcc": "x@example.com"}}, MessageError, "name"),
        ({"read_receipt": "a@example.com; b@example.com"}, AddressError, "one address"),
        ({"read_receipt": " , "}, AddressError, "one address"),
        ({"unsubscribe": "https://example.com/\r\nBcc: x@example.com"}, MessageError, "line break"),
        ({"attach": ""}, AttachmentError, "empty"),
        ({"attach": "x" * 300}, AttachmentError, "too long"),
        ({"attach": "~nobody-of-that-name/x"}, AttachmentError, "home"),
        ({"attach": "/etc/passwd"}, AttachmentError, "outside"),
        ({"attach": "/dev/zero", "attach_root": "/dev"}, AttachmentError, "regular"),
        ({"attach": float("nan")}, AttachmentError, "float"),
        ({"inline": "nowhere.png"}, AttachmentError, "does not exist"),
    ],
)
def test_each_refusal_names_the_field_and_the_next_step(fields, error, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        make(**fields)
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.cause.endswith(".")
    assert caught.value.fix


@pytest.mark.parametrize(
    "field",
    [
        "to",
        "cc",
        "bcc",
        "reply_to",
        "from_",
        "subject",
        "read_receipt",
        "unsubscribe",
        "list_id",
        "feedback_id",
        "postal_address",
        "bulk",
        "attach",
        "inline",
        "importance",
        "format",
        "message_id",
    ],
)
def test_a_line_break_adds_nothing_in_any_field(field):
    with pytest.raises((MessageError, OptionError)):
        make(**{field: "a@example.com\nBcc: x@example.net"})


def test_a_subject_that_hides_a_header_in_an_encoded_word_stays_text():
    evil = "=?utf-8?q?hi=0D=0ABcc:_evil=40e.com?="
    message = make(subject=evil)
    assert parsed(message)["subject"] == evil
    assert parsed(message)["bcc"] is None
    assert message.recipients == ("ann@example.com",)


def test_nothing_is_as_good_as_left_out():
    message = Message(
        to=None, cc="", bcc=[], subject=None, attach=None, inline=None, headers=None, unsubscribe=None,
        list_id=None, feedback_id=None, postal_address=None, bulk=None,
    )  # fmt: skip
    assert (message.recipients, message.subject, message.attach, message.headers) == ((), "", (), ())


def test_x_headers_pass_as_fields_and_others_in_headers():
    message = parsed(make(**{"X-Mailer": "nb", "headers": {"References": "<1@example.com>"}}))
    assert (message["x-mailer"], message["references"]) == ("nb", "<1@example.com>")


def test_a_message_is_frozen_and_with_gives_a_copy():
    message = make(subject="a")
    other = message.with_(subject="b", body="<b>x</b>", format="html")
    assert (message.subject, other.subject, other.text.strip()) == ("a", "b", "x")
    with pytest.raises(AttributeError):
        message.subject = "c"
    assert repr(other) == "<Message 'b' to ann@example.com>"
    assert make(to=[f"p{i}@example.com" for i in range(9)]).__repr__().endswith("and 6 more>")


def test_a_changed_body_is_asked_again_whether_it_is_html():
    with pytest.raises(MessageError, match='format="html"'):
        make().with_(body="<p>x</p>")
    assert "&lt;p&gt;" in make().with_(body="<p>x</p>", format="markdown").html
    assert make(format="html").with_(body="<p>x</p>").html == "<p>x</p>"
    assert make(format="text").with_(body="<p>x</p>").html is None


def test_a_naive_date_is_local_time():
    moment = dt.datetime(2026, 1, 2, 3, 4, 5)
    assert make(date=moment).date == moment.astimezone()


addresses = st.sampled_from(
    ["a@example.com", "A@example.com", "b@example.com", "b@EXAMPLE.com", "jö@exämple.test", "c@[127.0.0.1]"]
)


@given(
    to=st.lists(addresses, max_size=4),
    cc=st.lists(addresses, max_size=4),
    bcc=st.lists(addresses, max_size=4),
)
@settings(max_examples=100, deadline=None)
def test_the_envelope_is_the_union_of_the_three_fields_and_nothing_else(to, cc, bcc):
    """C1."""
    message = make(to=to, cc=cc, bcc=bcc)
    meant = {Address(a).wire.lower() for a in (*to, *cc, *bcc)}
    assert len(message.recipients) == len(meant)
    assert {r.lower() for r in message.recipients} == meant


@given(secret=st.from_regex(r"[a-z]{12}@[a-z]{8}\.test", fullmatch=True))
@settings(max_examples=40, deadline=None)
def test_a_blind_copy_is_in_the_envelope_and_nowhere_in_the_bytes(secret):
    """B5."""
    message = make(bcc=f"Somebody <{secret}>")
    assert secret in message.recipients
    assert secret.encode() not in message.as_bytes()


def test_markdown_has_a_text_twin_and_html_with_breaks_kept():
    message = make(body="**Bold**\nsecond line\n\n- item")
    assert message.text == "**Bold**\nsecond line\n\n- item"
    assert "<strong>Bold</strong><br>" in message.html
    assert re.search(r"<li[^>]*>item</li>", message.html)


def test_html_that_a_person_wrote_is_not_rewritten():
    html = "<div><p>Hi,\nthere <custom-tag x=1>  </p></div>"
    assert make(body=html, format="html").html == html


def test_without_a_sender_there_are_no_bytes():
    with pytest.raises(MessageError, match="From"):
        Message(to="ann@example.com").as_bytes()


def test_saving_writes_what_travels(tmp_path):
    message = make(subject="kept").stamped()
    path = message.save(tmp_path / "mail.eml")
    assert email.message_from_bytes(path.read_bytes(), policy=policy.default)["subject"] == "kept"


# -------------------------------------------------------------------------------------- attachments


def test_a_frame_becomes_the_kind_of_file_that_its_name_says():
    frame = pd.DataFrame({"a": [1, 2], "b": ["é", "=1+1"]})
    assert Attachment(frame, "x.csv").content.decode("utf-8-sig") == "a,b\r\n1,é\r\n2,=1+1\r\n"
    assert pd.read_excel(io.BytesIO(Attachment(frame, "x.xlsx").content)).equals(frame)
    assert pd.read_parquet(io.BytesIO(Attachment(frame, "x.parquet").content)).equals(frame)
    assert b"<table" in Attachment(frame, "x.html").content
    assert Attachment(pl.DataFrame({"a": [1]}), "p.csv").content == b"\xef\xbb\xbfa\r\n1\r\n"
    assert Attachment(pl.DataFrame({"a": [1]})).name == "table.csv"
    assert Attachment(pa.table({"a": [1]}), "p.csv").content == b"\xef\xbb\xbfa\r\n1\r\n"
    assert Attachment(frame["a"], "s.csv").content == b"\xef\xbb\xbfa\r\n1\r\n2\r\n"
    with pytest.raises(AttachmentError, match=r"\.csv"):
        Attachment(frame, "x.doc")


def test_text_in_a_workbook_is_never_a_formula():
    book = Attachment(pd.DataFrame({"a": ["=1+1", "+1", "@x"], "=b": [1, 2, 3]}), "x.xlsx").content
    with zipfile.ZipFile(io.BytesIO(book)) as archive:
        assert b"<f>" not in archive.read("xl/worksheets/sheet1.xml")
    assert list(pd.read_excel(io.BytesIO(book))["a"]) == ["=1+1", "+1", "@x"]


@pytest.mark.parametrize(
    ("frame", "name"),
    [
        (pd.DataFrame({"a": pd.to_datetime(["2026-01-01"], utc=True)}), "zone.xlsx"),
        (pd.DataFrame({"a": ["\x01"]}), "control.xlsx"),
        (pd.DataFrame({"a": ["x" * 40_000]}), "long.xlsx"),
        (pd.DataFrame({"a": [1, "x"]}, dtype=object), "mixed.parquet"),
        (pd.DataFrame({"a": [1]}), "no-suffix"),
    ],
)
def test_a_frame_that_a_format_cannot_hold_is_refused_and_never_cut(frame, name):
    with warnings.catch_warnings(), pytest.raises(AttachmentError) as caught:
        warnings.simplefilter("ignore")  # as in a notebook, where a warning stops nothing
        Attachment(frame, name)
    assert caught.value.fix
    assert "\n" not in str(caught.value)


class Shown:
    def _repr_png_(self):
        return PNG

    def _repr_svg_(self):
        return "<svg/>"

    def _repr_html_(self):
        return "<b>x</b>"


def test_the_name_chooses_what_an_object_is_attached_as():
    assert (Attachment(Shown()).name, Attachment(Shown()).content) == ("image.png", PNG)
    assert Attachment(Shown(), "x.svg").content == b"<svg/>"
    assert Attachment(Shown(), "x.html").content == b"<b>x</b>"
    with pytest.raises(AttachmentError, match=r"\.svg"):
        Attachment(Shown(), "x.csv")


def test_an_attachment_of_an_attachment_keeps_what_is_not_said_anew():
    first = Attachment(PNG, "a.png", content_id="a")
    assert Attachment(first) == first
    assert (Attachment(first, "b.png").name, Attachment(first, "b.png").content_id) == ("b.png", "a")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.csv", "text/csv"),
        ("x.tar.gz", "application/gzip"),
        ("x.eml", "application/octet-stream"),
        ("x.mht", "application/octet-stream"),
        ("X.PDF", "application/pdf"),
        ("none", "application/octet-stream"),
    ],
)
def test_the_type_follows_the_name_on_every_machine(name, kind):
    assert Attachment(b"x", name).type == kind


def test_a_name_in_the_type_is_the_files_name():
    file = Attachment(b"x", type='application/pdf; name="Angebot 1.pdf"')
    assert (file.name, file.type) == ("Angebot 1.pdf", "application/pdf")


class Half:
    def __init__(self, value):
        self.value = value

    def read(self):
        return self.value


@pytest.mark.parametrize("content", [Half(None), Half(5), Half("\ud800"), "\ud800", 5, None, object, Shown])
def test_what_gives_no_bytes_is_refused(content):
    with pytest.raises(AttachmentError) as caught:
        Attachment(content, "x")
    assert caught.value.fix


def test_a_closed_file_is_refused():
    file = io.BytesIO(b"x")
    file.close()
    with pytest.raises(AttachmentError, match="closed"):
        Attachment(file, "x")


def test_figures_images_text_bytes_and_files_can_be_attached(tmp_path):
    figure, _ = plt.subplots()
    assert Attachment(figure).content.startswith(b"\x89PNG")
    assert Attachment(figure, "f.svg").type == "image/svg+xml"
    plt.close(figure)
    image = Image.new("RGB", (2, 2))
    assert Attachment(image, "i.jpg").content.startswith(b"\xff\xd8")
    assert (Attachment("héllo").content, Attachment("x").name) == ("héllo".encode(), "attachment.txt")
    assert Attachment(io.BytesIO(b"x"), "x.pdf").type == "application/pdf"
    assert Attachment(b"x").name == "attachment.bin"
    (tmp_path / "r.csv").write_text("a")
    assert (Attachment.from_path(tmp_path / "r.csv").name, Attachment.from_path(tmp_path / "r.csv").type) == (
        "r.csv",
        "text/csv",
    )


def test_a_file_that_cannot_be_opened_says_why(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(AttachmentError, match="cannot be read"):
        Attachment.from_path(tmp_path / "file" / "inside")
    for place, why in (
        ("nowhere", "does not exist"),
        (".", "folder"),
        ("/dev/null", "regular"),
        ("x\0", "control"),
    ):
        with pytest.raises(AttachmentError, match=why) as caught:
            Attachment.from_path(tmp_path / place if place != "/dev/null" else place)
        assert caught.value.fix
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(AttachmentError):
        make(attach="loop", attach_root=tmp_path)


def test_a_file_that_one_may_not_read_says_so(tmp_path):
    file = tmp_path / "secret.txt"
    file.write_text("x")
    file.chmod(0)
    own = os.geteuid()
    try:
        if own == 0:
            os.seteuid(65534)  # root may read everything, so be nobody for a moment
        with pytest.raises(AttachmentError, match="permissions"):
            Attachment.from_path(file)
    finally:
        os.seteuid(own)


def test_a_link_does_not_lead_out_of_the_folder(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.txt").write_text("s")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(AttachmentError, match="outside"):
        make(attach="link.txt", attach_root=root)
    (root / "folder").symlink_to(tmp_path)
    for path in ("folder/secret.txt", "../secret.txt", str(tmp_path / "secret.txt"), "x/../../secret.txt"):
        with pytest.raises(AttachmentError, match="outside"):
            make(attach=path, attach_root=root)
    (root / "sub").mkdir()
    (root / "sub" / "ok.txt").write_text("fine")
    (root / "inner.txt").symlink_to("sub/ok.txt")
    for path in ("sub/ok.txt", "inner.txt", "sub/../sub/ok.txt", str(root / "sub" / "ok.txt")):
        assert make(attach=path, attach_root=root).attach[0].content == b"fine"
    assert make(attach="inner.txt", attach_root=root).attach[0].name == "inner.txt"


@pytest.mark.parametrize(
    "name", ["a/b.txt", "..", ".", "a\\b", "a\nb", "a\0b", "\ud800", " ", "x" * 300, "é" * 128, 5]
)
def test_a_files_name_has_no_path(name):
    with pytest.raises(AttachmentError):
        Attachment(b"x", name)


@pytest.mark.parametrize(
    "kind",
    [
        "image",
        "image/png;",
        "image/png; x",
        'a/b; x="',
        "message/rfc822",
        "Multipart/mixed",
        "a/b\r\nBcc: x",
        "a/b; x=1\r\nBcc: x",
        5,
    ],
)
def test_a_media_type_is_one(kind):
    with pytest.raises(AttachmentError):
        Attachment(b"x", "x", kind)


# ------------------------------------------------------------------------------------------ preview

HOSTILE = "</iframe><script>top.pwned=1</script>"


def documents(shown):
    """The iframes' documents, as a browser takes them out of the attribute."""
    return [html_module.unescape(d) for d in re.findall(r'srcdoc="([^"]*)"', shown)]


def test_the_preview_locks_the_body_in_and_escapes_the_rest():
    """E1."""
    message = Message(
        to=Address("a@example.com", HOSTILE),
        cc=Address("b@example.com", HOSTILE),
        subject=HOSTILE,
        body=HOSTILE,
        format="html",
        warnings=[HOSTILE],
        attach=[Attachment(b"x", '"><script>.txt')],
    )
    shown = message._repr_mimebundle_(include=None, exclude=None)["text/html"]
    assert "<script" not in shown
    assert re.findall("sandbox=[^ ]*", shown) == ['sandbox=""']
    assert shown.count("<iframe") == shown.count("</iframe") == 1
    (document,) = documents(shown)
    assert HOSTILE in document
    assert document.index("default-src 'none'") < document.index(HOSTILE)


@given(st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_body_stays_inside_its_attribute(text):
    text = re.sub("[\0\ud800-\udfff]", "", text)
    shown = preview_html(make(body=text + HOSTILE, format="html"))
    assert len(re.findall("<iframe|<script", shown)) == 1
    assert documents(shown)[0].endswith(text + HOSTILE)


def test_the_preview_shows_the_mails_own_images():
    shown = preview_html(
        make(
            body='<img src="cid:l.png"><img src="cid:p%40x">',
            format="html",
            inline=[Attachment(PNG, "l.png"), Attachment(PNG, "p", "image/png", "p@x")],
        )
    )
    assert shown.count("data:image/png;base64,") == 2
    assert "cid:" not in shown


def test_the_preview_names_the_headers_the_files_and_what_it_leaves_out():
    message = make(
        cc="Bob <bob@example.com>", bcc="cy@example.com", subject="S & T", importance="high",
        body="<img src='https://example.com/x.png'>", format="html", attach=[Attachment(b"x" * 2048, "r.pdf")],
    )  # fmt: skip
    for shown in message._repr_mimebundle_().values():
        text = html_module.unescape(shown)
        for part in (
            "Bob <bob@example.com>",
            "cy@example.com",
            "S & T",
            "high",
            "r.pdf (2 kB)",
            "not loaded",
        ):
            assert part in text


def test_a_text_is_shown_as_text():
    (document,) = documents(preview_html(make(body="<b>a</b>\n  b", format="text")))
    assert "&lt;b&gt;a&lt;/b&gt;\n  b</pre>" in document


REMOTE = """<!doctype html><html><head><base href="{0}/base/"><link rel=stylesheet href="{0}/css">
<link rel=preload as=image href="{0}/preload"><link rel=prefetch href="{0}/prefetch"><link rel=icon href="{0}/icon">
<link rel=preconnect href="{0}"><meta http-equiv=refresh content="0;url={0}/refresh">
<style>@import "{0}/import";@font-face{{font-family:f;src:url({0}/font)}}p{{font-family:f;background:url({0}/bg)}}</style></head>
<body background="{0}/body"><p>text<img src="{0}/img" srcset="{0}/srcset 2x"><picture><source srcset="{0}/source"><img src=x></picture>
<video autoplay src="{0}/video" poster="{0}/poster"></video><audio autoplay src="{0}/audio"></audio><iframe src="{0}/frame"></iframe>
<object data="{0}/object"></object><embed src="{0}/embed"><svg><image href="{0}/svg" /><use href="{0}/use#x" /></svg>
<script src="{0}/script"></script><script>new Image().src="{0}/js";document.title="ran"</script><input type=image src="{0}/input">
<form action="{0}/form" id=f></form><img src=x onerror="this.onerror=null;this.src='{0}/onerror'"><math><maction xlink:href="{0}/math">x</maction></math></body></html>"""


@pytest.mark.browser
def test_a_preview_fetches_nothing_and_runs_nothing(chromium, tmp_path):
    """Whatever a body names on the network, opening its preview in a real browser asks for none of it."""
    asked = []

    class Trap(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trap) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        body = REMOTE.format(f"http://127.0.0.1:{server.server_port}")
        page = tmp_path / "page.html"
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command += [
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=4000",
            "--dump-dom",
            page.as_uri(),
        ]
        found = {}
        for name, content in (("bare", body), ("preview", preview_html(make(body=body, format="html")))):
            asked.clear()
            page.write_text(f"<!doctype html><meta charset=utf-8>{content}", encoding="utf-8")
            done = subprocess.run(command, check=True, capture_output=True, timeout=120)
            found[name] = list(asked)
            assert b"text" in done.stdout
        server.shutdown()
    assert len(found["bare"]) > 5, "the trap itself does not work"
    assert found["preview"] == []


@pytest.mark.parametrize(
    "document",
    [
        '\x85<?xml\nversion="1.0"\nencoding="utf-8"?><p>hello</p>',
        '<?xml\tversion="1.0" encoding="utf-8"?><p>hello</p>',
        '  <?xml version="1.0" encoding="utf-8"?><p>hello</p>',
        '<!-- note --><?xml version="1.0" encoding="latin-1"?><p>hello</p>',
    ],
)
def test_an_xml_declaration_before_html_is_no_obstacle(document):
    assert html_to_text(document).strip() == "hello"


@pytest.mark.parametrize(
    "document", ["<!-- nothing -->", "<?xml version='1.0'?>", "\x85", "<html></html>", "&nbsp;"]
)
def test_html_without_text_has_an_empty_twin(document):
    assert html_to_text(document).strip() == ""


def test_a_preview_is_rendered_in_standards_mode():
    shown = preview_html(make(body="<!doctype html><p>x</p>", format="html"))
    assert re.search(r'srcdoc="&lt;!doctype html&gt;&lt;meta http-equiv', shown)
