"""The one mailing that everybody sends: its rows, and its text in each peer's template language.

Standard library alone: it is imported in the project's environment and in the peers'. ``{name}`` stands
for a value, so that one source makes the str.format, the Jinja and the JavaScript version.
"""

from __future__ import annotations

import html
import re

SENDER = "news@example.com"
SUBJECT = "{first}, your {plan} plan renews on {renews}"

TEXT = """\
Dear {first},

your {plan} plan for {company} renews on {renews}. Nothing changes and nothing has to be done: the {seats}
seats of your team stay as they are, and the invoice of EUR {amount} comes with the usual mail.

What is new since last year:

- Reports can be shared with people outside your team, for reading only.
- The monthly export holds the notes as well, in the order in which they were written.
- Searching is faster, and finds words inside attachments.

If your team has grown or shrunk, change the number of seats before that day:

https://example.com/renew?account={account}

Kind regards
Nora Lind, Example Ltd
"""

MARKDOWN = """\
Dear **{first}**,

your *{plan}* plan for **{company}** renews on {renews}. Nothing changes and nothing has to be done: the
{seats} seats of your team stay as they are, and the invoice of EUR {amount} comes with the usual mail.

What is new since last year:

- **Reports** can be shared with people outside your team, for reading only.
- **The monthly export** holds the notes as well, in the order in which they were written.
- **Searching** is faster, and finds words inside attachments.

If your team has grown or shrunk, [change the number of seats](https://example.com/renew?account={account})
before that day.

Kind regards\\
Nora Lind, Example Ltd
"""

HTML = """\
<!DOCTYPE html>
<html lang="en">
<body style="margin: 0; font-family: Helvetica, Arial, sans-serif; color: #222">
<p>Dear <b>{first}</b>,</p>
<p>your <i>{plan}</i> plan for <b>{company}</b> renews on {renews}. Nothing changes and nothing has to be
done: the {seats} seats of your team stay as they are, and the invoice of EUR {amount} comes with the usual
mail.</p>
<p>What is new since last year:</p>
<ul>
<li><b>Reports</b> can be shared with people outside your team, for reading only.</li>
<li><b>The monthly export</b> holds the notes as well, in the order in which they were written.</li>
<li><b>Searching</b> is faster, and finds words inside attachments.</li>
</ul>
<p>If your team has grown or shrunk,
<a href="https://example.com/renew?account={account}" style="color: #0b57d0">change the number of seats</a>
before that day.</p>
<p>Kind regards<br>Nora Lind, Example Ltd</p>
</body>
</html>
"""

#: Every seventh name and every third company has letters that ASCII lacks, or an ampersand.
FIRST = ("Ann", "Ben", "Carla", "David", "Emma", "Frank", "Zoë", "Grace", "Henry", "Ida", "Jack", "Karen", "Liam", "Jürgen")  # fmt: skip
COMPANIES = ("Northwind Traders", "Contoso Ltd", "Möller & Söhne", "Fabrikam Inc", "Adatum", "Café Noisette")
PLANS = ("Starter", "Team", "Business")


def row(number: int) -> dict[str, str | int]:
    """Return the values of one mail; no two rows are equal."""
    return {
        "account": f"A{number:07d}",
        "email": f"person.{number}@example.com",
        "first": FIRST[number % len(FIRST)],
        "company": f"{COMPANIES[number % len(COMPANIES)]} {number % 977}",
        "plan": PLANS[number % len(PLANS)],
        "seats": number % 97 + 3,
        "amount": f"{number % 89 * 12 + 96}.00",
        "renews": f"{number % 28 + 1} March 2027",
    }


def rows(count: int, first: int = 0) -> list[dict[str, str | int]]:
    """Return *count* rows, counted from *first*."""
    return [row(n) for n in range(first, first + count)]


def jinja(source: str, *, escaped: bool = False) -> str:
    """Return *source* as a Jinja template; *escaped* for an environment that does not escape by itself."""
    return re.sub(r"{(\w+)}", r"{{ \1 | e }}" if escaped else r"{{ \1 }}", source)


def filled(values: dict[str, str | int]) -> tuple[str, str, str]:
    """Return subject, text and HTML of one row, in the fastest way that Python has."""
    safe = {k: html.escape(v) if isinstance(v, str) else v for k, v in values.items()}
    return SUBJECT.format_map(values), TEXT.format_map(values), HTML.format_map(safe)
