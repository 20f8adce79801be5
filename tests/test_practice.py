import datetime as dt
import ssl
import urllib.request
from pathlib import Path

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from simple_salesforce import Salesforce, SalesforceMalformedRequest, SalesforceResourceNotFound
from simple_salesforce.format import format_soql

from smtp_notebook import OptionError, PracticeOrg, SettingsError
from smtp_notebook.frames import canonical_key
from smtp_notebook.selects import QueryError, check_condition, parse

NOON = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)


def at(minutes):
    return NOON + dt.timedelta(minutes=minutes)


@pytest.fixture(scope="module")
def org():
    with PracticeOrg(page_size=2, clock=lambda: NOON) as started:
        for name, minute, title in (("Ada", 1, None), ("bob", 2, "Dr"), ("Cem", 2, "dr"), ("Dov", 4, "")):
            started.add(
                "Lead",
                FirstName=name,
                LastName="O'Neil",
                Title=title,
                CreatedDate=at(minute),
                Score__c=minute,
            )
        yield started


def client(org, login=None):
    """Return simple-salesforce itself, as anybody would use it."""
    session = requests.Session()
    session.trust_env, session.verify = False, org.ca_file
    answer = session.post(
        f"{org.url}/services/oauth2/token",
        {"grant_type": "client_credentials"},
        auth=("practice-app", (login or org.app_login).consumer_secret.reveal()),
    )
    return Salesforce(session_id=answer.json()["access_token"], instance_url=org.url, session=session)


def names(org, where, rest=""):
    return [
        r["FirstName"]
        for r in client(org).query_all(f"SELECT FirstName FROM Lead WHERE {where} {rest}")["records"]
    ]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("FirstName = 'BOB'", "bob"),
        (r"LastName = 'o\'neil' AND FirstName != 'Ada'", "bob Cem Dov"),
        ("FirstName IN ('ada', 'Dov')", "Ada Dov"),
        ("FirstName NOT IN ('ada', 'Dov')", "bob Cem"),
        ("FirstName LIKE 'b_b' OR FirstName LIKE '%v'", "bob Dov"),
        ("NOT FirstName LIKE '%o%'", "Ada Cem"),
        ("Title = null", "Ada Dov"),
        ("Title != null", "bob Cem"),
        ("Title = ''", "Ada Dov"),
        ("Title != 'DR'", "Ada Dov"),
        ("CreatedDate > 2026-11-29T12:02:00Z", "Dov"),
        ("CreatedDate >= 2026-11-29T13:02:00+01:00 AND Score__c < 4", "bob Cem"),
        ("CreatedDate = TODAY", "Ada bob Cem Dov"),
        ("CreatedDate = YESTERDAY", ""),
        ("CreatedDate < TODAY", ""),
        ("CreatedDate > LAST_N_DAYS:2", ""),
        ("CreatedDate >= LAST_N_DAYS:2", "Ada bob Cem Dov"),
        ("Score__c >= 2 AND (FirstName = 'bob' OR Title = null)", "bob Dov"),
        ("HasOptedOutOfEmail = false AND Owner.Name LIKE 'Practice%'", "Ada bob Cem Dov"),
        ("IsConverted = true", ""),
    ],
)
def test_a_condition_finds_what_it_finds_in_salesforce(org, where, found):
    assert names(org, where) == found.split()


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ("ORDER BY CreatedDate DESC, FirstName", "Dov bob Cem Ada"),
        ("ORDER BY FirstName DESC LIMIT 2", "Dov Cem"),
        ("ORDER BY Title, FirstName", "Ada Dov bob Cem"),
        ("ORDER BY Title NULLS LAST, FirstName", "bob Cem Ada Dov"),
        ("ORDER BY Title DESC NULLS LAST, FirstName DESC", "Cem bob Dov Ada"),
        ("ORDER BY FirstName LIMIT 2 OFFSET 1", "bob Cem"),
    ],
)
def test_the_order_is_that_of_salesforce(org, order, found):
    assert names(org, "Id != null", order) == found.split()


@pytest.mark.parametrize(
    ("soql", "code", "words"),
    [
        ("SELECT Foo FROM Lead", "INVALID_FIELD", "No such column 'Foo'"),
        ("SELECT Id FROM Lead WHERE Boss.Name = 'x'", "INVALID_FIELD", "relationship 'Boss'"),
        ("SELECT Id FROM Lead WHERE Description = 'x'", "INVALID_FIELD", "can not be filtered"),
        ("SELECT Id FROM Lead WHERE FirstName = 3", "INVALID_FIELD", "should be enclosed in quotes"),
        ("SELECT Id FROM Lead WHERE Score__c = '3'", "INVALID_FIELD", "should not be enclosed in quotes"),
        ("SELECT Id FROM Lead WHERE CreatedDate > 2026-11-29", "INVALID_FIELD", "must be of type datetime"),
        ("SELECT Id FROM Led", "INVALID_TYPE", "'Led' is not supported"),
        ("SELECT Id FROM Lead WHERE A = 'x' OR B = 'y' AND C = 'z'", "MALFORMED_QUERY", "need parentheses"),
        ("SELECT Id, Id FROM Lead", "MALFORMED_QUERY", "duplicate"),
        ("SELECT Id FROM Lead WHERE FirstName = 'x", "MALFORMED_QUERY", "unexpected text"),
        ("SELECT Id FROM Lead WHERE FirstName = x", "MALFORMED_QUERY", "single quotes"),
        ("SELECT Id FROM Lead LIMIT 1 WHERE Id != null", "MALFORMED_QUERY", "unexpected token"),
        ("SELECT Id FROM Lead WHERE " + "(" * 99 + "Id != null" + ")" * 99, "QUERY_TOO_COMPLICATED", "nested"),
    ],
)  # fmt: skip
def test_a_query_that_salesforce_would_not_take_is_refused_with_its_code(org, soql, code, words):
    with pytest.raises(SalesforceMalformedRequest) as caught:
        client(org).query(soql)
    assert caught.value.content[0]["errorCode"] == code
    assert words in caught.value.content[0]["message"]


@settings(max_examples=60)
@given(st.text(max_size=40), st.text(max_size=40))
def test_a_quoted_text_finds_that_text_and_nothing_else(value, other):
    query = parse(format_soql("SELECT Id FROM Lead WHERE Name = {}", value))
    records = [{"Name": value}, {"Name": other}]
    found = query.run(records, lambda _: "string", lambda r, path: r[path[0]] or None, NOON)
    assert [r["Name"] for r in found] == [n for n in (value, other) if n.casefold() == value.casefold()]


@pytest.mark.parametrize(
    "text", ["a = 'x')", "a = ('x'", "a = 'x", "a = 'x\\'", "", "  ", ") OR (Id != null"]
)
def test_a_condition_that_reaches_out_of_its_parentheses_is_refused(text):
    with pytest.raises(QueryError):
        check_condition(text)


@pytest.mark.parametrize("text", [r"a = 'it\'s ('", "(a = 'x' OR b = ')')", r"a = '\\'"])
def test_a_condition_with_signs_inside_of_texts_is_taken(text):
    assert check_condition(f" {text} ") == text


# ------------------------------------------------------------------------------------------- records


def test_an_id_has_18_characters_of_which_three_check_the_others():
    org = PracticeOrg()
    found = [org.add("Lead", LastName=str(i)) for i in range(70)]
    assert len(set(found)) == 70
    assert sorted(found) == found
    assert all(len(i) == 18 and i.startswith("00Q") and canonical_key(i) == i[:15] for i in found)
    assert org.add("Task", Subject="s").startswith("00T")


def test_pages_follow_each_other_and_an_answer_stays_as_it_was_asked(org):
    sf = client(org)
    first = sf.query("SELECT Id, FirstName, Owner.Name FROM Lead ORDER BY CreatedDate, Id")
    assert (first["totalSize"], first["done"], len(first["records"])) == (4, False, 2)
    assert first["records"][0]["Owner"]["Name"] == "Practice User"
    late = org.add("Lead", FirstName="Eve", LastName="x", CreatedDate=at(3))
    second = sf.query_more(first["nextRecordsUrl"], identifier_is_url=True)
    assert [r["FirstName"] for r in second["records"]] == ["Cem", "Dov"]
    assert second["done"]
    org.delete("Lead", late)
    sf.query("SELECT Id FROM Lead")
    org.forget_pages()
    with pytest.raises(SalesforceMalformedRequest, match="INVALID_QUERY_LOCATOR"):
        sf.query_more(first["nextRecordsUrl"], identifier_is_url=True)


def test_records_are_made_changed_and_deleted_through_the_api():
    with PracticeOrg(clock=lambda: NOON) as org:
        org.add_field("Lead", "Welcome_Sent__c", "boolean")
        sf = client(org)
        made = sf.Lead.create({"FirstName": "Ann", "LastName": "Lee", "Company": "x"})["id"]
        assert sf.Lead.get(made)["Name"] == "Ann Lee"
        assert sf.Lead.update(made[:15], {"Welcome_Sent__c": True, "LastName": "Low"}) == 204
        assert sf.query("SELECT COUNT() FROM Lead WHERE Welcome_Sent__c = true")["totalSize"] == 1
        with pytest.raises(SalesforceMalformedRequest, match="REQUIRED_FIELD_MISSING"):
            sf.Lead.create({"FirstName": "x"})
        with pytest.raises(SalesforceMalformedRequest, match="INVALID_FIELD_FOR_INSERT_UPDATE"):
            sf.Lead.update(made, {"CreatedDate": "2026-01-01T00:00:00Z"})
        with pytest.raises(SalesforceMalformedRequest, match="No such column 'Nope'"):
            sf.Lead.update(made, {"Nope": 1})
        assert sf.Lead.delete(made) == 204
        with pytest.raises(SalesforceResourceNotFound, match="ENTITY_IS_DELETED"):
            sf.Lead.update(made, {"LastName": "x"})
        assert org.records("Lead") == []
        fields = {f["name"]: f for f in sf.Lead.describe()["fields"]}
        assert fields["OwnerId"]["relationshipName"] == "Owner"
        assert fields["Welcome_Sent__c"]["type"] == "boolean"
        before = org.calls
        sf.query("SELECT Id FROM Lead")
        assert sf.api_usage["api-usage"] == (before + 1, 15_000)


def test_what_a_person_adds_is_checked_and_custom_objects_begin_with_their_first_record():
    org = PracticeOrg(clock=lambda: NOON)
    with pytest.raises(OptionError, match="no object 'Led'"):
        org.add("Led")
    with pytest.raises(OptionError, match="no field 'Nope'"):
        org.add("Lead", Nope=1)
    made = org.add("Invitation__c", Name="x", When__c=NOON, Of__c=NOON.date())
    assert org.records("Invitation__c")[0]["Id"] == made
    org.update("Invitation__c", made, Name="y")
    assert org.records("Invitation__c")[0]["Name"] == "y"
    org.delete("Invitation__c", made)
    with pytest.raises(OptionError, match="entity is deleted"):
        org.update("Invitation__c", made, Name="z")
    with pytest.raises(SettingsError):
        PracticeOrg(page_size=0)


# -------------------------------------------------------------------------------------------- server


def test_it_listens_on_loopback_alone_and_nobody_else_trusts_it(org):
    assert org.url.startswith("https://127.0.0.1:")
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(org.url, context=ssl.create_default_context(), timeout=10)
    trusting = ssl.create_default_context(cafile=org.ca_file)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{org.url}/services/data/v59.0/limits", context=trusting, timeout=10)


def test_starting_and_stopping_twice_is_harmless_and_the_records_stay():
    org = PracticeOrg.with_leads(3)
    assert org.start() is org.start()
    folder = Path(org.ca_file).parent
    assert [file.name for file in folder.iterdir()] == ["certificate.pem"]
    assert "127.0.0.1" in repr(org)
    org.stop()
    org.stop()
    assert not folder.exists()
    assert repr(org) == "<PracticeOrg stopped, 3 Lead>"
    with org:
        assert client(org).query("SELECT COUNT() FROM Lead")["totalSize"] == 3


def test_the_leads_of_a_demo_are_the_same_each_time():
    one, two = (PracticeOrg.with_leads(10, clock=lambda: NOON) for _ in range(2))
    assert one.records("Lead") == two.records("Lead")
    assert len({lead["Email"] for lead in one.records("Lead")}) == 10
    assert all(lead["Email"].endswith("@example.com") for lead in one.records("Lead"))
    assert all(at(-24 * 60) < lead["CreatedDate"] < NOON for lead in one.records("Lead"))


def test_it_shows_itself_shortly_and_escapes_what_it_holds():
    org = PracticeOrg.with_leads(12)
    org.add("Lead", LastName="<script>", Company="x")
    shown = org._repr_mimebundle_()
    assert "&lt;script&gt;" in shown["text/html"]
    assert "<script>" not in shown["text/html"]
    assert len(shown["text/plain"].splitlines()) == 12
    assert "… and 3 more" in shown["text/plain"]
