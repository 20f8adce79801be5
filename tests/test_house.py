"""The house: what is promised outside the code."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tomllib

from conftest import ROOT

import smtp_notebook

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_importing_costs_nothing():
    heavy = "{'pandas', 'ipywidgets', 'aiosmtplib', 'aiosmtpd', 'IPython', 'jinja2', 'matplotlib'}"
    code = f"import sys, smtp_notebook; found = {heavy} & set(sys.modules); sys.exit(repr(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_documented_and_in_the_readme():
    assert smtp_notebook.__all__ == sorted(smtp_notebook.__all__)
    for name in smtp_notebook.__all__:
        assert getattr(smtp_notebook, name).__doc__, name
        assert re.search(rf"\b{name}\b", README), name


def test_the_version_is_the_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert smtp_notebook.__version__ == project["version"]


def test_binders_python_is_one_that_ci_tests():
    wanted = (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    assert f'"{wanted}"' in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_make_help_lists_every_documented_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)
    shown = subprocess.run(
        ["make", "-s", "help"], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    assert all(f"make {t}" in shown for t in targets)


def test_the_lead_export_has_what_it_is_said_to_have(tmp_path):
    import make_leads

    make_leads.write(tmp_path / "leads.csv")
    kept = ROOT / "notebooks" / "data" / "leads.csv"
    assert kept.read_bytes() == (tmp_path / "leads.csv").read_bytes()
    rows = list(csv.DictReader(kept.read_text(encoding="utf-8").splitlines()))
    emails = [r["Email"] for r in rows]
    assert (len(rows), len({r["Id"] for r in rows}), {len(r["Id"]) for r in rows}) == (250, 250, {18})
    assert len(emails) - len(set(emails)) == 1
    assert emails.count("ana.lopez@") == 1
    assert sum(not r["Phone"] for r in rows) == make_leads.NO_PHONE
    assert sum(not r["Company"] for r in rows) == make_leads.NO_COMPANY
    assert sum(not r["FirstName"] for r in rows) == make_leads.NO_FIRST_NAME
    assert any("," in r["Company"] for r in rows)
    assert any("'" in r["LastName"] for r in rows)
    assert all(re.search(r"@$|@([a-z]+\.)?example\.(com|org|test)$", e) for e in emails)
