"""Templates and cells from strangers: nothing is read, run, opened or connected, and no mail takes all day."""

from __future__ import annotations

import pytest
from payloads import BOMBS, READS, WAYS, Child

from smtp_notebook import TemplateError
from smtp_notebook.bounds import BITS, CHARACTERS, SKELETON, TURNS, extent
from smtp_notebook.template import Template


@pytest.fixture(scope="module")
def child():
    found = Child()
    yield found
    found.close()


def known(payloads):
    return pytest.mark.parametrize("text", [text for _, text in payloads], ids=range(len(payloads)))


@pytest.mark.parametrize(
    ("number", "way"),
    [(i, "template") for i in range(len(READS))] + [(i, "subject") for i in range(0, len(READS), 5)],
)
def test_a_published_payload_as_a_template_reads_runs_opens_and_connects_nothing(child, number, way):
    found = child.tried(way, READS[number][1])
    assert found["result"] in {"refused", "mail"}, found
    assert (found["events"], found["leaked"], found["intact"]) == ([], [], True)


@known(READS + BOMBS[::5])
def test_a_payload_in_a_cell_is_text(child, text):
    found = child.tried("cell", text)
    assert (found["result"], found["events"], found["intact"]) == ("mail", [], True)
    assert f"Hi {text}\n" in found["said"]
    assert f"hello {text} " in found["said"]


@pytest.mark.parametrize(
    ("number", "way"),
    [(i, "template") for i in range(len(BOMBS))] + [(i, "subject") for i in range(0, len(BOMBS), 6)],
)
def test_a_template_that_would_take_all_time_or_memory_is_refused(child, number, way):
    found = child.tried(way, BOMBS[number][1])
    assert (found["result"], found["events"]) == ("refused", [])


def test_every_payload_names_its_source_and_every_way_is_tried():
    assert all(source and text for source, text in READS + BOMBS)
    assert len({text for _, text in READS + BOMBS}) == len(READS + BOMBS) > 120
    assert set(WAYS) == {"template", "subject", "cell"}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("{% for a in range(2000) %}{% for b in range(2000) %}{% endfor %}{% endfor %}", TURNS),
        ("{{ 'x' * 60000000 }}", CHARACTERS),
        ("{{ 2**100001 }}", BITS),
        ("{% for a in range(90000) %}" + "x" * 60 + "{% endfor %}", SKELETON),
    ],
)
def test_the_error_says_which_limit_it_was_and_where(text, limit):
    with pytest.raises(TemplateError, match=f"body.*more than {limit:,}") as caught:
        Template(text).fill({})
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{% for i in range(9999) %}{{ i }}{{ ', ' if not loop.last }}{% endfor %}", "9998"),
        ("{% for name, price in lines %}{{ name | upper }} {{ price | money }}\n{% endfor %}", "PART 4,999 $4,999.00"),
        ("{{ lines | map(attribute=0) | join('; ') | length }}", "70"),
        ("{{ 'call 4930123456, %s' % name }}", "call 4930123456, Ann"),
        ("{{ 'in 12345678: {}'.format(name) }}", "in 12345678: Ann"),
        ("{{ '%-12s|' % name }} {{ '{:>8.2f}'.format(3.14159) }}", "3.14"),
        ("{{ 'x' | center(50) | length }} {{ lipsum(n=1, html=false) | length > 1 }}", "50 True"),
        ("{{ 10 ** 20 }} {{ 7 % 3 }} {{ 'ab' * 3 }} {{ [1] + [2] }} {{ name ~ 1 }}", "100000000000000000000 1 ababab 1, 2 Ann1"),
        ("{% for x in tree recursive %}{{ x.n }}({{ loop(x.c) }}){% endfor %}", "1(2())"),
        ("{% if name in ['Ann', other] %}yes{% endif %} {% set a, b = 1, 2 %}{{ (a, b) | join('-') }}", "yes 1-2"),
        ("{{ range(5) | batch(2) | list | length }} {{ gen() | list | length }}", "3 3"),
        ("{% for g in gen() %}{{ loop.index }}/{{ loop.length }} {% endfor %}", "3/3"),
    ],
)  # fmt: skip
def test_what_ordinary_templates_do_stays_far_below_the_limits(text, said):
    values = {
        "lines": [(f"part {i:,}", i) for i in range(5_000)] if "upper" in text else [(f"part {i}", i) for i in range(9)],
        "tree": [{"n": 1, "c": [{"n": 2, "c": []}]}],
        "gen": lambda: (i for i in range(3)),
        "name": "Ann",
        "other": "Bob",
    }  # fmt: skip
    assert said in Template(text, format="text").fill({}, values=values).text


def test_the_size_of_what_holds_itself_twice_is_found_without_walking_it_all():
    value = ["x"]
    for _ in range(60):
        value = [value, value]
    assert extent(value, 10_000) > 10_000


def test_a_number_in_a_cell_is_not_written_out_with_a_billion_zeros():
    with pytest.raises(TemplateError, match="400 digits"):
        Template("{{ Amount | number }}").fill({"Amount": "1e999999999"})


@pytest.mark.parametrize(
    "text",
    ["{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}", "{{ " + "-" * 5_000 + "1 }}", "{{ " + "9" * 5_000 + " }}",
     "{{ " + "+".join(["1"] * 20_000) + " }}", "{{ a" + ".b" * 20_000 + " }}", "{% for x in [1] %}" * 40 + "{% endfor %}" * 40,
     "{% if 1 %}" * 500 + "{% endif %}" * 500],
)  # fmt: skip
def test_a_template_that_no_compiler_takes_is_a_template_error(text):
    with pytest.raises(TemplateError):
        Template(text).fill({"a": {}})


def test_a_value_that_cannot_be_printed_is_a_template_error():
    class Odd:
        def __str__(self):
            raise RuntimeError("no")

    for source in ("{{ odd }}", "---\nsubject: {{ odd }}\n---\nhi"):
        with pytest.raises(TemplateError, match="RuntimeError: no"):
            Template(source).fill({}, values={"odd": Odd()})
