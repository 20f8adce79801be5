"""Published template injections, and a child process that tries them; `test_payloads` looks at what came of it.

A child is told one payload per line, and answers with what the mail says or which error it was, with everything
that Python's audit hook saw meanwhile (PEP 578), and whether the environment's secret came out. A payload that
hangs or eats the memory ends its child, not the test.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path

HACKTRICKS = "HackTricks, Pentesting Web, SSTI, Jinja2 SSTI"
PAYLOADS = "PayloadsAllTheThings, Server Side Template Injection, Python"
FORMAT = "Jinja GHSA-q2x7-8rv6-6q7h (CVE-2024-56326): an indirect reference to str.format"
FILENAME = "Jinja GHSA-gmj6-6f8f-6699 (CVE-2024-56201): a template's name with quotes in it"
ATTR = "Jinja GHSA-cpwx-vrp4-4pq7 (CVE-2025-27516): |attr('format')"
XMLATTR = "Jinja GHSA-h75v-3vvj-5mfj, GHSA-h5c8-rqwp-cp95 (CVE-2024-34064, CVE-2024-22195): xmlattr"
FORMAT_MAP = "Jinja GHSA-462w-v97r-4m45, GHSA-hj2j-77xm-mc5v (CVE-2019-10906, CVE-2016-10745): format_map"
LIMITS = "Jinja documentation, Sandbox, Security Considerations: time and memory"

#: What reads, runs, opens or connects, and the way there. Each is tried as a template and as a cell.
READS = [
    (PAYLOADS, "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    (PAYLOADS, "{{ [].__class__.__base__.__subclasses__()[40]('/etc/passwd').read() }}"),
    (PAYLOADS, "{{ ''.__class__.mro()[2].__subclasses__()[40]('/etc/passwd').read() }}"),
    (PAYLOADS, "{{ config.items() }}"),
    (PAYLOADS, "{{ self._TemplateReference__context.cycler.__init__.__globals__.os.popen('id').read() }}"),
    (PAYLOADS, "{{ self._TemplateReference__context.joiner.__init__.__globals__.os.popen('id').read() }}"),
    (PAYLOADS, "{{ self._TemplateReference__context.namespace.__init__.__globals__.os.popen('id').read() }}"),
    (PAYLOADS, "{{ cycler.__init__.__globals__.os.popen('id').read() }}"),
    (PAYLOADS, "{{ joiner.__init__.__globals__.os.popen('id').read() }}"),
    (PAYLOADS, "{{ namespace.__init__.__globals__.os.popen('id').read() }}"),
    (PAYLOADS, "{{ lipsum.__globals__['os'].popen('id').read() }}"),
    (PAYLOADS, "{{ lipsum.__globals__.os.environ }}"),
    (PAYLOADS, "{{ dict.__base__.__subclasses__() }}"),
    (PAYLOADS, "{% for x in ().__class__.__base__.__subclasses__() %}{% if 'warning' in x.__name__ %}{{ x()._module.__builtins__['__import__']('os').popen('id').read() }}{% endif %}{% endfor %}"),
    (PAYLOADS, "{{ request.application.__globals__.__builtins__.__import__('os').popen('id').read() }}"),
    (PAYLOADS, "{{ request|attr('application')|attr('\\x5f\\x5fglobals\\x5f\\x5f')|attr('\\x5f\\x5fgetitem\\x5f\\x5f')('\\x5f\\x5fbuiltins\\x5f\\x5f') }}"),
    (PAYLOADS, "{{ get_flashed_messages.__globals__.__builtins__.open('/etc/passwd').read() }}"),
    (PAYLOADS, "{{ url_for.__globals__['current_app'].config }}"),
    (PAYLOADS, "{{ request['__cl'+'ass__'].__base__ }}"),
    (PAYLOADS, "{{ ()|attr('__class__')|attr('__base__')|attr('__subclasses__')() }}"),
    (PAYLOADS, "{{ ()|attr('__cla'~'ss__') }}"),
    (PAYLOADS, "{{ (''|attr(['_'*2,'class','_'*2]|join)) }}"),
    (HACKTRICKS, "{{ dict(__class__=1) and ''['__class__'] }}"),
    (HACKTRICKS, "{% set chr = dict.__base__.__subclasses__()[59].__init__.__globals__.__builtins__.chr %}{{ chr(95) }}"),
    (HACKTRICKS, "{% with a = ((((lipsum))))|attr('__globals__') %}{{ a.os.popen('id').read() }}{% endwith %}"),
    (HACKTRICKS, "{{ lipsum|attr('__globals__')|attr('get')('os')|attr('popen')('id')|attr('read')() }}"),
    (HACKTRICKS, "{% set a = (dict(po=1,p=2)|join) %}{% set g = '_'*2 ~ 'globals' ~ '_'*2 %}{{ (lipsum|attr(g)) }}"),
    (HACKTRICKS, "{{ [lipsum]|map(attribute='__globals__')|list }}"),
    (HACKTRICKS, "{{ [lipsum]|map('attr', '__globals__')|list }}"),
    (HACKTRICKS, "{{ [helper]|groupby('__globals__') }}"),
    (HACKTRICKS, "{{ [helper]|sort(attribute='__code__.co_filename')|list }}"),
    (HACKTRICKS, "{{ [helper]|selectattr('__globals__')|list }}"),
    (HACKTRICKS, "{{ [helper]|sum(attribute='__globals__') }}"),
    (HACKTRICKS, "{{ [helper]|unique(attribute='__globals__')|list }}"),
    (HACKTRICKS, "{{ [helper]|max(attribute='__globals__') }}"),
    (HACKTRICKS, "{{ helper.__globals__ }}"),
    (HACKTRICKS, "{{ helper['__globals__'] }}"),
    (HACKTRICKS, "{{ helper.__code__.co_consts }}"),
    (HACKTRICKS, "{{ thing.method.__func__.__globals__ }}"),
    (HACKTRICKS, "{{ thing.__init__.__globals__['os'].environ['CANARY'] }}"),
    (HACKTRICKS, "{{ thing.__dict__ }}"),
    (HACKTRICKS, "{{ thing.__class__.__mro__ }}"),
    (HACKTRICKS, "{{ thing._hidden }}"),
    (HACKTRICKS, "{{ (helper for helper in [1]) }}"),
    (HACKTRICKS, "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}"),
    (HACKTRICKS, "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}"),
    (HACKTRICKS, "{% for x in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}"),
    (HACKTRICKS, "{% for x in [1] %}{{ loop._undefined.__init__.__globals__ }}{% endfor %}"),
    (HACKTRICKS, "{{ self.__init__.__globals__ }}"),
    (HACKTRICKS, "{% block a %}{{ self.a._context.environment }}{% endblock %}"),
    (HACKTRICKS, "{{ ''.join.__self__.__class__ }}"),
    (HACKTRICKS, "{{ (1).__class__.from_bytes }}"),
    (HACKTRICKS, "{{ undefined_name.__init__.__globals__ }}"),
    (HACKTRICKS, "{{ (undefined_name|default(helper)).__globals__ }}"),
    (HACKTRICKS, "{% include '/etc/passwd' %}"),
    (HACKTRICKS, "{% import 'os' as os %}{{ os.environ }}"),
    (HACKTRICKS, "{% from 'os' import environ %}{{ environ }}"),
    (HACKTRICKS, "{% extends '/etc/passwd' %}"),
    (HACKTRICKS, "{% filter attr('__class__') %}x{% endfilter %}"),
    (HACKTRICKS, "{{ ''.encode('idna').__class__ }}"),
    (HACKTRICKS, "{{ things.append(1) }}"),
    (HACKTRICKS, "{{ things.clear() }}"),
    (HACKTRICKS, "{{ book.update({'a': 1}) }}"),
    (HACKTRICKS, "{{ book.setdefault('b', 2) }}"),
    (FORMAT, "{{ '{0.__class__.__base__}'.format(helper) }}"),
    (FORMAT, "{{ '{0.__globals__}'.format(helper) }}"),
    (FORMAT, "{{ ['{0.__globals__}'.format]|map('list') }}"),
    (FORMAT, "{% set f = '{0.__globals__}'.format %}{{ f(helper) }}"),
    (FORMAT, "{{ call_it('{0.__globals__[os].environ[CANARY]}'.format, helper) }}"),
    (FORMAT, "{{ ([helper]|map('{0.__globals__}'.format))|list }}"),
    (FORMAT, "{{ ('{0.__globals__}'|safe).format(helper) }}"),
    (FORMAT_MAP, "{{ '{a.__globals__}'.format_map({'a': helper}) }}"),
    (FORMAT_MAP, "{{ call_it('{a.__globals__[os].environ[CANARY]}'.format_map, {'a': helper}) }}"),
    (ATTR, "{{ ('{0.__globals__}'|attr('format'))(helper) }}"),
    (ATTR, "{{ ('{0.__globals__[os].environ[CANARY]}'|attr('format'))(helper) }}"),
    (ATTR, "{{ call_it('{0.__globals__[os].environ[CANARY]}'|attr('format'), helper) }}"),
    (FILENAME, "{% import '\"\\n__import__(\"os\").system(\"id\")#' as x %}"),
    (FILENAME, "{% include [\"')+__import__('os').system('id')#\"] %}"),
    (XMLATTR, "{{ {'onclick=alert(1) x': 'y'}|xmlattr }}"),
    (XMLATTR, "{{ {'a/onclick=alert(1)/x': 'y'}|xmlattr }}"),
    (XMLATTR, "{{ {'a>\\x3cscript>alert(1)\\x3c/script>': 'y'}|xmlattr }}"),
]  # fmt: skip

#: What would take all time or memory. Each is tried as a template; as a cell it is text like any other.
BOMBS = [
    (LIMITS, text)
    for text in """\
{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}
{% for a in range(99999) %}{% for b in range(10) %}<p>hello hello hello</p>{% endfor %}{% endfor %}
{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}
{% for x in [1,1] recursive %}{% if loop.depth < 60 %}{{ loop([1,1]) }}{% endif %}{% endfor %}
{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}
{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}
{% for i in range(99999) %}{{ range(99999) | max }}{% endfor %}
{% for i in range(99999) %}{{ range(99999) | map('abs') | sum }}{% endfor %}
{% set r = range(99999) | list %}{% for i in range(99999) %}{% if -1 in r %}x{% endif %}{% endfor %}
{% set r = range(99999) | list %}{% set q = range(99999) | list %}{% for i in r %}{% if q == r %}x{% endif %}{% endfor %}
{% set r = range(99999) | list %}{% for i in range(99999) %}{% set y = [r] %}{% endfor %}
{% for i in range(99999) %}{{ {}.fromkeys(range(99999)) | length }}{% endfor %}
{{ 'a' * 10**10 }}
{{ 10**10 * ['x'] }}
{{ 10**(10**8) }}
{{ (2**90000) * (2**90000) }}
{{ ('9' * 4000) | int ** 1000 }}
{{ ('f' * 10000000) | int(base=16) * 2 }}
{{ 10**5000 }}
{{ '%1000000000d' % 1 }}
{{ '%.1000000000f' % 1.5 }}
{{ '%*d' % (1000000000, 1) }}
{{ '%(a)1000000000d' % {'a': 1} }}
{{ '%1000000000s' | format(1) }}
{{ '{:1000000000}'.format(1) }}
{{ '{:{}}'.format(1, 1000000000) }}
{{ '{a:{b}}'.format_map({'a': 1, 'b': 1000000000}) }}
{{ ('{0}' * 1000000).format('x' * 1000000) }}
{{ ('%s' * 100000) % ((('x' * 100000),) * 100000) }}
{{ 'x' | center(10**10) }}
{{ 'x'.center(10**10) }}
{{ 'x'.rjust(10**10) }}
{{ 'x'.zfill(10**10) }}
{{ ('\\t' * 1000000).expandtabs(1000000) }}
{{ (1).to_bytes(10**10, 'big') }}
{{ lipsum(n=10**6) }}
{{ lipsum(10**6) }}
{{ 1 | round(-1000000000) }}
{{ 1.5 | round(1000000000, 'floor') }}
{{ range(99999) | map('center', 100000) | list | length }}
{{ range(99999) | join('x' * 1000000) }}
{{ ('x' * 1000000).join(['a'] * 99999) }}
{{ ('x' * 1000000) | replace('x', 'y' * 1000000) }}
{{ ('x' * 1000000).replace('x', 'y' * 1000000) }}
{{ ('x' * 1000000).translate({120: 'y' * 1000000}) }}
{{ [1] | batch(10**10, 'x') | list | length }}
{{ [1] | slice(10**10) | list | length }}
{{ ('a\\n' * 1000000) | indent(1000000) }}
{{ ('a\\n' * 1000000) | indent('x' * 1000000) }}
{{ ('ab ' * 100000) | wordwrap(1, wrapstring='x' * 1000000) }}
{{ [[1]] | tojson(indent=10**9) }}
{{ ([[1]] * 99999) | sum(start=[]) | length }}
{{ ('<!---->' * 1000000) | striptags }}
{{ (('<b>' * 1000000) | safe).striptags() }}
{{ ('a@a.' * 100000) | urlize }}
{{ ('x' * 40000000).split('x') | length }}
{{ '1e999999999' | number }}
{{ '1e999999999' | money }}
{% filter center(10**10) %}x{% endfilter %}
{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}
{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}
{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}
{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}
{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x }}
{% set ns = namespace(x='') %}{% for i in range(60) %}{% set ns.x %}x{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}{{ ns.x }}
""".splitlines()
]

MEMORY = 3 * 2**30
#: Where each payload is tried, with its text in place of PAYLOAD.
WAYS = {
    "template": "---\nto: ann@example.com\n---\nPAYLOAD",
    "subject": "---\nto: ann@example.com\nsubject: PAYLOAD\n---\nhello",
    "cell": "---\nto: ann@example.com\nsubject: Hi {{ cell }}\n---\nhello {{ cell }} [{{ cell }}](https://example.com/{{ cell }})",
}


class Child:
    """One child process; a new one takes its place when it has to be ended."""

    def __init__(self):
        self._process = None

    def tried(self, way, text, seconds=20):
        """Return what came of a payload; "hung" or "died" when nothing did."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                cwd=Path(__file__).parent, env={**os.environ, "CANARY": "the-canary-in-the-environment"},
            )  # fmt: skip
            self._answer(60)  # it says that it is ready
        self._process.stdin.write(json.dumps({"way": way, "text": text}) + "\n")
        self._process.stdin.flush()
        return self._answer(seconds)

    def _answer(self, seconds):
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self.close()
            return {"result": "died" if ready else "hung", "said": "", "events": [], "leaked": False}
        return json.loads(line)

    def close(self):
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


# ------------------------------------------------------------------------------------- in the child

_FORBIDDEN = ("open", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "urllib.", "tempfile.", "import", "glob.", "pty.", "sys._getframe")  # fmt: skip


def _hidden_thing():
    class Thing:
        """An object of the person's own."""

        def __init__(self):
            self._hidden = os.environ["CANARY"]

        def method(self):
            return "method"

    return Thing()


def helper():
    """Return a word; its globals have the module os."""
    return "helped"


def call_it(function, *args):
    """Call what it is given, as ``map`` and a person's own helpers do."""
    return function(*args)


def _main():
    import resource

    from smtp_notebook import MailError, TemplateError
    from smtp_notebook.template import Template

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    seen = []
    watching = False

    def watch(event, args):
        if watching and event.startswith(_FORBIDDEN):
            seen.append(f"{event} {args!r:.200}")

    sys.addaudithook(watch)
    values = {
        "helper": helper, "thing": _hidden_thing(), "call_it": call_it, "things": [1], "book": {"a": 1},
    }  # fmt: skip

    def tried(way, text):
        nonlocal watching
        seen.clear()
        source = WAYS[way]
        source = source if way == "cell" else source.replace("PAYLOAD", text)
        row = {"Email": "ann@example.com", "cell": text if way == "cell" else "x"}
        watching = True
        try:
            message = Template(source, format="markdown").fill(row, values=values)
            result, said = "mail", f"{message.subject}\n{message.text}\n{message.html}"
        except TemplateError as error:
            result, said = "refused", str(error)
        except MailError as error:
            result, said = type(error).__name__, str(error)
        except BaseException as error:  # noqa: BLE001 - which one it was is the answer
            result, said = f"raised {type(error).__name__}", str(error)
        finally:
            watching = False
        intact = values["things"] == [1] and values["book"] == {"a": 1}
        leaks = (os.environ["CANARY"], "root:x:0", "uid=0", "<class ", "built-in", "posix")
        leaked = [leak for leak in leaks if way != "cell" and result == "mail" and leak in said]
        return {"result": result, "said": said[-3000:], "events": seen[:], "leaked": leaked, "intact": intact}

    "".encode("idna")
    # What is imported when it is first needed is here before anything is watched.
    for way in WAYS:
        tried(way, "{{ 1.5 | number }} *a* https://example.com {{ 'a' | upper | pprint }} {{ [1] }}")
        tried(way, "{{ [1] | tojson | urlize }} {{ 'x' | date }} {{ lipsum(n=1) }}")

    def say(answer):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    say({"result": "ready"})
    for line in sys.stdin:
        say(tried(**json.loads(line)))


if __name__ == "__main__":
    _main()
