"""The refusals that people meet, in the providers' own words: what they mean, and what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Server

from smtp_notebook import Connection, State, advice, mail_merge
from smtp_notebook.providers import PROVIDERS
from smtp_notebook.replies import Reply, Stage, classify

D, R = State.DEFERRED, State.REFUSED
C, L, M, T, E = Stage.CONNECT, Stage.LOGIN, Stage.MAIL, Stage.RCPT, Stage.DOT
GMAIL = "https://support.google.com/a/answer/3726730"
EXCHANGE = "https://learn.microsoft.com/en-us/exchange/clients-and-mobile-in-exchange-online/authenticated-client-smtp-submission"
SUBMIT = "https://learn.microsoft.com/en-us/exchange/troubleshoot/send-emails/smtp-submission-improvements"
BASIC = "https://techcommunity.microsoft.com/t5/exchange-team-blog/exchange-online-to-retire-basic-auth-for-client-submission-smtp/ba-p/4114750"
DEVICES = "https://learn.microsoft.com/en-us/exchange/mail-flow-best-practices/how-to-set-up-a-multifunction-device-or-application-to-send-email-using-microsoft-365-or-office-365"
OUTLOOK = "https://techcommunity.microsoft.com/blog/microsoftdefenderforoffice365blog/strengthening-email-ecosystem-outlook%E2%80%99s-new-requirements-for-high%E2%80%90volume-senders/4399730"
SES = "https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-smtp.html"
SES_SENDING = "https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-error-messages.html"
SES_QUOTA = "https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html"
SENDGRID = "https://www.twilio.com/docs/sendgrid/for-developers/sending-email/smtp-errors-and-troubleshooting"
POSTMARK = "https://postmarkapp.com/developer/api/overview"
ICLOUD = "https://support.apple.com/en-us/HT202305"

#: Provider, stage, the literal text, its page; then state, status, whether the run stops, and words of the fix.
TABLE = [
    ("gmail", L, "535 5.7.8 Username and Password not accepted. For more information, go to https://support.google.com/mail/?p=BadCredentials", GMAIL, R, 401, True, "app password"),
    ("gmail", L, "534 5.7.9 Application-specific password required. For more information, go to https://support.google.com/mail/?p=InvalidSecondFactor", GMAIL, R, 401, True, "myaccount.google.com/apppasswords"),
    ("gmail", L, "534 5.7.14 Please log in through your web browser and then try again.", GMAIL, R, 401, True, "browser"),
    ("gmail", L, "454 4.7.0 Too many login attempts, please try again later.", GMAIL, D, 202, False, "max_connections=1"),
    ("gmail", C, "421 4.7.0 Temporary System Problem. Try again later.", GMAIL, D, 202, False, "tried again"),
    ("gmail", M, "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your IP address.", GMAIL, D, 202, False, "rate="),
    ("gmail", E, "550 5.4.5 Daily user sending limit exceeded.", GMAIL, R, 403, True, "tomorrow"),
    ("gmail", T, "550 5.4.5 Daily sending quota exceeded.", GMAIL, R, 404, True, "tomorrow"),
    ("gmail", E, "550 5.7.26 Unauthenticated email from example.com is not accepted due to domain's DMARC policy.", GMAIL, R, 403, False, "DKIM"),
    ("gmail", E, "550 5.7.26 This message does not have authentication information or fails to pass authentication checks.", GMAIL, R, 403, False, "SPF"),
    ("gmail", E, "550 5.7.1 Our system has detected that this message is likely unsolicited mail.", GMAIL, R, 403, False, "spam"),
    ("gmail", T, "550 5.1.1 The email account that you tried to reach does not exist.", GMAIL, R, 404, False, "no such mailbox"),
    ("gmail", T, "452 4.2.2 The recipient's inbox is out of storage space.", GMAIL, D, 202, False, "full"),
    ("gmail", E, "552 5.2.3 Your message exceeded Google's message size limits.", GMAIL, R, 400, False, "smaller"),
    ("gmail", M, "530 5.7.0 Must issue a STARTTLS command first.", GMAIL, R, 403, True, "STARTTLS"),
    ("microsoft365", L, "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit https://aka.ms/smtp_auth_disabled for more information.", EXCHANGE, R, 401, True, "administrator"),
    ("microsoft365", L, "535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults policy. Contact your administrator.", EXCHANGE, R, 401, True, "MicrosoftOAuth"),
    ("microsoft365", L, "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.", EXCHANGE, R, 401, True, "MicrosoftOAuth"),
    ("microsoft365", L, "535 5.7.139 Authentication unsuccessful, the request did not meet the criteria to be authenticated successfully.", EXCHANGE, R, 401, True, "Authenticated SMTP"),
    ("microsoft365", L, "535 5.7.3 Authentication unsuccessful", EXCHANGE, R, 401, True, "MicrosoftOAuth"),
    ("microsoft365", L, "550 5.7.30 Basic authentication is not supported for Client Submission.", BASIC, R, 401, True, "MicrosoftOAuth"),
    ("microsoft365", M, "530 5.7.57 Client not authenticated to send mail.", EXCHANGE, R, 401, True, "login"),
    ("microsoft365", E, "550 5.7.60 SMTP; Client does not have permissions to send as this sender", DEVICES, R, 403, False, "Send As"),
    ("microsoft365", E, "554 5.2.252 SendAsDenied; ann@example.com not allowed to send as bob@example.com; STOREDRV.Submission.Exception:SendAsDeniedException", DEVICES, R, 403, False, "Send As"),
    ("microsoft365", C, "432 4.3.2 Concurrent connections limit exceeded.", SUBMIT, D, 202, False, "max_connections=3"),
    ("microsoft365", E, "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", SUBMIT, D, 202, False, "max_connections=3"),
    ("outlook", E, "550 5.7.515 Access denied, sending domain example.com does not meet the required authentication level.", OUTLOOK, R, 403, False, "DKIM"),
    ("ses", E, "554 Message rejected: Email address is not verified. The following identities failed the check in region EU-CENTRAL-1: ann@example.com", SES_SENDING, R, 403, False, "Verify"),
    ("ses", E, "454 Throttling failure: Maximum sending rate exceeded", SES_QUOTA, D, 202, False, "rate="),
    ("ses", E, "454 Throttling failure: Daily message quota exceeded", SES_QUOTA, D, 202, False, "24 hours"),
    ("ses", L, "535 Authentication Credentials Invalid", SES, R, 401, True, "not the AWS secret key"),
    ("ses", C, "421 Too many concurrent SMTP connections", SES, D, 202, False, "max_connections"),
    ("ses", M, "530 Authentication required", SES, R, 401, True, "user into the URL"),
    ("ses", E, "554 Access denied: User `arn:aws:iam::1:user/x` is not authorized to perform `ses:SendRawEmail' on resource `x'", SES_SENDING, R, 403, False, "ses:SendRawEmail"),
    ("sendgrid", L, "535 Authentication failed: Bad username / password", SENDGRID, R, 401, True, "apikey"),
    ("sendgrid", L, "451 Authentication failed: Maximum credits exceeded", SENDGRID, D, 202, False, "credits"),
    ("sendgrid", E, "550 The from address does not match a verified Sender Identity. Mail cannot be sent until this error is resolved.", SENDGRID, R, 403, False, "Sender Identity"),
    ("sendgrid", E, "403 You are not authorized to send from that email address", SENDGRID, D, 202, False, "Sender Identity"),
    ("sendgrid", M, "550 Unauthenticated senders not allowed", SENDGRID, R, 403, False, "apikey"),
    ("sendgrid", T, "452 Too many recipients received this hour (throttled)", SENDGRID, D, 202, False, "tried again"),
    ("mailgun", L, "535 Authentication failed", "https://help.mailgun.com/hc/en-us/articles/203380100-Where-can-I-find-my-API-keys-and-SMTP-credentials", R, 401, True, "no API key"),
    ("mailgun", T, "550 5.7.1 Relaying denied", "https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/send-smtp", R, 403, False, "log in"),
    ("postmark", L, "535 5.7.8 Error: authentication failed:", POSTMARK, R, 401, True, "secret key"),
    ("postmark", E, "550 The 'From' address you supplied is not a Sender Signature on your account.", POSTMARK, R, 403, False, "Sender Signature"),
    ("brevo", L, "535 5.7.8 Authentication failed", "https://developers.brevo.com/docs/smtp-integration", R, 401, True, "SMTP key"),
    ("mailjet", L, "535 5.7.8 Error: authentication failed: authentication failure", "https://dev.mailjet.com/smtp-relay/configuration/", R, 401, True, "secret key"),
    ("yahoo", L, "535 5.7.0 (#AUTH005) Too many bad auth attempts.", "https://help.yahoo.com/kb/SLN4724.html", R, 401, True, "app password"),
    ("icloud", L, "535 5.7.8 Error: authentication failed: authentication failure", "https://support.apple.com/en-us/102525", R, 401, True, "app-specific password"),
    ("icloud", E, "550 5.7.1 ann@example.com: You have exceeded your daily sending limit. Please try again later.", ICLOUD, R, 403, True, "tomorrow"),
    ("", L, "535 5.7.8 Error: authentication failed", "RFC 4954, 6", R, 401, True, "app password or OAuth"),
    ("", T, "554 5.7.1 <bob@example.com>: Relay access denied", "Postfix, access(5)", R, 403, False, "log in"),
    ("", T, "550 5.1.1 <bob@example.com>: Recipient address rejected: User unknown in local recipient table", "Postfix, local_recipient_maps", R, 404, False, "no such mailbox"),
    ("", L, "454 4.7.0 Temporary authentication failure: Connection lost to authentication server", "RFC 4954, 6", D, 202, False, "later"),
    ("", E, "554 5.7.1 Spam message rejected", "Rspamd, actions", R, 403, False, "spam"),
    ("", T, "450 4.7.1 <bob@example.com>: Recipient address rejected: Greylisted", "Postgrey", D, 202, False, "greylisting"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("provider", "stage", "line", "source", "state", "status", "stops", "words"),
    TABLE,
    ids=lambda v: v[:24] if isinstance(v, str) else None,
)
def test_a_refusal_in_its_own_words_has_a_meaning_and_a_fix(
    provider, stage, line, source, state, status, stops, words
):
    verdict = classify(stage, Reply(int(line[:3]), line[4:]), provider)
    assert (verdict.state, verdict.status, verdict.stops_run) == (state, status, stops), source
    assert words in verdict.fix
    assert "\n" not in verdict.fix
    assert verdict.fix.endswith(".")
    assert line[:3] in verdict.reason


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda p: p.name)
def test_a_failed_login_says_what_the_password_means_there(provider):
    fix = classify(Stage.LOGIN, Reply(535, "no"), provider.name).fix
    assert provider.password in fix
    assert ("oauth=" in fix) == bool(provider.oauth)


def test_the_same_words_of_another_server_are_not_taken_for_a_providers():
    text = "4.7.0 Too many login attempts"
    assert "Google" not in classify(Stage.LOGIN, Reply(454, text)).fix
    assert "Google" in classify(Stage.LOGIN, Reply(454, text), "gmail").fix


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (450, "4.2.1 The user you are trying to contact is receiving email too quickly."),
        (450, "4.2.1 Peak SMTP relay limit exceeded for this customer."),
        (
            550,
            "5.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages.",
        ),
        (552, "5.2.2 The recipient's mailbox is over its daily limit"),
        (454, "Throttling failure: Daily message quota exceeded"),
    ],
)
def test_what_is_about_one_recipient_or_this_moment_does_not_stop_everybody(code, text):
    assert not advice.spent(code, text)
    assert not classify(Stage.RCPT, Reply(code, text), "gmail").stops_run


@given(
    st.sampled_from(Stage),
    st.integers(400, 599),
    st.text(max_size=200),
    st.sampled_from(["", *(p.name for p in PROVIDERS), "nobody"]),
)
def test_any_text_of_any_server_has_one_line_of_advice_or_none(stage, code, text, provider):
    fix = advice.fix(str(stage), code, "", text, provider)
    assert "\n" not in fix
    assert not fix or fix.endswith(".")


SPENT = "550 5.4.5 Daily user sending limit exceeded."


@pytest.mark.parametrize("first", [None, "550 5.1.1 unknown"])
def test_a_daily_limit_met_by_one_recipient_of_a_row_leaves_that_one_due(first):
    """The limit is the account's: it says nothing of the person, who gets the mail another day."""
    data = [{"To": "r1@example.com; r2@example.com", "Id": 1}]
    letter = "---\nto: {{ To | addresses }}\nsubject: s\n---\nhi"

    def merge(script):
        with Server(script) as server:
            via = Connection.from_url(server.url(), sender="me@example.com")
            report = mail_merge(data, letter, key="Id", campaign="c", via=via, progress=False)
            assert len(report) == 1
            return [mail.recipients for mail in server.log.mails]

    mails = merge({"rcpt": lambda who: SPENT if who.startswith("r2") else first})
    assert mails == ([] if first else [["r1@example.com"]])
    mails = merge({"rcpt": lambda who: None if who.startswith("r2") else first})
    assert mails == [["r2@example.com"]]
