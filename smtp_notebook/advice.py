"""What to do about a refusal, in one sentence: by provider, enhanced code and words. Pure.

The first row that fits decides; those of one provider come first. A row's words are of the provider's own
documentation, which the table names; tests/test_advice.py has the whole texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from smtp_notebook import providers

__all__ = ["fix", "spent"]

_LOGIN = "login"
_NO_LOGIN_CODES = frozenset({534, 535})


@dataclass(frozen=True, slots=True)
class _Row:
    """One kind of refusal.

    Attributes:
        fix: What to do.
        codes: The reply codes; empty for any.
        enhanced: The enhanced code, or "" for any.
        words: A pattern that the text, in lower case, has to hold; "" for none.
        provider: Whose reply it is; "" for anybody's.
        stage: At which stage alone; "" for any.
    """

    fix: str
    codes: tuple[int, ...] = ()
    enhanced: str = ""
    words: str = ""
    provider: str = ""
    stage: str = ""

    def fits(self, stage: str, code: int, enhanced: str, text: str, provider: str) -> bool:
        return (
            self.provider in {"", provider}
            and self.stage in {"", stage}
            and (not self.codes or code in self.codes)
            and self.enhanced in {"", enhanced}
            and bool(re.search(self.words, text))
        )


_ALIGN = "The sending domain needs SPF and DKIM that match the From domain, and a DMARC record."
_SLOWER = 'Send fewer at a time, for instance rate="20/min"; the rows are tried again.'
_TOMORROW = (
    "The account's limit for the day is reached: run this again tomorrow, and the rows that are left go then."
)
_SMALLER = "Make the mail smaller: send a link instead of the attachment."
_SEND_AS = "This login may not send as that From address: use the login's own address as sender, or let an administrator allow Send As."
_NO_MAILBOX = "Check the address: the server knows no such mailbox."

_TABLE = (
    # Gmail, as support.google.com/a/answer/3726730 has them.
    _Row("Make an app password at https://myaccount.google.com/apppasswords, or sign in: oauth=GoogleOAuth(client_file).", (534, 535), words="application-specific password", provider="gmail"),
    _Row("Sign in to the account in a browser and look for a warning; then use an app password, or oauth=GoogleOAuth(client_file).", (534,), words="web browser", provider="gmail"),
    _Row("Google counted too many logins: wait an hour, and open fewer connections with max_connections=1.", (454,), words="login attempts", provider="gmail"),
    _Row(_SLOWER, (421,), "4.7.28", provider="gmail"),
    _Row("Google closed the connection for now; it is tried again.", (421,), "4.7.0", provider="gmail"),
    # Microsoft: learn.microsoft.com, "Authenticated client SMTP submission" and "Message storage and concurrent
    # connection throttling for SMTP Authenticated Submission"
    _Row("An administrator has to switch Authenticated SMTP on for this mailbox, or for the organisation (https://aka.ms/smtp_auth_disabled).", enhanced="5.7.139", words="smtpclientauthentication is disabled"),
    _Row("The organisation's security defaults or a policy forbid this login: an administrator has to allow it, or sign in with oauth=MicrosoftOAuth(client_id).", enhanced="5.7.139", words="policy"),
    _Row("Passwords are off for this organisation: sign in with oauth=MicrosoftOAuth(client_id).", enhanced="5.7.139", words="basic authentication is disabled"),
    _Row("Check user and password, and whether Authenticated SMTP is on for the mailbox; or sign in with oauth=MicrosoftOAuth(client_id).", enhanced="5.7.139"),
    _Row("Passwords are switched off there: sign in with oauth=MicrosoftOAuth(client_id), or use another relay.", enhanced="5.7.30"),
    _Row("The server wants a login, and an administrator has to switch Authenticated SMTP on for the mailbox: put the user into the URL.", (530, 550), "5.7.57"),
    _Row(_SEND_AS, enhanced="5.7.60"),
    _Row(_SEND_AS, words="sendasdenied"),
    _Row("Microsoft takes 3 connections at once for each mailbox: set max_connections=3 or less.", (432,), words="concurrent connection|sender thread limit"),
    _Row(_ALIGN, enhanced="5.7.515"),
    # Amazon SES: docs.aws.amazon.com/ses/latest/dg/troubleshoot-smtp.html and troubleshoot-error-messages.html
    _Row("Verify this address or its domain in the SES console, in this region; in the SES sandbox the recipients too.", words="address is not verified"),
    _Row('Send fewer a second, for instance rate="1/s"; the SES console shows the account\'s maximum.', words="maximum sending rate exceeded"),
    _Row("The quota of 24 hours is used up: run this again later, or ask for a higher one in the SES console.", words="daily message quota exceeded"),
    _Row("The SMTP user needs the permission ses:SendRawEmail for this identity.", words="is not authorized to perform"),
    _Row("Set max_connections=1 or 2; it is tried again.", words="too many concurrent smtp connections"),
    # SendGrid: twilio.com/docs/sendgrid/for-developers/sending-email/smtp-errors-and-troubleshooting
    _Row("The plan's credits are used up: raise the plan or wait for the next period.", words="maximum credits exceeded"),
    _Row("Verify the From address or its domain as a Sender Identity in SendGrid.", words="verified sender identity|not authorized to send from that"),
    _Row("Log in: the user is the word apikey, and the password an API key.", words="unauthenticated senders not allowed"),
    # Mailgun, and Postmark as postmarkapp.com/developer/api/overview has them under Error codes.
    _Row("Send from a domain of your own, or add the address to the sandbox's authorized recipients in Mailgun.", words="sandbox subdomains are for test purposes"),
    _Row("Confirm the From address as a Sender Signature, or its domain, in Postmark.", words="sender signature"),
    _Row("The recipient bounced or complained before: reactivate it in Postmark, or leave it out.", words="inactive recipient"),
    # Anybody: RFC 3463 and RFC 7372 name the codes.
    _Row(_ALIGN, enhanced="5.7.26"),
    _Row(_NO_MAILBOX, enhanced="5.1.1"),
    _Row(_NO_MAILBOX, enhanced="5.1.10"),
    _Row("Check the From address.", enhanced="5.1.7"),
    _Row("Check the From address: its domain does not exist.", enhanced="5.1.8"),
    _Row("The mailbox is full; try again another day.", enhanced="5.2.2"),
    _Row("The mailbox is full at present; it is tried again.", enhanced="4.2.2"),
    _Row(_SMALLER, enhanced="5.3.4"),
    _Row(_SMALLER, enhanced="5.2.3"),
    _Row("The server asks to come back later (greylisting); it is tried again by itself.", enhanced="4.7.1"),
    _Row(_SLOWER, enhanced="4.7.28"),
    _Row("This server relays for its own users alone: log in, or use the server of the From address's provider.", words="relay access denied|relaying denied|unable to relay|relay not permitted|relaying not allowed"),
    _Row("The text was taken for spam or is not wanted there; its words, its links and the sender's repute decide.", (550, 554), "5.7.1", words="spam|unsolicited"),
)  # fmt: skip

_DAILY = re.compile(
    r"\bdaily (?:user )?sending (?:limit|quota)|\byour daily (?:sending )?(?:limit|quota)|\bdaily limit for message recipients"
)


def fix(stage: str, code: int, enhanced: str, text: str, provider: str = "") -> str:
    """Return what a person can do about a refusal, or "" when nothing more is known than its code says.

    Args:
        stage: How far the transaction got, as `replies.Stage` has it.
        code: The reply code.
        enhanced: The enhanced code, or "".
        text: The reply's text.
        provider: Whose server it is, as `providers` names it, or "".
    """
    words = text.lower()
    if spent(code, text):
        return _TOMORROW
    for row in _TABLE:
        if row.fits(stage, code, enhanced, words, provider):
            return row.fix
    return _login(provider) if stage == _LOGIN and code in _NO_LOGIN_CODES else ""


def spent(code: int, text: str) -> bool:
    """Tell whether a permanent refusal says that this account has sent enough for the day: no other mail will go.

    Gmail: ``550 5.4.5 Daily user sending limit exceeded`` (support.google.com/a/answer/3726730). Microsoft: ``550
    5.1.90 … daily limit for message recipients``. iCloud: ``550 5.7.1 … exceeded your daily sending limit``.
    """
    return code // 100 == 5 and bool(_DAILY.search(" ".join(text.lower().split())))  # noqa: PLR2004 - permanent


def _login(provider: str) -> str:
    """Return what the password field means at a provider."""
    found = providers.named(provider) if provider else None
    if found is None:
        return ""
    sign_in = {"google": "GoogleOAuth(client_file)", "microsoft": "MicrosoftOAuth(client_id)"}.get(
        found.oauth
    )
    other = f"; or sign in: oauth={sign_in}" if sign_in and "oauth=" not in found.where else ""
    user = f", and {found.fixed_user!r} as user" if found.fixed_user else ""
    return f"{found.title} wants {found.password}{user}, {found.where}{other}."
