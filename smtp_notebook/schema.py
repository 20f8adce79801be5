"""The journal's tables, as named steps from an empty file to the present form; and what guards a record.

Each step is applied in one transaction, which also writes its number: as a file's ``user_version``, or into PostgreSQL's
table ``form``. A step never changes once a journal may have been written by it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from smtp_notebook.records import COLUMNS, DEFINITIONS

__all__ = ["FIELDS", "INSERT", "MIGRATIONS", "POSTGRESQL", "Migration", "checksum", "key_hash", "record_sum"]

#: A record's columns, in the order in which its checksum takes them.
FIELDS = ("id", "key", "seq", "version", "digest", "accepted", "position", *COLUMNS)
INSERT = f"INSERT INTO record (campaign, hash, {', '.join(FIELDS)}, sum) VALUES ({', '.join('?' * (len(FIELDS) + 3))})"


def checksum(values: Sequence[Any]) -> int:
    """Return the checksum of a record; finds what a disk or an editor changed, guards against nobody."""
    return zlib.crc32((_joined(len(values)) % tuple(values)).encode("utf-8", "surrogatepass"))


def record_sum(values: Sequence[Any]) -> int:
    """Return the checksum of a record, whose values are those of `FIELDS`.

    The last two came later. Where both are empty it is the one that the record would have had before: so no file had to
    be summed anew, which would have made a damaged record look whole.
    """
    return checksum(values if values[-1] or values[-2] else values[:-2])


@functools.cache
def _joined(count: int) -> str:
    return "\x1f".join(["%s"] * count)


def key_hash(key: str) -> int:
    """Return the number by which a key is looked up: the same in every process, short in the index."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step: a name that says what it brings, statements, and what moves the old records."""

    name: str
    statements: tuple[str, ...]
    move: Callable[[sqlite3.Connection], None] | None = None

    def apply(self, db: sqlite3.Connection) -> None:
        """Run the step inside the caller's transaction."""
        for statement in self.statements:
            db.execute(statement)
        if self.move is not None:
            self.move(db)


# What the second step made of an Outcome's columns; as long as there are files of the first form, it stays.
_SECOND_DEFINITIONS = (
    "state TEXT NOT NULL, recipients TEXT NOT NULL, status INTEGER NOT NULL, code INTEGER, "
    "enhanced TEXT NOT NULL, reason TEXT NOT NULL, fix TEXT NOT NULL, message_id TEXT NOT NULL, "
    "attempts INTEGER NOT NULL, started REAL, seconds REAL NOT NULL, refused TEXT NOT NULL, warnings TEXT NOT NULL"
)
_SECOND_FIELDS = (
    *("id", "key", "seq", "version", "digest", "accepted", "position"),
    *(part.split()[0] for part in _SECOND_DEFINITIONS.split(", ")),
)
_SECOND_INSERT = (
    f"INSERT INTO record (campaign, hash, {', '.join(_SECOND_FIELDS)}, sum) "
    f"VALUES ({', '.join('?' * (len(_SECOND_FIELDS) + 3))})"
)


def _to_plan_order(db: sqlite3.Connection) -> None:
    """Move the rows of the first form, whose outcomes were JSON, into records."""
    query = "SELECT campaign, key, seq, state, digest, version, outcome FROM row ORDER BY campaign, key"
    for number, (campaign, key, seq, old, digest, version, text) in enumerate(db.execute(query), 1):
        found = json.loads(text)
        # How a run ended that left a row open is not known any more.
        state = "in_doubt" if old in {"armed", "intended"} else old
        columns = [
            state, "\n".join(found.get("to", ())), found.get("status", 0), found.get("code"),
            *(found.get(name, "") for name in ("enhanced", "reason", "fix", "message_id")),
            found.get("attempts", 0), None, found.get("seconds", 0.0),
            *(json.dumps(found[name], ensure_ascii=False) if found.get(name) else "" for name in ("refused", "warnings")),
        ]  # fmt: skip
        # A mail that went to some alone may never go to those again.
        refused = {address for address, _ in found.get("refused", ())}
        accepted = "\n".join(a for a in found.get("to", ()) if a not in refused) if state == "partial" else ""
        values = [number, key, seq, version, digest, accepted, found.get("row"), *columns]
        # A single mail's key has its number behind a #; its copies are found together.
        hashed = key_hash(key.partition("#")[0] if found.get("row") is None else key)
        db.execute(_SECOND_INSERT, (campaign, hashed, *values, checksum(values)))
    db.execute("DROP TABLE row")


MIGRATIONS = (
    Migration(
        "campaigns and rows",
        (
            """CREATE TABLE campaign (
                id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, scope TEXT NOT NULL, sender TEXT NOT NULL,
                fingerprint TEXT NOT NULL, version INTEGER NOT NULL, created TEXT NOT NULL,
                rows INTEGER NOT NULL DEFAULT 0)""",
            """CREATE TABLE row (
                campaign INTEGER NOT NULL REFERENCES campaign (id), key TEXT NOT NULL, seq INTEGER NOT NULL,
                state TEXT NOT NULL, run TEXT NOT NULL, boot TEXT NOT NULL, digest BLOB NOT NULL,
                version INTEGER NOT NULL, outcome TEXT NOT NULL, sum INTEGER NOT NULL,
                PRIMARY KEY (campaign, key)) WITHOUT ROWID""",
            "CREATE INDEX open_rows ON row (campaign, state) WHERE state IN ('armed', 'intended')",
        ),
    ),
    Migration(
        # The rows of one window lie on few pages, and an intent is three numbers.
        "records in the order of the plan",
        (
            "ALTER TABLE campaign ADD COLUMN running INTEGER NOT NULL DEFAULT 0",
            # The columns that identify a row, as JSON; NULL where that was not noted.
            "ALTER TABLE campaign ADD COLUMN keys TEXT",
            f"""CREATE TABLE record (
                id INTEGER PRIMARY KEY AUTOINCREMENT, campaign INTEGER NOT NULL REFERENCES campaign (id),
                hash INTEGER NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL,
                version INTEGER NOT NULL, digest BLOB NOT NULL, accepted TEXT NOT NULL,
                position INTEGER, {_SECOND_DEFINITIONS}, sum INTEGER NOT NULL)""",
            "CREATE INDEX record_by_key ON record (campaign, hash)",
            # The windows of rows that a run may have sent when the power fails.
            """CREATE TABLE claim (
                id INTEGER PRIMARY KEY, campaign INTEGER NOT NULL REFERENCES campaign (id), run INTEGER NOT NULL,
                boot TEXT NOT NULL, pid INTEGER NOT NULL, rows TEXT NOT NULL, sum INTEGER NOT NULL)""",
            # That the dot of a record, as it was written so many times, was about to leave.
            """CREATE TABLE intent (
                id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, run INTEGER NOT NULL, sum INTEGER NOT NULL)""",
            """CREATE VIEW standing AS SELECT record.*,
                CASE WHEN intent.seq = record.seq THEN 'in_doubt' ELSE record.state END AS stands
                FROM record LEFT JOIN intent ON intent.id = record.id""",
        ),
        _to_plan_order,
    ),
    Migration(
        "watches",
        (
            # How far a watch has read its source; the name is its campaign's.
            """CREATE TABLE watch (
                name TEXT PRIMARY KEY, cursor TEXT NOT NULL, since TEXT NOT NULL, created TEXT NOT NULL,
                sum INTEGER NOT NULL)""",
            # The rows that were there before it began.
            """CREATE TABLE watch_before (
                id INTEGER PRIMARY KEY, name TEXT NOT NULL, hash INTEGER NOT NULL, key TEXT NOT NULL,
                sum INTEGER NOT NULL)""",
            "CREATE INDEX watch_before_by_key ON watch_before (name, hash)",
            # The records that went and of which the source knows.
            "CREATE TABLE watch_told (record INTEGER PRIMARY KEY)",
        ),
    ),
    Migration(
        "variants and groups",
        (
            # Which of several texts a row got, and of which rows its mail was made; see record_sum.
            "ALTER TABLE record ADD COLUMN variant TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE record ADD COLUMN rows TEXT NOT NULL DEFAULT ''",
            "DROP VIEW standing",
            """CREATE VIEW standing AS SELECT record.*,
                CASE WHEN intent.seq = record.seq THEN 'in_doubt' ELSE record.state END AS stands
                FROM record LEFT JOIN intent ON intent.id = record.id""",
        ),
    ),
)


def _postgresql(definitions: str) -> str:
    """Return definitions of columns with PostgreSQL's names of the same types."""
    found = re.sub(r"\bINTEGER\b", "BIGINT", definitions)
    return re.sub(r"\bREAL\b", "DOUBLE PRECISION", found).replace("BLOB", "BYTEA")


#: The steps of a journal in PostgreSQL; the first has all that those of a file come to.
POSTGRESQL = (
    Migration(
        "campaigns, records and watches",
        (
            """CREATE TABLE campaign (
                id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name TEXT NOT NULL UNIQUE, scope TEXT NOT NULL,
                sender TEXT NOT NULL, fingerprint TEXT NOT NULL, version BIGINT NOT NULL, created TEXT NOT NULL,
                rows BIGINT NOT NULL DEFAULT 0, running BIGINT NOT NULL DEFAULT 0, keys TEXT)""",
            f"""CREATE TABLE record (
                id BIGINT PRIMARY KEY, campaign BIGINT NOT NULL REFERENCES campaign (id),
                hash BIGINT NOT NULL, key TEXT NOT NULL, seq BIGINT NOT NULL,
                version BIGINT NOT NULL, digest BYTEA NOT NULL, accepted TEXT NOT NULL,
                position BIGINT, {_postgresql(DEFINITIONS)}, sum BIGINT NOT NULL) WITH (fillfactor = 60)""",
            "CREATE INDEX record_by_key ON record (campaign, hash)",
            # The numbers of records: none is given twice, of a forgotten one either.
            "CREATE TABLE numbering (highest BIGINT NOT NULL)",
            "INSERT INTO numbering VALUES (0)",
            """CREATE TABLE claim (
                id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, campaign BIGINT NOT NULL REFERENCES campaign (id),
                run BIGINT NOT NULL, boot TEXT NOT NULL, pid BIGINT NOT NULL, rows TEXT NOT NULL, sum BIGINT NOT NULL)""",
            "CREATE INDEX claim_by_campaign ON claim (campaign)",
            "CREATE TABLE intent (id BIGINT PRIMARY KEY, seq BIGINT NOT NULL, run BIGINT NOT NULL, sum BIGINT NOT NULL)",
            """CREATE VIEW standing AS SELECT record.*,
                CASE WHEN intent.seq = record.seq THEN 'in_doubt' ELSE record.state END AS stands
                FROM record LEFT JOIN intent ON intent.id = record.id""",
            # Which run has a campaign, and for the message who that is; the lock itself is the session's.
            """CREATE TABLE holder (
                lock BIGINT PRIMARY KEY, run BIGINT NOT NULL, campaign TEXT NOT NULL, host TEXT NOT NULL,
                pid BIGINT NOT NULL, since TEXT NOT NULL)""",
            # The last transaction of each client; see `postgres_store`.
            "CREATE TABLE pulse (client BIGINT PRIMARY KEY, step BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)",
            """CREATE TABLE watch (
                name TEXT PRIMARY KEY, cursor TEXT NOT NULL, since TEXT NOT NULL, created TEXT NOT NULL,
                sum BIGINT NOT NULL)""",
            """CREATE TABLE watch_before (
                id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name TEXT NOT NULL, hash BIGINT NOT NULL,
                key TEXT NOT NULL, sum BIGINT NOT NULL)""",
            "CREATE INDEX watch_before_by_key ON watch_before (name, hash)",
            "CREATE TABLE watch_told (record BIGINT PRIMARY KEY)",
        ),
    ),
    Migration(
        "workers of one run",
        (
            # Whether those who send for a run are to end; asked between two windows.
            "ALTER TABLE holder ADD COLUMN stopping BIGINT NOT NULL DEFAULT 0",
            # Which worker has a batch of a run's rows; whoever takes one over writes its own token.
            """CREATE TABLE lease (
                run BIGINT NOT NULL, batch BIGINT NOT NULL, token BIGINT NOT NULL, PRIMARY KEY (run, batch))""",
            # How fast a server is sent to by all who share this journal; see `pace`.
            "CREATE TABLE pace (name TEXT PRIMARY KEY, state TEXT NOT NULL)",
        ),
    ),
)
