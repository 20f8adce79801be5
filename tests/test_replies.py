"""Replies: read off any segmentation, judged by stage, enhanced code, basic code, first digit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_notebook import State
from smtp_notebook.replies import Reply, ReplyError, ReplyReader, Stage, classify, crowded, one_line

STREAM = b"220 hello\r\n250-first\r\n250-second\r\n250 last\r\n354\r\n550 5.1.1 no \xe4\r\n250\r\n"
REPLIES = [
    Reply(220, "hello"),
    Reply(250, "first\nsecond\nlast"),
    Reply(354, ""),
    Reply(550, "5.1.1 no \ufffd"),
    Reply(250, ""),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_segmentation_gives_the_same_replies(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    reader = ReplyReader()
    found = [r for a, b in zip(edges, edges[1:], strict=False) for r in reader.feed(STREAM[a:b])]
    assert found == REPLIES


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_garbage_is_a_reply_error_or_waits_for_more(pieces):
    reader = ReplyReader()
    try:
        for piece in pieces:
            for reply in reader.feed(piece):
                assert 100 <= reply.code <= 599
    except ReplyError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "data", [b"hello\r\n", b"25\r\n", b"999 x\r\n", b"\r\n", b"250-a\r\n251 b\r\n", b"2" * 9000]
)
def test_what_is_no_reply_is_an_error(data):
    with pytest.raises(ReplyError):
        ReplyReader().feed(data)


def test_a_reply_that_never_ends_is_an_error():
    reader = ReplyReader()
    with pytest.raises(ReplyError):
        for _ in range(1000):
            reader.feed(b"250-more\r\n")


S, D, R, Q = State.SENT, State.DEFERRED, State.REFUSED, State.IN_DOUBT
TABLE = [
    (Stage.DOT, "250 2.0.0 ok", S, 200, False),
    (Stage.DOT, "299 odd", S, 200, False),
    (Stage.DOT, "354 odd", Q, 500, False),
    (Stage.DOT, "199 odd", Q, 500, False),
    (Stage.DOT, "450 4.2.0 later", D, 202, False),
    (Stage.DOT, "554 5.6.0 content", R, 400, False),
    (Stage.DOT, "552 5.3.4 size", R, 400, False),
    (Stage.DOT, "550 5.7.515 policy", R, 403, False),
    (Stage.DOT, "599 odd", R, 400, False),
    (Stage.CONNECT, "554 no service", R, 403, True),
    (Stage.CONNECT, "521 5.3.2 no mail here", R, 404, True),
    (Stage.CONNECT, "421 4.3.2 busy", D, 202, False),
    (Stage.TLS, "454 4.7.0 no tls now", R, 403, True),
    (Stage.TLS, "502 what", R, 403, True),
    (Stage.LOGIN, "535 5.7.8 wrong", R, 401, True),
    (Stage.LOGIN, "534 5.7.9 stronger", R, 401, True),
    (Stage.LOGIN, "550 5.7.30 basic off", R, 401, True),
    (Stage.LOGIN, "454 4.7.0 later", D, 202, False),
    (Stage.MAIL, "550 5.7.60 not you", R, 403, False),
    (Stage.MAIL, "550 5.1.8 no such domain", R, 403, False),
    (Stage.MAIL, "553 sender", R, 403, False),
    (Stage.MAIL, "530 login", R, 401, True),
    (Stage.MAIL, "530 5.7.0 Must issue a STARTTLS command first", R, 403, True),
    (Stage.MAIL, "538 5.7.11 encryption", R, 403, True),
    (Stage.MAIL, "501 5.5.4 syntax", R, 400, False),
    (Stage.MAIL, "451 4.3.0 later", D, 202, False),
    (Stage.RCPT, "550 5.1.1 nobody", R, 404, False),
    (Stage.RCPT, "550 5.1.10 nobody", R, 404, False),
    (Stage.RCPT, "550 nobody", R, 404, False),
    (Stage.RCPT, "551 moved", R, 404, False),
    (Stage.RCPT, "556 null mx", R, 404, True),
    (Stage.RCPT, "552 5.2.2 full", R, 400, False),
    (Stage.RCPT, "553 5.1.3 syntax", R, 404, False),
    (Stage.RCPT, "554 5.7.1 relay", R, 403, False),
    (Stage.RCPT, "452 4.2.2 full", D, 202, False),
    (Stage.DATA, "554 no", R, 403, False),
    (Stage.DATA, "250 odd", D, 202, False),
]


@pytest.mark.parametrize(("stage", "line", "state", "status", "stops"), TABLE)
def test_what_a_reply_means(stage, line, state, status, stops):
    verdict = classify(stage, Reply(int(line[:3]), line[4:]))
    assert (verdict.state, verdict.status, verdict.stops_run) == (state, status, stops)
    assert verdict.retry is (state is D)
    assert verdict.code == int(line[:3])


@pytest.mark.parametrize("stage", list(Stage))
def test_every_code_at_every_stage_has_a_state_of_the_vocabulary(stage):
    for code in range(100, 600):
        verdict = classify(stage, Reply(code, "x"))
        assert verdict.state in {S, D, R, Q}
        assert verdict.status in {200, 202, 400, 401, 403, 404, 500}
        assert (verdict.state is S) == (stage is Stage.DOT and code // 100 == 2)


def test_a_servers_text_becomes_one_printable_line():
    assert one_line("a\r\nb\x1b[31m\x00c") == "a b [31m c"
    assert len(one_line("x" * 1000)) == 300


CROWDED = {
    "421 4.7.0 too many connections from you": True,
    "421 Too many concurrent SMTP connections": True,
    "421 4.7.0 Too many sessions for this user": True,
    "432 4.3.2 Concurrent connections limit exceeded.": True,
    "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded": True,
    "421 4.7.0 too many messages on this connection": False,
    "421 4.7.28 Our system has detected an unusual rate of mail": False,
    "452 4.5.3 too many recipients": False,
    "550 5.7.1 too many connections": False,
    "250 2.0.0 too many connections": False,
}


@pytest.mark.parametrize("said", CROWDED)
def test_a_server_that_has_too_many_connections_is_told_apart_from_one_with_another_limit(said):
    verdict = classify(Stage.DOT, Reply(int(said[:3]), said[4:]))
    assert crowded(verdict) is CROWDED[said]
