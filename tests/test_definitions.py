"""A workflow's definition: every part of it is mapped, or named with its path."""

from __future__ import annotations

import base64
import contextlib
import copy
import datetime as dt
import functools
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtp_notebook import Attachment, MailError, Message, Template, TemplateError
from smtp_notebook.definitions import read
from smtp_notebook.expressions import ExpressionError, soql
from smtp_notebook.selects import check_condition, parse

PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
MAIL = {"To": "@triggerBody()?['Email']", "Subject": "Welcome", "Body": "Hello"}


def logic_app(mail=None, *, path="/SendEmail", trigger=None, action=None, **more):
    """Return a Logic App's definition, as the designer saves it."""
    return {
        "$schema": "https://schema.management.azure.com/providers/Microsoft.Logic/schemas/2016-06-01/workflowdefinition.json#",
        "contentVersion": "1.0.0.0",
        "parameters": {"$connections": {"defaultValue": {}, "type": "Object"}},
        "triggers": {
            "When_a_record_is_created": {
                "type": "ApiConnection",
                "recurrence": {"frequency": "Minute", "interval": 3},
                "evaluatedRecurrence": {"frequency": "Minute", "interval": 3},
                "splitOn": "@triggerBody()?['value']",
                "inputs": {
                    "host": {
                        "connection": {"name": "@parameters('$connections')['salesforce']['connectionId']"}
                    },
                    "method": "get",
                    "path": "/datasets/default/tables/@{encodeURIComponent(encodeURIComponent('Lead'))}/onnewitems",
                },
                **(trigger or {}),
            }
        },
        "actions": {
            "Send_Email": {
                "type": "ApiConnection",
                "runAfter": {},
                "inputs": {
                    "host": {"connection": {"name": "@parameters('$connections')['smtp']['connectionId']"}},
                    "method": "post",
                    "path": path,
                    "body": MAIL if mail is None else mail,
                },
                **(action or {}),
            }
        },
        "outputs": {},
        **more,
    }


def resource(definition, **properties):
    """Return a Logic App as Azure's "Export" and its API give it."""
    return {
        "id": "/subscriptions/0/resourceGroups/g/providers/Microsoft.Logic/workflows/welcome-leads",
        "name": "welcome-leads",
        "type": "Microsoft.Logic/workflows",
        "location": "westeurope",
        "tags": {},
        "properties": {
            "state": "Enabled",
            "definition": definition,
            "parameters": {
                "$connections": {
                    "value": {
                        "salesforce": {"id": "…/salesforce", "connectionId": "…", "connectionName": "crm"},
                        "smtp": {"id": "…/smtp", "connectionId": "…", "connectionName": "smtp-1"},
                    }
                }
            },
            **properties,
        },
    }


def flow():
    """Return a flow as Power Automate exports it."""
    host = {"connectionName": "shared_salesforce", "operationId": "GetOnNewItems"}
    apis = "/providers/Microsoft.PowerApps/apis/"
    return {
        "name": "b1a2",
        "properties": {
            "displayName": "Welcome the leads",
            "definition": {
                "$schema": "…",
                "contentVersion": "1.0.0.0",
                "parameters": {
                    "$connections": {"defaultValue": {}, "type": "Object"},
                    "$authentication": {"defaultValue": {}, "type": "SecureObject"},
                },
                "triggers": {
                    "When_a_record_is_created": {
                        "recurrence": {"frequency": "Hour", "interval": 1},
                        "splitOn": "@triggerOutputs()?['body/value']",
                        "metadata": {"operationMetadataId": "0"},
                        "type": "OpenApiConnection",
                        "inputs": {
                            "host": {**host, "apiId": f"{apis}shared_salesforce"},
                            "parameters": {"table": "Lead", "$filter": "Status eq 'New'"},
                            "authentication": "@parameters('$authentication')",
                        },
                    }
                },
                "actions": {
                    "Send_email_(V3)": {
                        "runAfter": {},
                        "type": "OpenApiConnection",
                        "inputs": {
                            "host": {
                                "connectionName": "shared_smtp",
                                "operationId": "SendEmailV3",
                                "apiId": f"{apis}shared_smtp",
                            },
                            "parameters": {
                                "emailMessage/From": "sales@example.com",
                                "emailMessage/To": "@triggerOutputs()?['body/Email']",
                                "emailMessage/Subject": "Welcome",
                                "emailMessage/Body": "<p>Dear @{triggerOutputs()?['body/FirstName']}</p>",
                                "emailMessage/Importance": "High",
                            },
                            "authentication": "@parameters('$authentication')",
                        },
                    }
                },
            },
            "connectionReferences": {
                "shared_smtp": {"connectionName": "shared-smtp-1", "source": "Embedded"}
            },
        },
        "schemaVersion": "1.0.0.0",
    }


def message(definition, **cells):
    """Return the mail that a definition makes of a record."""
    return Template("", **read(definition).fields).fill(cells)


# ------------------------------------------------------------------------------------------ what is mapped


def test_a_logic_app_says_the_object_how_often_and_the_mail():
    found = read(resource(logic_app()))
    assert (found.name, found.sobject, found.every, found.where) == ("welcome-leads", "Lead", 180.0, "")
    assert (found.columns, found.connection, found.org) == (("Id", "Email"), "smtp-1", "crm")
    assert (found.trigger, found.action) == ("When_a_record_is_created", "Send_Email")
    assert repr(found) == "<Definition welcome-leads: when a Lead is created, every 3 minutes, send email>"


def test_the_bare_definition_says_the_same_under_the_references_own_names():
    found = read(logic_app())
    assert (found.name, found.connection, found.org) == ("", "smtp", "salesforce")


def test_a_flow_of_power_automate_says_the_same():
    found = read(flow())
    assert (found.name, found.sobject, found.every) == ("Welcome the leads", "Lead", 3600.0)
    assert (found.where, found.connection) == ("Status = 'New'", "shared_smtp")
    mail = message(flow(), Email="ann@example.com", FirstName="Ann & Co")
    assert (str(mail.from_), mail.recipients, mail.importance) == (
        "sales@example.com",
        ("ann@example.com",),
        "high",
    )
    assert mail.html == "<p>Dear Ann &amp; Co</p>"


def test_a_template_of_the_resource_manager_with_one_logic_app_is_read():
    connection = {"type": "Microsoft.Web/connections", "name": "smtp", "properties": {"displayName": "x"}}
    template = {
        "$schema": "…deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "parameters": {"name": {"type": "String"}},
        "variables": {},
        "resources": [connection, resource(logic_app())],
    }
    assert read(template).sobject == "Lead"


def test_text_and_a_file_are_read_as_a_dict_is(tmp_path):
    text = json.dumps(resource(logic_app()))
    path = tmp_path / "workflow.json"
    path.write_text(text, encoding="utf-8-sig")
    assert read(text) == read(path) == read(str(path)) == read(resource(logic_app()))


def test_a_file_that_is_no_utf8_is_refused(tmp_path):
    path = tmp_path / "workflow.json"
    path.write_bytes(b'{"triggers": "\xff"}')
    with pytest.raises(TemplateError, match="not UTF-8"):
        read(path)


def test_a_definition_is_not_changed():
    given_ = resource(logic_app())
    before = copy.deepcopy(given_)
    read(given_)
    assert given_ == before


def test_without_split_on_a_loop_over_the_records_is_the_same():
    send = logic_app({**MAIL, "To": "@items('For_each')?['Email']", "Body": "Dear @{item()?['FirstName']}"})[
        "actions"
    ]
    loop = {"type": "Foreach", "foreach": "@triggerBody()?['value']", "runAfter": {}, "actions": send}
    looped = logic_app(trigger={"splitOn": None}, actions={"For_each": loop})
    assert message(looped, Email="ann@example.com", FirstName="Ann").text == "Dear Ann"


@pytest.mark.parametrize(
    ("recurrence", "every"),
    [
        ({"frequency": "Second", "interval": 15}, 15),
        ({"frequency": "minute", "interval": 3}, 180),
        ({"frequency": "Hour", "interval": 2}, 7200),
        ({"frequency": "Day", "interval": 1}, 86400),
        ({"frequency": "Week", "interval": 1, "timeZone": "UTC"}, 604800),
    ],
)
def test_a_recurrence_is_seconds(recurrence, every):
    assert read(logic_app(trigger={"recurrence": recurrence})).every == every


@pytest.mark.parametrize(
    ("more", "start"),
    [
        ({"startTime": "2020-12-01T09:00:00Z"}, dt.datetime(2020, 12, 1, 9, tzinfo=dt.UTC)),
        (
            {"startTime": "2020-12-01T09:00:00", "timeZone": "UTC"},
            dt.datetime(2020, 12, 1, 9, tzinfo=dt.UTC),
        ),
        (
            {"startTime": "2020-12-01T09:00:00", "timeZone": "Europe/Oslo"},
            dt.datetime(2020, 12, 1, 8, tzinfo=dt.UTC),
        ),
    ],
)
def test_a_start_is_a_moment(more, start):
    found = read(logic_app(trigger={"recurrence": {"frequency": "Day", "interval": 1, **more}}))
    assert found.start == start


def test_every_property_of_the_action_makes_the_mail_that_the_connectors_json_makes():
    everything = {
        "To": "Ann <ann@example.com>; bob@example.org",
        "CC": "carol@example.com",
        "Bcc": "dave@example.com",
        "Subject": "Grüße {{ 1 }} {% if %}",
        "Body": '<style>@media print{#a{color:red}}</style><p>Hi {# <img src="cid:logo@x" alt="logo"></p>',
        "From": "Sales Team <sales@example.com>",
        "IsHtml": True,
        "Importance": "Low",
        "Attachments": [
            {
                "ContentData": PICTURE,
                "ContentType": "image/png",
                "ContentTransferEncoding": "base64",
                "FileName": "logo.png",
                "ContentId": "logo@x",
            },
            {"ContentData": "plain", "ContentTransferEncoding": "none", "FileName": "note.txt"},
        ],
    }
    # Without Jinja2, and by way of it.
    assert message(logic_app(everything)).to_connector() == Message.from_connector(everything).to_connector()


def test_content_as_the_service_writes_files_is_read():
    file = {"FileName": "a.pdf", "ContentData": {"$content-type": "application/pdf", "$content": "eA=="}}
    (found,) = read(logic_app({**MAIL, "Attachments": [file]})).fields["attach"]
    assert found == Attachment(b"x", "a.pdf")


@pytest.mark.parametrize(
    ("path", "more", "kind"),
    [
        ("/SendEmail", {}, "text"),
        ("/SendEmailV2", {"IsHtml": False}, "text"),
        ("/SendEmail", {"IsHtml": "true"}, "html"),
        ("/SendEmailV3", {}, "html"),
        ("/SendEmailV3", {"IsHtml": True}, "html"),
    ],
)
def test_the_newest_action_writes_html_and_the_older_ones_where_they_say_so(path, more, kind):
    assert read(logic_app({**MAIL, **more}, path=path)).fields["format"] == kind


@pytest.mark.parametrize(
    ("host", "connection"),
    [
        ({"connection": {"name": "@parameters('$connections')['smtp_1']['connectionId']"}}, "smtp_1"),
        ({"connection": {"name": "@{parameters('$connections')['smtp']['connectionId']}"}}, "smtp"),
        ({"connection": {"referenceName": "smtp"}}, "smtp"),
        ({"connection": "shared_smtp"}, "shared_smtp"),
        ({"connectionReferenceName": "shared_smtp"}, "shared_smtp"),
    ],
)
def test_a_connection_is_known_by_its_reference(host, connection):
    assert read(logic_app(action={"inputs": {**SEND["inputs"], "host": host}})).connection == connection


def test_no_definition_names_a_server_by_its_address():
    # Whoever wrote the file would get the mails, and with them the password that the environment holds.
    name = "@parameters('$connections')['smtp://ann@mail.example.com']['connectionId']"
    definition = logic_app(action={"inputs": {**SEND["inputs"], "host": {"connection": {"name": name}}}})
    with pytest.raises(TemplateError, match=f"{ACTION}.inputs.host: "):
        read(definition)
    assert read(definition, ignore=[f"{ACTION}.inputs.host"]).connection == ""


def test_a_flow_may_write_the_mail_as_an_object_of_its_own():
    made = flow()
    inputs = made["properties"]["definition"]["actions"]["Send_email_(V3)"]["inputs"]
    plain = {name.removeprefix("emailMessage/"): value for name, value in inputs["parameters"].items()}
    expected = read(made)
    inputs["parameters"] = {"emailMessage": plain}
    assert read(made) == expected


def test_importance_may_differ_from_record_to_record():
    mail = {**MAIL, "Importance": "@if(equals(triggerBody()?['Rating'], 'Hot'), 'High', 'Normal')"}
    made = logic_app(mail)
    assert message(made, Email="a@example.com", Rating="Hot").importance == "high"
    assert message(made, Email="a@example.com", Rating=None).importance == "normal"


def test_a_read_receipt_is_asked_for():
    assert str(
        message(logic_app({**MAIL, "ReadReceipt": "me@example.com"}), Email="a@example.com").read_receipt
    )


# -------------------------------------------------------------------------------------------- expressions

ROW = {
    "Email": "ann@example.com",
    "FirstName": "Ann",
    "LastName": " O'Neil ",
    "Company": None,
    "Vip__c": True,
    "NumberOfEmployees": 12,
    "CreatedDate": "2026-11-02T14:03:21.000+0000",
    "Owner.Name": "Nora",
}


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("Dear @{triggerBody()?['FirstName']}!", "Dear Ann!"),
        ("@triggerBody()?['FirstName']", "Ann"),
        ("@triggerBody()['FirstName']", "Ann"),
        ("@{triggerBody()?.FirstName}", "Ann"),
        ("@{TriggerBody ( ) ?[ 'FirstName' ]}", "Ann"),
        ("@triggerOutputs()?['body/FirstName']", "Ann"),
        ("@{triggerOutputs()?['body']?['FirstName']}", "Ann"),
        ("@{trigger()?['outputs']?['body']?['FirstName']}", "Ann"),
        ("@{triggerBody()?['Owner']?['Name']}@{triggerOutputs()?['body/Owner/Name']}", "NoraNora"),
        ("@{triggerBody()?['Company']}|", "|"),
        ("@triggerBody()?['Company']", ""),
        ("@{triggerBody()?['Vip__c']} @{triggerBody()?['NumberOfEmployees']}", "True 12"),
        ("@{if(equals(null, null), 'a', 'b')}@{coalesce(null)}", "a"),
        ("@concat('Dear ', triggerBody()?['FirstName'], triggerBody()?['Company'], 1, null)", "Dear Ann1"),
        ("@{concat('It''s {{ me }}')}", "It's {{ me }}"),
        ("@{coalesce(triggerBody()?['Company'], triggerBody()?['FirstName'])}", "Ann"),
        ("@{coalesce(null, triggerBody()?['Company'], 'you')}", "you"),
        ("@{coalesce(triggerBody()?['Company'])}|", "|"),
        ("@{toUpper(triggerBody()?['FirstName'])}@{toLower('ANN')}", "ANNann"),
        ("@{trim(triggerBody()?['LastName'])}", "O'Neil"),
        ("@{string(triggerBody()?['Vip__c'])}@{string(triggerBody()?['Company'])}", "True"),
        ("@{replace(triggerBody()?['FirstName'], 'n', '{{')}", "A{{{{"),
        ("@{if(equals(triggerBody()?['FirstName'], 'Ann'), 'yes', 'no')}", "yes"),
        ("@{if(equals(triggerBody()?['FirstName'], 'ann'), 'yes', 'no')}", "no"),
        ("@{if(equals(triggerBody()?['Company'], null), 'none', triggerBody()?['Company'])}", "none"),
        ("@{if(empty(triggerBody()?['Company']), triggerBody()?['Company'], 'x')}|", "|"),
        ("@{if(triggerBody()?['Vip__c'], null, 'x')}|", "|"),
        ("@{if(and(not(empty('x')), or(false, true)), 'a', 'b')}", "a"),
        ("@{if(contains(triggerBody()?['FirstName'], 'a'), 'a', 'b')}", "b"),
        ("@{if(startsWith(triggerBody()?['FirstName'], 'a'), 'a', 'b')}", "a"),
        ("@{if(endsWith(triggerBody()?['FirstName'], 'N'), 'a', 'b')}", "a"),
        ("@{empty(triggerBody()?['Company'])}", "True"),
        (
            "@{formatDateTime(triggerBody()?['CreatedDate'], 'dddd, dd MMMM yyyy')}",
            "Monday, 02 November 2026",
        ),
        ("@{formatDateTime(triggerBody()?['CreatedDate'], 'yyyy-MM-dd''T''HH:mm')}", "2026-11-02T14:03"),
        ("@parameters('team')", "Sales {{ 1 }}"),
        ("@{parameters('team')} @{parameters('size')}", "Sales {{ 1 }} 7"),
        ("@@me @@{x} me@@example.com @ @", "@me @{x} me@@example.com @ @"),
        ("@@{x}", "@{x}"),
        ("{@{triggerBody()?['FirstName']}}", "{Ann}"),
        ("{{@{triggerBody()?['FirstName']}}}", "{{Ann}}"),
        ("{% raw %}@{triggerBody()?['FirstName']}{% endraw %}", "{% raw %}Ann{% endraw %}"),
        ("{%- endraw -%}{{ x }}", "{%- endraw -%}{{ x }}"),
        ("a\n  {%x%}\n  b\n", "a\n  {%x%}\n  b\n"),
    ],
)
def test_an_expression_prints_what_the_service_prints(text, printed):
    parameters = {
        "team": {"type": "String", "defaultValue": "Sales {{ 1 }}"},
        "size": {"type": "Int", "defaultValue": 7},
    }
    made = logic_app({**MAIL, "Body": text}, parameters=parameters)
    assert message(made, **ROW).text == printed


def test_a_parameters_value_wins_over_its_default():
    definition = logic_app(
        {**MAIL, "Body": "@parameters('team')"}, parameters={"team": {"type": "String", "defaultValue": "x"}}
    )
    made = resource(definition)
    made["properties"]["parameters"]["team"] = {"value": "Sales"}
    assert message(made, Email="a@example.com").text == "Sales"


@pytest.mark.parametrize(
    ("to", "cells", "recipients"),
    [
        (
            "@triggerBody()?['Email']",
            {"Email": "a@example.com; b@example.com"},
            ("a@example.com", "b@example.com"),
        ),
        (
            "boss@example.com; @{triggerBody()?['Email']};",
            {"Email": "a@example.com;b@example.com"},
            ("boss@example.com", "a@example.com", "b@example.com"),
        ),
        ("x@example.com;@{triggerBody()?['Email']}", {"Email": None}, ("x@example.com",)),
        (
            "@{triggerBody()?['First']} @{triggerBody()?['Last']} <@{triggerBody()?['Email']}>",
            {"First": "Ann; b@example.com,", "Last": None, "Email": "a@example.com"},
            ("a@example.com",),
        ),
        ("@{triggerBody()?['User']}@example.com", {"User": "ann"}, ("ann@example.com",)),
    ],
)
def test_cells_in_to_split_at_semicolons_as_the_connectors_do(to, cells, recipients):
    assert message(logic_app({**MAIL, "To": to}), **cells).recipients == recipients


def test_a_cell_beside_other_text_of_to_adds_no_recipient():
    to = "Ann <@{triggerBody()?['Email']}>"
    with pytest.raises(MailError):
        message(logic_app({**MAIL, "To": to}), Email="a@example.com>; b@example.com")


def test_what_the_service_would_fail_for_is_a_problem_of_the_row():
    body = "@{toUpper(triggerBody()?['Company'])}"
    with pytest.raises(TemplateError, match="Company"):
        message(logic_app({**MAIL, "Body": body}), **ROW)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="@\u2028\u2029\x85")),
            st.sampled_from(
                ["{", "{{", "}}", "{%", "%}", "{#", "raw", " endraw ", "+", "-", "\n", '"', "\\"]
            ),
        ),
        max_size=8,
    ).map("".join)
)
@example("{% endraw %}{% raw %}")
@example("{{%+ endraw +%}")
def test_text_outside_expressions_arrives_as_it_is(text):
    made = logic_app({**MAIL, "Body": f"{text}@{{triggerBody()?['X']}}{text}"})
    assert message(made, Email="a@example.com", X="{{ x }}").text == f"{text}{{{{ x }}}}{text}"
    line = text.replace("\n", " ")
    assert (
        Template("", **read(logic_app({**MAIL, "Subject": line})).fields)
        .fill({"Email": "a@example.com"})
        .subject.split()
        == line.split()
    )


# ------------------------------------------------------------------------------------------------ filters


@pytest.mark.parametrize(
    ("odata", "where"),
    [
        ("Status eq 'New'", "Status = 'New'"),
        ("Status ne null and Rating eq 'Hot'", "(Status != null AND Rating = 'Hot')"),
        ("(A eq 1 or B lt -2.5) and not (C ge true)", "((A = 1 OR B < -2.5) AND (NOT C >= true))"),
        ("LastName eq 'O''Neil \\'", "LastName = 'O\\'Neil \\\\'"),
        ("CreatedDate gt 2026-11-01T00:00:00Z", "CreatedDate > 2026-11-01T00:00:00Z"),
        ("CloseDate le 2026-11-01", "CloseDate <= 2026-11-01"),
        ("contains(Company, '50%_')", "Company LIKE '%50\\%\\_%'"),
        ("startswith(Company,'A') or endswith(Company,'Z')", "(Company LIKE 'A%' OR Company LIKE '%Z')"),
        ("Owner/Name eq 'Nora'", "Owner.Name = 'Nora'"),
    ],
)
def test_a_filter_is_a_condition_of_soql(odata, where):
    assert soql(odata) == where
    check_condition(where)
    assert parse(f"SELECT Id FROM Lead WHERE {where} ORDER BY Id").where
    assert read(logic_app(trigger=with_queries({"$filter": odata}))).where == where


@pytest.mark.parametrize(
    "odata",
    [
        "Status",
        "Status eq",
        "Status is 'New'",
        "Status eq 'New",
        "Status eq New",
        "(A eq 1",
        "A eq 1)",
        "length(A) gt 1",
        "A eq 'x\ny'",
        "A eq 1; DELETE",
        "not " * 60 + "A eq 1",
        "(" * 60 + "A eq 1" + ")" * 60,
        "A eq 1 and",
        "1 eq A",
        "contains(A, 1)",
        "A eq (",
    ],
)
def test_a_filter_that_has_no_equal_is_refused(odata):
    with pytest.raises(ExpressionError):
        soql(odata)
    with pytest.raises(TemplateError, match=r"inputs\.queries\.\$filter: "):
        read(logic_app(trigger=with_queries({"$filter": odata})))


def with_queries(queries):
    """Return what adds options to the trigger."""
    inputs = logic_app()["triggers"]["When_a_record_is_created"]["inputs"]
    return {"inputs": {**inputs, "queries": queries}}


# ------------------------------------------------------------------------------------------ what is named


def with_path(path):
    """Return a definition whose trigger asks for something else."""
    return logic_app(
        trigger={
            "inputs": {**logic_app()["triggers"]["When_a_record_is_created"]["inputs"], "path": path},
        }
    )


TRIGGER, ACTION = "triggers.When_a_record_is_created", "actions.Send_Email"
OTHER = {"type": "Compose", "inputs": "x", "runAfter": {"Send_Email": ["Succeeded"]}}
SEND = logic_app()["actions"]["Send_Email"]
CONDITION = {"type": "If", "expression": "@equals(1,1)", "actions": {"Send_Email": SEND}, "runAfter": {}}


@pytest.mark.parametrize(
    ("definition", "named"),
    [
        (logic_app({**MAIL, "Foo": "x"}), f"{ACTION}.inputs.body.Foo: "),
        (logic_app({**MAIL, "DeliveryReceipt": "a@example.com"}), f"{ACTION}.inputs.body.DeliveryReceipt: "),
        (logic_app({"Subject": "x"}), f"{ACTION}.inputs.body.To: "),
        (logic_app({**MAIL, "Importance": "Urgent"}), f"{ACTION}.inputs.body.Importance: "),
        (logic_app({**MAIL, "IsHtml": "perhaps"}), f"{ACTION}.inputs.body.IsHtml: "),
        (logic_app({**MAIL, "Subject": "a\nb"}), f"{ACTION}.inputs.body.Subject: "),
        (logic_app({**MAIL, "Subject": ["a"]}), f"{ACTION}.inputs.body.Subject: "),
        (logic_app({**MAIL, "Body": "\0"}), f"{ACTION}.inputs.body.Body: "),
        (logic_app({**MAIL, "Attachments": "@triggerBody()?['F']"}), f"{ACTION}.inputs.body.Attachments: "),
        (
            logic_app({**MAIL, "Attachments": [{"FileName": "a", "ContentData": "@triggerBody()?['F']"}]}),
            f"{ACTION}.inputs.body.Attachments[0].ContentData: ",
        ),
        (logic_app({**MAIL, "Attachments": [{"FileName": "a"}]}), f"{ACTION}.inputs.body.Attachments[0]: "),
        (logic_app(action={"runtimeConfiguration": {"secureData": {}}}), f"{ACTION}.runtimeConfiguration: "),
        (logic_app(action={"runAfter": {"X": ["Failed"]}}), f"{ACTION}.runAfter.X: "),
        (logic_app(action={"limit": {"timeout": "PT1H"}}), f"{ACTION}.limit: "),
        (logic_app(action={"trackedProperties": {"a": 1}}), f"{ACTION}.trackedProperties: "),
        (logic_app(action={"inputs": {**SEND["inputs"], "retryPolicy": {"type": "none"}}}), f"{ACTION}.inputs.retryPolicy: "),
        (logic_app(actions={"Send_Email": SEND, "Then": OTHER}), "actions.Then: an action of type Compose"),
        (logic_app(actions={"Send_Email": SEND, "Two": SEND}), "actions: 2 mails"),
        (logic_app(actions={"If": CONDITION}), "actions.If: an action of type If"),
        (logic_app(actions={}), "actions: no mail"),
        (logic_app(path="/SendEmailV9"), f"{ACTION}: an action of type ApiConnection"),
        (logic_app(trigger={"conditions": [{"expression": "@true"}]}), f"{TRIGGER}.conditions: "),
        (logic_app(trigger={"runtimeConfiguration": {"concurrency": {"runs": 1}}}), f"{TRIGGER}.runtimeConfiguration: "),
        (logic_app(trigger={"splitOn": "@triggerBody()?['other']"}), f"{TRIGGER}.splitOn: "),
        (logic_app(trigger={"splitOn": None}), "actions.Send_Email: a loop"),
        (logic_app(trigger={"type": "Recurrence"}), f"{TRIGGER}.type: "),
        (logic_app(trigger={"recurrence": {"frequency": "Month", "interval": 1}}), f"{TRIGGER}.recurrence.frequency: "),
        (logic_app(trigger={"recurrence": {"frequency": "Day", "interval": 0}}), f"{TRIGGER}.recurrence.interval: "),
        (logic_app(trigger={"recurrence": {"frequency": "Day", "interval": "@x"}}), f"{TRIGGER}.recurrence.interval: "),
        (
            logic_app(trigger={"recurrence": {"frequency": "Day", "interval": 1, "schedule": {"hours": [9]}}}),
            f"{TRIGGER}.recurrence.schedule: ",
        ),
        (
            logic_app(trigger={"recurrence": {"frequency": "Day", "interval": 1, "startTime": "2026-12-01T09:00:00", "timeZone": "W. Europe Standard Time"}}),
            f"{TRIGGER}.recurrence.timeZone: ",
        ),
        (
            logic_app(trigger={"recurrence": {"frequency": "Day", "interval": 1, "startTime": "2999-01-01T00:00:00Z"}}),
            f"{TRIGGER}.recurrence.startTime: ",
        ),
        (
            logic_app(trigger={"recurrence": {"frequency": "Day", "interval": 1, "startTime": "soon"}}),
            f"{TRIGGER}.recurrence.startTime: ",
        ),
        (logic_app(trigger=with_queries({"$top": 5})), f"{TRIGGER}.inputs.queries.$top: "),
        (logic_app(trigger=with_queries({"$orderby": "Name desc"})), f"{TRIGGER}.inputs.queries.$orderby: "),
        (logic_app(trigger=with_queries({"$select": "Id,Name"})), f"{ACTION}.inputs: it uses Email"),
        (logic_app(trigger=with_queries({"$filter": "Name eq '@{triggerBody()?['X']}'"})), "an expression in the filter"),
        (with_path("/datasets/default/tables/@{encodeURIComponent(encodeURIComponent('Lead'))}/onupdateditems"), f"{TRIGGER}.inputs.path: "),
        (logic_app(action={"inputs": {**SEND["inputs"], "method": "get"}}), f"{ACTION}.inputs.method: "),
        (logic_app(action={"inputs": {**SEND["inputs"], "host": {"connection": {"name": "x"}}}}), f"{ACTION}.inputs.host.connection.name: "),
        (
            logic_app(action={"inputs": {**SEND["inputs"], "host": {"connection": "smtp://ann@mail.example.com"}}}),
            f"{ACTION}.inputs.host: ",
        ),
        (logic_app(action={"inputs": "x"}), f"{ACTION}: an action of type ApiConnection"),
        (logic_app({**MAIL, "to": "b@example.com"}), f"{ACTION}.inputs.body.to: it is there twice"),
        (logic_app({**MAIL, "CC": "a\nb"}), f"{ACTION}.inputs.body.CC: "),
        (logic_app({**MAIL, "Attachments": ["x"]}), f"{ACTION}.inputs.body.Attachments[0]: "),
        (logic_app({**MAIL, "Attachments": [{"FileName": 1}]}), f"{ACTION}.inputs.body.Attachments[0].FileName: "),
        (logic_app({**MAIL, "Attachments": [{"FileName": "@{guid()}", "ContentData": "eA=="}]}), f"{ACTION}.inputs.body.Attachments[0].FileName: "),
        (logic_app(triggers={}), "triggers: one trigger is needed, there are 0"),
        (logic_app(parameters={"x": {"type": "String", "defaultValue": "a", "foo": 1}}), "parameters.x.foo: "),
        (logic_app(outputs={"a": 1}), "outputs: "),
        (logic_app(staticResults={"a": 1}), "staticResults: "),
        (resource(logic_app(), state="Disabled"), "properties.state: "),
        (resource(logic_app(), integrationAccount={"id": "x"}), "properties.integrationAccount: "),
        ({"resources": []}, "resources: one Logic App is needed, there are 0"),
        ({"resources": [resource(logic_app()), {"type": "Microsoft.Web/sites"}]}, "resources[1]: "),
        (
            {"resources": [resource(logic_app({**MAIL, "Body": "[variables('x')]"}))]},
            f"{ACTION}.inputs.body.Body: ",
        ),
    ],
)  # fmt: skip
def test_what_has_no_equal_is_named_with_its_path(definition, named):
    with pytest.raises(TemplateError) as caught:
        read(definition)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "@{guid()}",
        "@{utcNow()}",
        "@{body('Other')?['x']}",
        "@{variables('x')}",
        "@{items('For_each')?['Email']}",
        "@{triggerBody()}",
        "@{triggerBody()?['value'][0]}",
        "@{triggerBody()?['@odata.etag']}",
        "@{triggerBody()?[triggerBody()?['X']]}",
        "@{triggerOutputs()?['headers']}",
        "@{triggerBody('x')?['X']}",
        "@{parameters('unknown')}",
        "@{formatDateTime(triggerBody()?['CreatedDate'], 'd')}",
        "@{formatDateTime(triggerBody()?['CreatedDate'], 'd MMMM')}",
        "@{formatDateTime(triggerBody()?['CreatedDate'])}",
        "@{toUpper(null)}",
        "@{formatDateTime('2026-01-01', 'yyyy')}",
        "@{toUpper()}",
        "@{replace('a', '', 'b')}",
        "@{if('x', 'a', 'b')}",
        "@{concat('a'",
        "@{concat('a)}",
        "@{1 + 1}",
        "@{}",
        "@x",
        "@triggerBody()?['X'] and more",
        "@{" + "not(" * 60 + "true" + ")" * 60 + "}",
    ],
)
def test_an_expression_that_has_no_equal_is_named(text):
    with pytest.raises(TemplateError, match=r"actions\.Send_Email\.inputs\.body\.Body: "):
        read(logic_app({**MAIL, "Body": text}))


def test_everything_is_named_at_once():
    made = logic_app(
        {**MAIL, "Foo": 1, "Subject": "@{guid()}"},
        trigger={"conditions": [1]},
        action={"limit": {"count": 1}},
    )
    with pytest.raises(TemplateError) as caught:
        read(made)
    assert all(
        word in str(caught.value)
        for word in ("body.Foo", "body.Subject", "created.conditions", "Send_Email.limit")
    )


def test_what_is_ignored_is_left_out_knowingly():
    made = logic_app(actions={"Send_Email": {**SEND, "limit": {"count": 1}}, "Then": OTHER})
    assert read(made, ignore=["actions.Then", "actions.Send_Email.limit"]).sobject == "Lead"
    with pytest.raises(TemplateError, match=r"actions\.Then"):
        read(made, ignore=["actions.Send_Email.limit"])
    with pytest.raises(TemplateError, match="nothing that this definition is refused for"):
        read(made, ignore=["actions.Them"])
    with pytest.raises(TemplateError, match="no mail is among them"):
        read(logic_app(actions={"If": CONDITION}), ignore=["actions.If"])


# ------------------------------------------------------------------------------------------------ secrets


@pytest.mark.parametrize(
    ("spoil", "path"),
    [
        (lambda d: d["actions"]["Send_Email"]["inputs"].update(password="s3kr3t-x"), r"inputs\.password"),
        (
            lambda d: d["parameters"].update(pw={"type": "SecureString", "defaultValue": "s3kr3t-x"}),
            "defaultValue",
        ),
        (
            lambda d: d["actions"]["Send_Email"].update(a=[{"smtpPassword": "s3kr3t-x"}]),
            r"a\[0\]\.smtpPassword",
        ),
        (lambda d: d.update(connections={"client_secret": "s3kr3t-x"}), "client_secret"),
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(spoil, path):
    made = logic_app()
    spoil(made)
    with pytest.raises(TemplateError, match=path) as caught:
        read(resource(made), ignore=["parameters"])
    assert "s3kr3t" not in str(caught.value)
    assert "s3kr3t" not in repr(caught.value.__context__)


def test_a_parameter_that_stands_for_a_secret_is_none():
    made = logic_app(parameters={"pw": {"type": "SecureString", "defaultValue": "[parameters('pw')]"}})
    assert read(made).sobject == "Lead"


# ----------------------------------------------------------------------------------------- malformed JSON


@pytest.mark.parametrize(
    "given_",
    [
        "",
        "{",
        "[]",
        '{"a": 1, "a": 2}',
        "{" + '"a":{' * 100_000,
        "x" * 10_000,
        "a\0b",
        7,
        None,
        [],
        {},
        {"properties": 1},
        {"properties": {"definition": None}},
        {"triggers": None, "actions": None},
        {"triggers": [], "actions": "x"},
        {"resources": {"a": None}},
        {1: {2: 3}, "triggers": {4: 5}},
        {"triggers": {"a": functools.reduce(lambda inner, _: [inner], range(99), 1)}, "actions": {}},
    ],
)
def test_what_is_no_definition_is_refused_in_one_sentence(given_):
    with pytest.raises(TemplateError):
        read(given_)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from(["@triggerBody()?['Email']", "@{concat(", "[parameters('x')]", "@", "SendEmail", "Enabled"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@st.composite
def spoiled(draw):
    """Return a definition of which some parts are something else."""
    made = draw(st.sampled_from([resource(logic_app()), logic_app(), flow()]))
    made = copy.deepcopy(made)
    for _ in range(draw(st.integers(1, 3))):
        at = made
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if not isinstance(at[key], dict | list) or draw(st.booleans()):
                at[key] = draw(JSON)
                break
            at = at[key]
    return made


@settings(max_examples=150, deadline=None)
@given(spoiled())
def test_a_malformed_definition_raises_nothing_but_a_mail_error(given_):
    try:
        found = read(given_)
    except MailError:
        return
    # What is read makes mails, or says of a row why not.
    with contextlib.suppress(MailError):
        Template("", **found.fields).fill(dict.fromkeys(found.columns, "a@example.com"))


WORDS = ["@{", "}", "(", ")", "'", ",", "?", "[", "]", "triggerBody()", "concat", "if", "equals", "item()", "not", "null",
         "true", "1", "-", ".", "formatDateTime", "'yyyy'", "['X']", " ", "replace", "coalesce", "empty", "and"]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=14).map("".join))
def test_a_malformed_expression_is_refused_or_makes_mails(text):
    made = logic_app({**MAIL, "Body": f"@{{{text}}}", "CC": f"@{text}"})
    try:
        found = read(made)
    except TemplateError:
        return
    with contextlib.suppress(MailError):
        Template("", **found.fields).fill({"Email": "a@example.com", "X": "b@example.com"})


def test_a_definition_shows_itself_in_both_ways():
    shown = read(resource(logic_app({**MAIL, "Subject": "<b>"})))._repr_mimebundle_()
    assert "object: Lead (Id, Email)" in shown["text/plain"]
    assert "&lt;b&gt;" in shown["text/html"]
    assert "<b>" not in shown["text/html"]
