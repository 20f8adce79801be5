"""Journals of both kinds, for promises that both keep: a file of SQLite's, and a schema in PostgreSQL."""

from __future__ import annotations

import itertools
import os
import sqlite3
from urllib.parse import quote

from smtp_notebook import Journal
from smtp_notebook.places import DatabaseURL

KINDS = ("sqlite", "postgresql")
_NUMBERS = itertools.count(1)


def url(server, schema, database="postgres"):
    """Return the URL of a journal in a `databases.Postgres`."""
    host = quote(str(server.folder), safe="")
    return f"postgresql://tester@/{database}?host={host}&port={server.port}&schema={schema}"


def fresh(server):
    """Return the URL of a journal that is not there yet."""
    return url(server, f"journal{os.getpid()}_{next(_NUMBERS)}")


def changed(query, *values):
    """Change something in the journal that the environment names, behind its back."""
    journal = Journal()
    place = journal.path
    journal.close()
    if isinstance(place, DatabaseURL):
        import psycopg  # not on the second interpreter, which tries no database

        with psycopg.connect(**place.settings(), autocommit=True) as db:
            db.execute(f"SET search_path = {place.schema}")
            db.execute(query.replace("?", "%s"), values)
    else:
        db = sqlite3.connect(place)
        with db:
            db.execute(query, values)
        db.close()
