"""The large providers: where their server is, what goes into user and password, and what they allow. Pure data.

Each fact names the page that it is from. A limit becomes a setting only where the provider documents it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

__all__ = ["NAMES", "PROVIDERS", "Fact", "Provider", "at", "named"]

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Fact:
    """What a provider says, and where.

    Attributes:
        text: One sentence without its full stop.
        source: The page's address.
    """

    text: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider of mail.

    Attributes:
        name: What `connect()` takes.
        aliases: Other names of it.
        title: Its name as people write it.
        host: Its server; ``{region}`` stands for the region's name where there are many.
        port: The port of the preset.
        security: How that port is secured: ``starttls`` or ``tls``.
        ports: The other ports that it documents, in words.
        user: What goes into ``user=``, in words.
        fixed_user: The user where it is the same for everybody, or "".
        user_is_sender: Whether the user is an address, from which mails are sent.
        password: What the password field means there: a noun with its article.
        where: Where one gets that: the rest of a sentence.
        passwords: Whether passwords work, and until when.
        oauth: Whose sign-in works instead of a password: ``google``, ``microsoft``, or "" for none here.
        regions: Hosts by region, where the preset needs to be told; empty where any name fits into *host*.
        region: The region that is meant where none is named; "" asks for it.
        rate: How fast, as `Connection.rate` wants it; "" where no figure is documented for every account.
        rates: The same by the domain of the user's address, where that tells the kind of account.
        max_connections: How many connections at once, or None where nothing is documented.
        messages_per_connection: How many mails one connection carries, or None.
        max_message_bytes: The largest mail, or None where that is no less than what is usual.
        limits: What is documented about limits.
        sources: Where host, ports, user and password are from.
    """

    name: str
    aliases: tuple[str, ...] = ()
    title: str
    host: str
    port: int = 587
    security: Literal["starttls", "tls"] = "starttls"
    ports: str = ""
    user: str
    fixed_user: str = ""
    user_is_sender: bool = False
    password: str
    where: str
    passwords: str
    oauth: Literal["google", "microsoft", ""] = ""
    regions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    region: str = ""
    rate: str = ""
    rates: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    max_connections: int | None = None
    messages_per_connection: int | None = None
    max_message_bytes: int | None = None
    limits: tuple[Fact, ...] = ()
    sources: tuple[str, ...]

    @property
    def has_regions(self) -> bool:
        """Whether the host depends on a region."""
        return bool(self.regions) or "{region}" in self.host

    def host_in(self, region: str) -> str:
        """Return the host of a region, or "" when there is no such region."""
        wanted = (region or self.region).strip().lower()
        if self.regions:
            return self.regions.get(wanted, "")
        return self.host.replace("{region}", wanted) if wanted or not self.has_regions else ""

    def rate_of(self, user: str) -> str:
        """Return how fast this user's account may send, as far as that is documented."""
        return self.rates.get(user.rpartition("@")[2].lower(), self.rate)

    def serves(self, host: str) -> bool:
        """Tell whether a host is one of its servers."""
        wanted = host.lower().rstrip(".")
        if "{region}" in self.host:
            before, after = self.host.split("{region}")
            return wanted.startswith(before) and wanted.endswith(after)
        return wanted in {self.host, *self.regions.values()}


#: By the domain of the address: private accounts may send less than those of an organisation.
_GMAIL_RATES = MappingProxyType({"gmail.com": "500/day", "googlemail.com": "500/day"})

PROVIDERS: tuple[Provider, ...] = (
    Provider(
        name="gmail",
        aliases=("google",),
        title="Gmail",
        host="smtp.gmail.com",
        ports="465 (TLS)",
        user="the whole address",
        user_is_sender=True,
        password="an app password, which needs 2-Step Verification",  # noqa: S106 - what it means, not what it is
        where="from https://myaccount.google.com/apppasswords",
        passwords="The account's own password ended in May 2025; app passwords work",
        oauth="google",
        rate="2000/day",
        rates=_GMAIL_RATES,
        limits=(
            Fact("Gmail: 500 mails in a day", "https://support.google.com/mail/answer/22839"),
            Fact("Google Workspace: 2,000 mails in a day", "https://support.google.com/a/answer/166852"),
        ),
        sources=(
            "https://developers.google.com/workspace/gmail/imap/imap-smtp",
            "https://support.google.com/accounts/answer/185833",
        ),
    ),
    Provider(
        name="microsoft365",
        aliases=("office365",),
        title="Microsoft 365",
        host="smtp.office365.com",
        user="the sign-in name, usually the address",
        user_is_sender=True,
        password="the mailbox's own password, where SMTP AUTH still takes one",  # noqa: S106
        where="with Authenticated SMTP switched on for the mailbox by an administrator",
        passwords="Off by default from the end of December 2026; an administrator can switch them on again",
        oauth="microsoft",
        rate="30/min, 10000 recipients/day",
        max_connections=3,
        limits=(
            Fact(
                "30 mails a minute, 10,000 recipients a day, 3 connections at once",
                "https://learn.microsoft.com/en-us/exchange/troubleshoot/send-emails/smtp-submission-improvements",
            ),
        ),
        sources=(
            "https://learn.microsoft.com/en-us/exchange/clients-and-mobile-in-exchange-online/authenticated-client-smtp-submission",
            "https://techcommunity.microsoft.com/blog/exchange/updated-exchange-online-smtp-auth-basic-authentication-deprecation-timeline/4489835",
        ),
    ),
    Provider(
        name="outlook",
        title="Outlook.com",
        host="smtp-mail.outlook.com",
        user="the whole address",
        user_is_sender=True,
        password="a sign-in instead of a password",  # noqa: S106
        where="with oauth=MicrosoftOAuth(client_id, tenant='consumers')",
        passwords="Ended on 16 September 2024",
        oauth="microsoft",
        limits=(
            Fact(
                "The figures depend on the account's age and use",
                "https://support.microsoft.com/en-us/office/sending-limits-in-outlook-com-279ee200-594c-40f0-9ec8-bb6af7735c2e",
            ),
        ),
        sources=(
            "https://support.microsoft.com/en-us/office/pop-imap-and-smtp-settings-for-outlook-com-d088b986-291d-42b8-9564-9c414e2aa040",
            "https://support.microsoft.com/en-us/office/modern-authentication-methods-now-needed-to-continue-syncing-outlook-email-in-non-microsoft-email-apps-c5d65390-9676-4763-b41f-d7986499a90d",
        ),
    ),
    Provider(
        name="yahoo",
        title="Yahoo Mail",
        host="smtp.mail.yahoo.com",
        ports="465 (TLS)",
        user="the whole address",
        user_is_sender=True,
        password="an app password",  # noqa: S106
        where="from the account's security page, Generate app password",
        passwords="App passwords alone",
        limits=(Fact("No figure is published", "https://help.yahoo.com/kb/SLN4724.html"),),
        sources=("https://help.yahoo.com/kb/SLN4724.html", "https://help.yahoo.com/kb/SLN15241.html"),
    ),
    Provider(
        name="icloud",
        title="iCloud Mail",
        host="smtp.mail.me.com",
        user="the whole address",
        user_is_sender=True,
        password="an app-specific password",  # noqa: S106
        where="from https://account.apple.com, Sign-In and Security",
        passwords="App-specific passwords alone",
        rate="1000/day, 1000 recipients/day",
        max_message_bytes=20 * _MIB,
        limits=(
            Fact(
                "1,000 mails and 1,000 recipients in a day, 500 recipients in a mail, 20 MB",
                "https://support.apple.com/en-us/102198",
            ),
        ),
        sources=("https://support.apple.com/en-us/102525", "https://support.apple.com/en-us/102654"),
    ),
    Provider(
        name="fastmail",
        title="Fastmail",
        host="smtp.fastmail.com",
        port=465,
        security="tls",
        user="the whole address with its domain",
        user_is_sender=True,
        password="an app password",  # noqa: S106
        where="from Settings, Privacy & Security, App passwords",
        passwords="App passwords alone",
        limits=(
            Fact("The figures depend on the plan", "https://www.fastmail.com/help/account/limits.html"),
        ),
        sources=("https://www.fastmail.com/help/technical/servernamesandports.html",),
    ),
    Provider(
        name="ses",
        title="Amazon SES",
        host="email-smtp.{region}.amazonaws.com",
        ports="25, 2587 (STARTTLS), 465, 2465 (TLS)",
        user="the SMTP user name that the SES console made",
        password="the SMTP password that goes with it, which is not the AWS secret key",  # noqa: S106
        where="from the SES console, SMTP settings; it belongs to one region",
        passwords="Passwords work",
        limits=(
            Fact(
                "A quota a day and a rate a second for each account; in the sandbox 200 mails a day and 1 a second, "
                "to verified addresses alone",
                "https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas.html",
            ),
        ),
        sources=(
            "https://docs.aws.amazon.com/ses/latest/dg/smtp-connect.html",
            "https://docs.aws.amazon.com/ses/latest/dg/smtp-credentials.html",
        ),
    ),
    Provider(
        name="sendgrid",
        title="SendGrid",
        host="smtp.sendgrid.net",
        ports="25, 2525 (STARTTLS), 465 (TLS)",
        user="the word apikey, for everybody",
        fixed_user="apikey",
        password="an API key with the permission Mail Send",  # noqa: S106
        where="from Settings, API Keys",
        passwords="API keys alone",
        messages_per_connection=5000,
        limits=(
            Fact(
                "5,000 mails on a connection and 10,000 connections at once",
                "https://www.twilio.com/docs/sendgrid/for-developers/sending-email/integrating-with-the-smtp-api",
            ),
        ),
        sources=(
            "https://www.twilio.com/docs/sendgrid/for-developers/sending-email/integrating-with-the-smtp-api",
        ),
    ),
    Provider(
        name="mailgun",
        title="Mailgun",
        host="smtp.mailgun.org",
        ports="25, 2525 (STARTTLS), 465 (TLS)",
        user="an SMTP user of the sending domain, often postmaster@ and that domain",
        password="that SMTP user's password, which is no API key",  # noqa: S106
        where="from Sending, Domain settings, SMTP credentials",
        passwords="Passwords work",
        regions=MappingProxyType({"us": "smtp.mailgun.org", "eu": "smtp.eu.mailgun.org"}),
        region="us",
        limits=(
            Fact(
                "The figures depend on the plan",
                "https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/send-smtp",
            ),
        ),
        sources=(
            "https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/send-smtp",
            "https://help.mailgun.com/hc/en-us/articles/203380100-Where-can-I-find-my-API-keys-and-SMTP-credentials",
        ),
    ),
    Provider(
        name="postmark",
        title="Postmark",
        host="smtp.postmarkapp.com",
        ports="25, 2525 (STARTTLS)",
        user="the access key of a message stream's SMTP token",
        password="the secret key of that SMTP token",  # noqa: S106
        where="from the message stream, Settings",
        passwords="Passwords work",
        max_message_bytes=10 * _MIB,
        limits=(Fact("10 MB and 50 recipients in a mail", "https://postmarkapp.com/developer"),),
        sources=(
            "https://postmarkapp.com/support/article/811-what-are-the-smtp-details-api-tokens-i-should-be-using",
        ),
    ),
    Provider(
        name="mailjet",
        title="Mailjet",
        host="in-v3.mailjet.com",
        ports="25, 80, 588, 2525 (STARTTLS), 465 (TLS)",
        user="the API key",
        password="the secret key of that API key",  # noqa: S106
        where="from Account settings, API keys",
        passwords="Keys alone",
        max_message_bytes=15 * _MIB,
        limits=(Fact("15 MB in a mail", "https://dev.mailjet.com/smtp-relay/configuration/"),),
        sources=("https://dev.mailjet.com/smtp-relay/configuration/",),
    ),
    Provider(
        name="brevo",
        title="Brevo",
        host="smtp-relay.brevo.com",
        ports="2525 (STARTTLS), 465 (TLS)",
        user="the SMTP login that the SMTP & API page shows",
        password="an SMTP key, which is no API key",  # noqa: S106
        where="from Settings, SMTP & API, SMTP",
        passwords="SMTP keys alone",
        limits=(Fact("The figures depend on the plan", "https://developers.brevo.com/docs/smtp-integration"),),
        sources=("https://developers.brevo.com/docs/smtp-integration",),
    ),
)  # fmt: skip

_BY_NAME: Mapping[str, Provider] = {n: p for p in PROVIDERS for n in (p.name, *p.aliases)}
#: Every name that means a provider.
NAMES = frozenset(_BY_NAME)


def named(name: str) -> Provider | None:
    """Return the provider of a name or alias, in any case, or None."""
    return _BY_NAME.get(name.strip().lower())


def at(host: str) -> Provider | None:
    """Return the provider whose server a host is, or None."""
    return next((p for p in PROVIDERS if p.serves(host)), None)
