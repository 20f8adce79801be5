"""A mail as it may be looked at; whether it runs anything is the browser's tests' to say."""

from __future__ import annotations

import pytest

from smtp_notebook import Attachment, Message
from smtp_notebook.views import IMAGES, SOURCE, source_text, view_of, viewed


def page(html):
    return viewed(html, "", (), image=lambda _: None).page


def test_a_page_begins_with_its_policy():
    assert page("<p>x").startswith(
        '<!doctype html><meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'
    )


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("<style>@media (prefers-color-scheme:dark){a{b:c}}</style>", "@media (smtpnb:dark){a{b:c}}"),
        ("<style>@media screen and ( PREFERS-COLOR-SCHEME : light ){}", "@media screen and (smtpnb:light){}"),
        ("<style media='(prefers-color-scheme: dark)'>a{}</style>", "media='(smtpnb:dark)'"),
        (
            "<style>:root{color-scheme:light dark;color:red}</style>",
            "{color-scheme: only smtpnb-scheme;color:red}",
        ),
        ('<p style="color-scheme:dark">x', '<p style="color-scheme: only smtpnb-scheme">x'),
        ("<p>(prefers-color-scheme: dark)</p>", "<p>(prefers-color-scheme: dark)</p>"),
    ],
)
def test_what_a_mail_asks_of_the_screen_is_left_to_the_preview(given, shown):
    assert shown in page(given)


def test_images_of_the_mail_are_inside_the_page():
    message = Message(
        body='<img src="cid:a" alt="x">',
        format="html",
        inline=[Attachment(b"\x89PNG", "a.png", content_id="a")],
    )
    assert "data:image/png;base64,iVBORw==" in view_of(message).page


def test_images_that_are_too_much_for_a_page_are_left_out():
    shown = viewed(
        "<img src=cid:a><img src=cid:b>", "", (), image=lambda _: ("image/png", bytes(IMAGES // 2 + 1))
    )
    assert shown.page.count("data:image/png") == 1


def test_a_mail_of_text_has_no_page():
    view = view_of(Message(to="a@example.com", subject="S", body="hi", format="text"))
    assert (view.page, view.text.strip()) == ("", "hi")
    assert ("Subject", "S") in view.headers


def test_a_long_source_says_how_much_is_missing():
    assert source_text(b"a\r\nb") == "a\nb"
    assert source_text(b"x" * (SOURCE + 7)).endswith("… and 7 more bytes")
    assert source_text(b"\xff\xfe") == "\ufffd\ufffd"
