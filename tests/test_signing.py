"""DKIM: what is signed here verifies for readers that are not ours, after a trip too, and not once it was changed."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import pickle
import re
import shutil
import subprocess
import sys
import threading
from itertools import pairwise

import dkim
import pytest
from conftest import ROOT, missing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from mailservers import running_postfix

from smtp_notebook import (
    Attachment,
    Connection,
    Dkim,
    Message,
    PreflightError,
    Sandbox,
    SettingsError,
    State,
    amail_merge,
    connect,
    mail_merge,
    send,
)
from smtp_notebook.cells import cell_of, connecting
from smtp_notebook.connection import _folder
from smtp_notebook.preflight import WINDOW
from smtp_notebook.servers import find_server
from smtp_notebook.signing import HEADERS, ROOM, Signer, relaxed_body, relaxed_header

MOMENT = dt.datetime(2026, 5, 4, 3, 2, 1, tzinfo=dt.UTC)
KINDS = ("rsa", "ed25519")


def pem(key, kind=serialization.PrivateFormat.PKCS8, lock=None):
    return key.private_bytes(serialization.Encoding.PEM, kind, lock or serialization.NoEncryption())


@pytest.fixture(scope="module")
def made():
    """One key of each kind, made now and kept nowhere."""
    return {"rsa": rsa.generate_private_key(65537, 2048), "ed25519": ed25519.Ed25519PrivateKey.generate()}


@pytest.fixture
def keys(made, tmp_path):
    """A setting for each kind, its key in a file of this test's own."""
    for name, key in made.items():
        (tmp_path / f"{name}.pem").write_bytes(pem(key))
    return {
        name: Dkim(domain="example.com", selector=f"s-{name}", key_file=str(tmp_path / f"{name}.pem"))
        for name in made
    }


def dns_of(*settings):
    records = {f"{each.name}.".encode(): each.record().encode() for each in settings}
    return lambda name, **_: records.get(name)


def verdicts(raw, *settings):
    """What dkimpy says of each signature of a mail, with the names that it covers."""
    verifier = dkim.DKIM(raw)
    count = len(re.findall(rb"(?mi)^DKIM-Signature:", raw.partition(b"\r\n\r\n")[0]))
    found = []
    for number in range(count):
        try:
            found.append(verifier.verify(idx=number, dnsfunc=dns_of(*settings)))
        except dkim.ValidationError:  # what it says of a body that was changed
            found.append(False)
    covered = verifier.signature_fields.get(b"h", b"") if count else b""
    return found, [n.strip().decode() for n in covered.split(b":")]


def newsletter(**fields):
    given = {
        "to": "Ann <ann@example.org>",
        "cc": "c@example.org",
        "reply_to": "answers@example.com",
        "from_": "News <news@example.com>",
        "subject": "Größe und mehr",
        "body": "Hello **there**\n\n.a dot\nFrom me  \n\ttab\n",
        "unsubscribe": ["https://example.com/u/1a2b", "mailto:u@example.com"],
        "list_id": "News <news.example.com>",
        "feedback_id": "c1:c2:news:example",
        "headers": {"References": "<1@example.org>", "In-Reply-To": "<1@example.org>"},
        "attach": Attachment(b"1,2\n" * 9000, "a.csv"),
    }
    return Message(**(given | fields))


# ------------------------------------------------------------------------------------ what is signed


@pytest.mark.parametrize("kind", KINDS)
def test_a_signed_mail_verifies_and_a_changed_one_does_not(keys, kind):
    content = newsletter().as_bytes()
    raw = Signer([keys[kind]]).sign([content], MOMENT) + content
    assert verdicts(raw, keys[kind])[0] == [True]
    for before, after in [
        (b"MSwy", b"MSwz"),
        (b"Hello", b"Hallo"),
        (b"Subject: ", b"Subject: Re: "),
        (b"From: News", b"From: Nuws"),
        (b"u/1a2b", b"u/1a2c"),
        (b"One-Click", b"Two-Click"),
    ]:
        changed = raw.replace(before, after, 1)
        assert changed != raw
        assert verdicts(changed, keys[kind])[0] == [False], before


def test_both_names_for_unsubscribing_are_signed(keys):
    """RFC 8058, 4, demands it of them; the others are those of RFC 6376, 5.4.1."""
    content = newsletter().as_bytes()
    raw = Signer([keys["rsa"]]).sign([content], MOMENT) + content
    _, covered = verdicts(raw, keys["rsa"])
    assert {"list-unsubscribe", "list-unsubscribe-post"} <= set(covered)
    assert covered == [n.decode() for n in HEADERS if n != b"content-transfer-encoding"]
    assert b"l=" not in re.sub(rb"[bh]+=[^;]*", b"", raw.partition(b"\r\nDate")[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_from_breaks_the_signature(keys, kind):
    content = newsletter().as_bytes()
    raw = b"From: evil@example.net\r\n" + Signer([keys[kind]]).sign([content], MOMENT) + content
    assert verdicts(raw, keys[kind])[0] == [False]


def test_several_keys_make_several_signatures_that_all_verify(keys):
    content = newsletter().as_bytes()
    raw = Signer(keys.values()).sign([content], MOMENT) + content
    assert verdicts(raw, *keys.values())[0] == [True, True]


def test_the_same_mail_and_moment_have_the_same_signature(keys):
    content = newsletter().as_bytes()
    first, second = (Signer([keys["rsa"]]).sign([content], MOMENT) for _ in range(2))
    assert first == second
    assert first != Signer([keys["rsa"]]).sign([content], MOMENT + dt.timedelta(seconds=1))


def test_the_lines_of_a_signature_are_short_and_it_fits_the_room_that_is_kept_for_it(tmp_path):
    (tmp_path / "big.pem").write_bytes(pem(rsa.generate_private_key(65537, 4096)))
    long = ".".join(["x" * 60] * 4)
    settings = Dkim(domain=f"{long[:200]}.com", selector="s" * 60, key_file=str(tmp_path / "big.pem"))
    lines = Signer([settings]).sign([newsletter().as_bytes()], MOMENT)
    assert len(lines) <= ROOM
    assert lines.endswith(b"\r\n")
    assert max(map(len, lines.split(b"\r\n"))) < 300
    usual = Signer([Dkim(domain="example.com", selector="s1", key_file=str(tmp_path / "big.pem"))])
    assert max(map(len, usual.sign([newsletter().as_bytes()], MOMENT).split(b"\r\n"))) <= 78


blanks = st.text(st.sampled_from("a \t\r\n."), max_size=60).map(
    lambda t: t.replace("\r", "").replace("\n", "\r\n").encode() + b"\r\n"
)


@given(body=blanks)
def test_a_body_is_made_plain_as_the_verifier_makes_it(body):
    assert relaxed_body(body) == dkim.canonicalization.Relaxed.canonicalize_body(body)


@given(
    value=st.text(st.sampled_from("ab:; \tü"), max_size=40).map(lambda t: t.replace("b", "\r\n ").encode())
)
def test_a_header_is_made_plain_as_the_verifier_makes_it(value):
    ((name, found),) = dkim.canonicalization.Relaxed.canonicalize_headers([(b"Subject ", value + b"\r\n")])
    assert relaxed_header(b"Subject ", value) + b"\r\n" == name + b":" + found


@given(
    body=st.text(max_size=200), subject=st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=80)
)
def test_whatever_a_mail_says_its_signature_verifies(signer, body, subject):
    key, found = signer
    try:
        content = newsletter(body=body, subject=subject, format="text", attach=()).as_bytes()
    except ValueError:
        return
    assert verdicts(found.sign([content], MOMENT) + content, key)[0] == [True]


@pytest.fixture(scope="module")
def signer(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "key.pem"
    path.write_bytes(pem(made["ed25519"]))
    key = Dkim(domain="example.com", selector="s", key_file=str(path))
    return key, Signer([key])


# ---------------------------------------------------------------------------------------- on its way


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_sandbox_received_verifies(keys, kind):
    with Sandbox() as box:
        via = box.connection.with_(dkim=keys[kind])
        send(newsletter(), via=via)
        send(newsletter(to="jörg@example.org", attach=()), via=via)
        for mail in box.messages:
            assert verdicts(mail.raw, keys[kind])[0] == [True]


def test_every_row_of_a_merge_is_signed_with_its_own_date_and_message_id(keys):
    rows = [{"Email": f"p{i}@example.org", "n": i} for i in range(40)]
    with Sandbox() as box:
        via = box.connection.with_(dkim=keys["ed25519"])
        report = mail_merge(
            rows, "Hi {{ n }}", subject="S {{ n }}", from_="me@example.com", via=via, progress=False
        )
        assert report.counts == {State.SENT: 40}
        for mail in box.messages:
            assert verdicts(mail.raw, keys["ed25519"])[0] == [True]
            assert mail.raw.startswith(b"DKIM-Signature: ")
        assert {m.email["Message-ID"] for m in box.messages} == {o.message_id for o in report}


def test_a_run_that_prints_its_mails_again_signs_what_leaves(keys, monkeypatch):
    from smtp_notebook import preflight

    monkeypatch.setattr(preflight, "MEMORY_BUDGET", 0)
    rows = [{"Email": f"p{i}@example.org", "n": i} for i in range(5)]
    with Sandbox() as box:
        via = box.connection.with_(dkim=keys["rsa"])
        mail_merge(rows, "Hi {{ n }}", subject="S", from_="me@example.com", via=via, progress=False)
        assert [verdicts(m.raw, keys["rsa"])[0] for m in box.messages] == [[True]] * 5


def test_postfix_hands_on_a_signature_that_verifies(keys):
    with running_postfix() as postfix:
        via = Connection.from_url(postfix.url, dkim=list(keys.values()))
        send(newsletter(to="ann@example.test", cc=()), via=via)
        postfix.delivered(1)
        (path,) = postfix._files()
        raw = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        assert b"Received: " in raw
        assert verdicts(raw, *keys.values())[0] == [True, True]
        assert verdicts(raw.replace(b"MSwy", b"MSwz", 1), *keys.values())[0] == [False, False]


def test_a_verifier_in_another_language_agrees(keys):
    """Mail::DKIM of Perl, which knows nothing of dkimpy; it has no Ed25519."""
    perl = shutil.which("perl")
    if (
        perl is None
        or subprocess.run([perl, "-MMail::DKIM", "-e1"], check=False, capture_output=True).returncode
    ):
        missing("no Mail::DKIM here: apt install libmail-dkim-perl")
    key = keys["rsa"]
    content = newsletter().as_bytes()
    raw = Signer([key]).sign([content], MOMENT) + content
    command = [perl, str(ROOT / "tests" / "dkim_verify.pl"), key.name, key.record()]
    for mail, said in [(raw, "pass"), (raw.replace(b"MSwy", b"MSwz", 1), "fail (body has been altered)")]:
        done = subprocess.run(command, input=mail, check=False, capture_output=True)
        assert done.stdout.decode().strip() == f"rsa-sha256 example.com {said}", done.stderr


# ------------------------------------------------------------------------------------- which key


def test_a_key_that_cannot_be_read_is_said_before_anything_is_sent(keys, tmp_path, sandbox):
    gone = Dkim(domain="example.com", selector="s1", key_file=str(tmp_path / "none.pem"))
    via = sandbox.connection.with_(dkim=gone)
    for start in (lambda: connect(via), lambda: send(newsletter(), via=via), lambda: find_server(via)):
        with pytest.raises(SettingsError, match="none.pem.* cannot be read: No such file"):
            start()
    with pytest.raises(SettingsError, match="cannot be read"):
        mail_merge([{"Email": "a@example.org"}], "x", via=via, from_="me@example.com", subject="s")
    assert not sandbox.messages
    assert find_server(via, login=False).signer is None, "a look at the settings needs no key"


@pytest.mark.parametrize(
    ("content", "said"),
    {
        "no key": (lambda: b"hello", "holds no private key in PEM"),
        "empty": (lambda: b"", "holds no private key in PEM"),
        "another kind": (lambda: pem(ec.generate_private_key(ec.SECP256R1())), "neither RSA nor Ed25519"),
        "encrypted": (
            lambda: pem(
                ed25519.Ed25519PrivateKey.generate(), lock=serialization.BestAvailableEncryption(b"secret")
            ),
            "is encrypted",
        ),
    }.values(),
)
def test_a_key_that_does_not_fit_is_refused_with_a_way_out(tmp_path, content, said):
    (tmp_path / "k.pem").write_bytes(content())
    key = Dkim(domain="example.com", selector="s1", key_file=str(tmp_path / "k.pem"))
    with pytest.raises(SettingsError, match=said) as caught:
        Signer([key])
    assert "openssl genpkey" in caught.value.fix
    assert caught.value.__suppress_context__


def test_a_short_rsa_key_is_refused(keys, monkeypatch):
    from smtp_notebook import signing

    monkeypatch.setattr(signing, "_LEAST_BITS", 2049)
    with pytest.raises(SettingsError, match=r"2,048 bits.*RFC 8301"):
        Signer([keys["rsa"]])


def test_keys_are_read_as_openssl_and_dkimpy_write_them(made, tmp_path):
    old = pem(made["rsa"], serialization.PrivateFormat.TraditionalOpenSSL)
    seed = base64.b64encode(
        made["ed25519"].private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        )
    )
    content = newsletter().as_bytes()
    for name, text in {"old": old, "seed": seed + b"\n"}.items():
        (tmp_path / name).write_bytes(text)
        key = Dkim(domain="example.com", selector="s1", key_file=str(tmp_path / name))
        assert verdicts(Signer([key]).sign([content], MOMENT) + content, key)[0] == [True]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"domain": "example"}, "is no domain"),
        ({"domain": "exa mple.com"}, "is no domain"),
        ({"domain": "example.com; x=1"}, "is no domain"),
        ({"selector": "s 1"}, "is no selector"),
        ({"selector": "s1;d=x"}, "is no selector"),
        ({"selector": ""}, "is no selector"),
        ({"key_file": "-----BEGIN PRIVATE KEY-----\nQUJD"}, "is no path"),
    ],
)
def test_what_is_no_signer_is_refused(setting, said):
    with pytest.raises(SettingsError, match=said) as caught:
        Dkim(**({"domain": "example.com", "selector": "s1", "key_file": "dkim.pem"} | setting))
    assert "QUJD" not in str(caught.value)
    assert caught.value.fix


def test_an_international_domain_signs_as_its_a_label():
    assert Dkim(domain="Exämple.com", selector="s1", key_file="k").domain == "xn--exmple-cua.com"


def test_without_the_package_that_signs_the_error_says_what_to_install(keys):
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from smtp_notebook import Dkim, SettingsError, connect\n"
        f"key = {keys['rsa']!r}\n"
        "try:\n    connect('smtp://mail.example.com', dkim=key)\n"
        "except SettingsError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 'pip install "smtp_notebook[dkim]"' in done.stdout


# ---------------------------------------------------------------------------------- where the key is not


def test_the_key_is_in_no_repr_pickle_saved_file_or_cell(keys, made, tmp_path, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_CONFIG", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    key = Dkim(domain="example.com", selector="s1", key_file="rsa.pem")
    connection = Connection(host="mail.example.com", port=587, dkim=key)
    server = find_server(connection)
    secret = base64.b64encode(made["rsa"].private_numbers().p.to_bytes(128, "big"))[40:60].decode()
    content = pem(made["rsa"]).decode()
    connection.save("news")
    saved = (_folder() / "connections.json").read_text()
    shown = [
        repr(key),
        repr(connection),
        repr(server),
        repr(server.signer),
        pickle.dumps(connection).decode("latin-1"),
        saved,
        connecting(connection),
        cell_of(newsletter(attach=()), connection),
    ]
    lines = content.split("\n")[1:-2]
    for text in shown:
        assert secret not in text
        assert not any(line in text for line in lines)
    assert json.loads(saved)["news"]["dkim"] == [
        {"domain": "example.com", "selector": "s1", "key_file": str(tmp_path / "rsa.pem")}
    ]
    with pytest.raises(TypeError, match="holds keys"):
        pickle.dumps(server.signer)
    again = connect("news")
    assert again.dkim == (Dkim(domain="example.com", selector="s1", key_file=str(tmp_path / "rsa.pem")),)
    assert pickle.loads(pickle.dumps(connection)) == connection


def test_the_code_of_a_form_names_the_key_file(keys):
    connection = Connection(host="mail.example.com", port=587, dkim=keys["rsa"])
    code = cell_of(Message(to="a@example.org"), connection)
    assert "from smtp_notebook import Dkim, connect, send" in code
    made = eval(connecting(connection).replace("connect", "f"), {"f": Connection.from_url, "Dkim": Dkim})
    assert made == connection


def test_the_record_to_publish_has_the_public_key_alone(keys, made):
    assert keys["rsa"].name == "s-rsa._domainkey.example.com"
    assert keys["rsa"].record().startswith("v=DKIM1; k=rsa; p=MIIBIjANBgkq")
    raw = (
        made["ed25519"].public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    )
    assert keys["ed25519"].record() == f"v=DKIM1; k=ed25519; p={base64.b64encode(raw).decode()}"


# --------------------------------------------------------------------------------------- what it changes


def test_the_limits_on_size_count_the_signature(keys, sandbox):
    small = newsletter(attach=(), cc=())
    size = len(small.as_bytes())
    plain = sandbox.connection.with_(max_message_bytes=size + 200)
    send(small, via=plain)
    with pytest.raises(ValueError, match="The mail is"):
        send(small, via=plain.with_(dkim=keys["rsa"]))
    with pytest.raises(PreflightError):
        mail_merge(
            [{"Email": "a@example.org"}], "x" * size, via=plain.with_(dkim=keys["rsa"]), from_="me@example.com",
            subject="s", progress=False,
        )  # fmt: skip


def test_a_signature_changes_neither_digest_nor_campaign(keys, tmp_path):
    """A mail that went unsigned is the same mail: it is not sent again because a key was added."""
    from scripted import Server

    with Server() as server:
        via = Connection.from_url(server.url())
        rows = [{"Email": "a@example.org"}, {"Email": "b@example.org"}]
        given = {"from_": "me@example.com", "subject": "s", "campaign": "c", "progress": False}
        assert mail_merge(rows, "x", via=via, **given).counts == {State.SENT: 2}
        assert mail_merge(rows, "x", via=via.with_(dkim=keys["rsa"]), **given).counts == {State.SKIPPED: 2}


@pytest.fixture
def signings(monkeypatch):
    """The thread of each signing, as they come."""
    found = []
    sign = Signer.sign

    def told(self, chunks, moment):
        found.append(threading.get_ident())
        return sign(self, chunks, moment)

    monkeypatch.setattr(Signer, "sign", told)
    return found


def test_a_merge_signs_on_the_calling_thread_and_never_on_the_loop_that_speaks_smtp(keys, signings):
    rows = [{"Email": f"p{i}@example.org"} for i in range(100)]
    with Sandbox() as box:
        via = box.connection.with_(dkim=keys["ed25519"])
        mail_merge(rows, "Hi", subject="S", from_="me@example.com", via=via, progress=False)
    assert signings == [threading.get_ident()] * 100


def test_an_awaited_merge_of_a_thousand_rows_signs_in_windows_between_which_the_loop_turns(keys, signings):
    rows = [{"Email": f"p{i}@example.org"} for i in range(1000)]
    seen = [0]

    async def merged(via):
        over = asyncio.Event()

        async def turns():
            while not over.is_set():
                seen.append(len(signings))
                await asyncio.sleep(0)

        beside = asyncio.ensure_future(turns())
        report = await amail_merge(rows, "Hi", subject="S", from_="me@example.com", via=via, progress=False)
        over.set()
        await beside
        return report

    with Sandbox() as box:
        report = asyncio.run(merged(box.connection.with_(dkim=keys["ed25519"])))
    assert report.counts == {State.SENT: 1000}
    assert max(after - before for before, after in pairwise(seen)) <= WINDOW
