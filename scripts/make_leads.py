"""Write notebooks/data/leads.csv: 250 leads in the shape of a Salesforce export.

Seeded, so every run writes the same file. In it, on purpose:

- 250 rows with valid 18-character Ids and CreatedDate in Salesforce's own format;
- names with accents, apostrophes and CJK characters, companies with commas;
- 31 rows without a Phone, 14 without a Company, 5 without a FirstName;
- two rows that share an address, and one address that is none: ``ana.lopez@``.

Every person and company is invented; every address is at a domain reserved for examples (RFC 2606).
"""

from __future__ import annotations

import csv
import datetime as dt
import random
import sys
import unicodedata
from pathlib import Path

ROWS = 250
NO_PHONE, NO_COMPANY, NO_FIRST_NAME = 31, 14, 5
INVALID = "ana.lopez@"
TARGET = Path(__file__).resolve().parent.parent / "notebooks" / "data" / "leads.csv"
COLUMNS = [
    "Id",
    "Salutation",
    "FirstName",
    "LastName",
    "Name",
    "Title",
    "Company",
    "Street",
    "City",
    "State",
    "PostalCode",
    "Country",
    "Phone",
    "MobilePhone",
    "Email",
    "Website",
    "LeadSource",
    "Status",
    "Industry",
    "Rating",
    "AnnualRevenue",
    "NumberOfEmployees",
    "OwnerId",
    "IsConverted",
    "CreatedDate",
    "LastModifiedDate",
]
# Given name, family name, how the address spells both.
PEOPLE = """Zoë Müller|Ann O'Neil|José García|Léa Dubois|Søren Kjær|Åsa Lindström|Łukasz Wiśniewski|Jürgen Groß
Chloé Lefèvre|Siân O'Brien|Björk Jónsdóttir|Anaïs Fournier|Renée D'Souza|Miloš Dvořák|Ağa Yılmaz|Ilse Ångström
Nuno Gonçalves|Inês Araújo|Márton Szabó|Ștefan Ionescu|Žana Petrović|Fernão Brandão|Øystein Bø|Eirini Papadaki
Priya Raghunathan|Arjun Mehta|Adaeze Okonkwo|Kwame Mensah|Fatima al-Sayed|Yusuf Demir|Noura Haddad|Omar Khalil
Malia Kealoha|Mateo Hernández|Valentina Núñez|João Conceição|Thandiwe Nkosi|Sipho Dlamini|Tariq Aziz|Leila Farahani
Grace Whitfield|Henry Ashdown|Marta Kowalczyk|Oskar Nyberg|Elif Şahin|Piotr Zając|Nadia Benali|Giulia D'Angelo
Paolo Bianchi|Sofía Ibáñez|Tomás Ñáñez|Ewa Dąbrowska|Aoife Ní Bhriain|Seán Mac Giolla|Emre Öztürk|Hana Svobodová"""
# Written in their own script, with how the address spells them.
SCRIPTS = (
    ("美咲", "佐藤", "misaki.sato"),
    ("大輔", "鈴木", "daisuke.suzuki"),
    ("伟", "王", "wei.wang"),
    ("秀英", "李", "xiuying.li"),
    ("민준", "김", "minjun.kim"),
    ("서연", "박", "seoyeon.park"),
    ("Ольга", "Соколова", "olga.sokolova"),
    ("Γιώργος", "Παππάς", "giorgos.pappas"),
)
COMPANIES = """Fjord & Field|Larsen, Holt and Partners|Miller's Mill|Tech Valley, Inc.|Café Solstice|Nord-Süd Logistik GmbH
Smith, Jones & Co., Ltd.|Blue Harbour Foods|Ōtani Precision|Azahar Citrus, S.A.|Two Rivers Clinic|Brightwater Energy
L'Atelier du Bois|Copper Lane Studio|Hoshino Robotics|Green Acre Seeds|Quill & Ledger|Vega Travel, S.L.|Ostrava Steelworks
Meridian Freight|O'Hara Textiles|Saffron Kitchen|Polar Data AS|Kite & Anchor|Banyan Learning|Grönlund Möbler|Riverside Dental""".replace(
    "\n", "|"
).split("|")
PLACES = (
    ("12 Harbour Street", "Bristol", "", "BS1 4RN", "United Kingdom", "+44 117 555"),
    ("Kungsgatan 8", "Göteborg", "", "411 19", "Sweden", "+46 31 555"),
    ("Calle Mayor 41", "Zaragoza", "", "50001", "Spain", "+34 976 555"),
    ("Hauptstraße 5", "Köln", "", "50667", "Germany", "+49 221 555"),
    ("3-2-1 Sakura", "札幌市", "北海道", "060-0001", "Japan", "+81 11 555"),
    ("77 Elm Avenue", "Albany", "NY", "12207", "United States", "+1 518 555"),
    ("9 rue des Lilas", "Orléans", "", "45000", "France", "+33 2 38 55"),
    ("Rua das Flores 15", "Porto", "", "4050-262", "Portugal", "+351 22 555"),
    ("Ulica Długa 30", "Gdańsk", "", "80-831", "Poland", "+48 58 555"),
    ("210 Main Road", "Cape Town", "Western Cape", "7700", "South Africa", "+27 21 555"),
)
DOMAINS = (
    "example.com",
    "example.org",
    "mail.example.com",
    "office.example.org",
    "example.test",
    "team.example.test",
)
TITLES = ("Head of Operations", "Buyer", "Founder", "CTO", "Office Manager", "Analyst", "Marketing Lead", "")
INDUSTRIES = (
    "Agriculture",
    "Education",
    "Energy",
    "Finance",
    "Healthcare",
    "Hospitality",
    "Manufacturing",
    "Retail",
    "Technology",
    "Transportation",
)
SOURCES = ("Web", "Phone Inquiry", "Partner Referral", "Trade Show", "Purchased List", "Other")
STATUSES = ("Open - Not Contacted", "Working - Contacted")
RATINGS = ("Hot", "Warm", "Cold", "")
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CHECK = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"


def salesforce_id(prefix: str, number: int) -> str:
    """Return an 18-character Id: 15 characters, then 3 that say which of them are capitals."""
    digits = ""
    for _ in range(9):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    short = f"{prefix}5g0{digits}"
    chunks = (short[i : i + 5] for i in (0, 5, 10))
    return short + "".join(CHECK[sum(1 << i for i, c in enumerate(chunk) if c.isupper())] for chunk in chunks)


def plain(text: str) -> str:
    """Return a name as an address spells it: ASCII letters, digits and dots."""
    text = text.translate(
        str.maketrans({"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "ß": "ss", "æ": "ae", "ı": "i", "ð": "d"})
    )
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return ".".join("".join(c for c in word if c.isalnum()) for word in letters.lower().split())


def rows() -> list[dict[str, str]]:
    """Return the leads."""
    chance = random.Random(20261101)  # noqa: S311 - made-up people, nothing to guard
    people = [(*p.split(" ", 1), "") for p in PEOPLE.replace("\n", "|").split("|")]
    every = [*people, *SCRIPTS]
    firsts = [(f, plain(f)) for f, _, spelled in every if not spelled]
    lasts = [(last, plain(last)) for _, last, spelled in every if not spelled]
    found, taken = [], set()
    moment = dt.datetime(2026, 10, 5, 7, 12, 40, tzinfo=dt.UTC)
    for number in range(ROWS):
        if number < len(every):
            first, last, spelled = every[number]
            local = spelled or f"{plain(first)}.{plain(last)}"
        else:
            (first, first_plain), (last, last_plain) = chance.choice(firsts), chance.choice(lasts)
            local = f"{first_plain}.{last_plain}"
        moment += dt.timedelta(seconds=chance.randrange(600, 30_000))
        email = _free(local, chance.choice(DOMAINS), taken)
        found.append(_row(chance, number, first, last, email, moment))
    _spoil(chance, found)
    return found


def _free(local: str, domain: str, taken: set[str]) -> str:
    """Return an address that nobody has yet."""
    for suffix in ("", *map(str, range(2, 100))):
        email = f"{local}{suffix}@{domain}"
        if email not in taken:
            taken.add(email)
            return email
    raise AssertionError(local)


def _row(
    chance: random.Random, number: int, first: str, last: str, email: str, moment: dt.datetime
) -> dict[str, str]:
    street, city, state, code, country, dial = chance.choice(PLACES)
    stamp = "%Y-%m-%dT%H:%M:%S.000+0000"
    return {
        "Id": salesforce_id("00Q", 918_273_645 + number * 97),
        "Salutation": chance.choice(("Ms.", "Mr.", "Dr.", "Mx.")),
        "FirstName": first,
        "LastName": last,
        "Name": f"{first} {last}",
        "Title": chance.choice(TITLES),
        "Company": chance.choice(COMPANIES),
        "Street": street,
        "City": city,
        "State": state,
        "PostalCode": code,
        "Country": country,
        "Phone": f"{dial} {chance.randrange(1000, 9999)}",
        "MobilePhone": f"{dial} {chance.randrange(1000, 9999)}" if chance.random() < 0.4 else "",  # noqa: PLR2004 - two in five
        "Email": email,
        "Website": f"https://{email.partition('@')[2]}" if chance.random() < 0.5 else "",  # noqa: PLR2004 - one in two
        "LeadSource": chance.choice(SOURCES),
        "Status": chance.choice(STATUSES),
        "Industry": chance.choice(INDUSTRIES),
        "Rating": chance.choice(RATINGS),
        "AnnualRevenue": f"{chance.randrange(20, 9000) * 1000}.0",
        "NumberOfEmployees": str(chance.randrange(2, 900)),
        "OwnerId": salesforce_id("005", 77_120 + chance.randrange(4)),
        "IsConverted": "false",
        "CreatedDate": moment.strftime(stamp),
        "LastModifiedDate": (moment + dt.timedelta(minutes=chance.randrange(600))).strftime(stamp),
    }


def _spoil(chance: random.Random, leads: list[dict[str, str]]) -> None:
    """Put in what real exports have: empty cells, one shared address, one that is none."""
    for column, count in (("Phone", NO_PHONE), ("Company", NO_COMPANY)):
        for position in chance.sample(range(ROWS), count):
            leads[position][column] = ""
    for position in chance.sample(range(100, ROWS), NO_FIRST_NAME):
        leads[position] |= {"FirstName": "", "Name": leads[position]["LastName"]}
    invalid, first, second = 87, 12, 199
    leads[invalid] |= {"FirstName": "Ana", "LastName": "López", "Name": "Ana López", "Email": INVALID}
    leads[second]["Email"] = leads[first]["Email"]


def write(target: Path) -> None:
    """Write the leads as Salesforce does: UTF-8, every line ended by CRLF."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows())


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
