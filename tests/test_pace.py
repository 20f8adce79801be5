"""One rate that several processes keep, over their journal's database."""

from __future__ import annotations

import json
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from journals import KINDS, fresh
from test_rate import keeps_the_pace, most_in_a_window

from smtp_notebook import JournalError, Sandbox, mail_merge, orders
from smtp_notebook.merge import CLOCK
from smtp_notebook.pace import Grant, Granted, Pace
from smtp_notebook.places import given
from smtp_notebook.rate import Token, parse_rates
from smtp_notebook.sqlite_store import SQLiteStore

NAME = "real:mail.example.com:587 me@example.com"
#: Far enough ahead that nothing has to be waited for.
FAR = 100_000.0


@pytest.fixture(params=KINDS)
def opened(request, tmp_path):
    """Opens the same journal again and again, each time as another client."""
    stores = []
    if request.param == "sqlite":
        place = tmp_path / "journal.db"
    else:
        place = given(fresh(request.getfixturevalue("postgres")))

    def another():
        if isinstance(place, Path):
            stores.append(SQLiteStore(place))
        else:
            from smtp_notebook.postgres_store import PostgresStore

            stores.append(PostgresStore(place))
        return stores[-1]

    yield another
    for store in stores:
        store.close()


@pytest.fixture
def pace(opened):
    """Makes a Pace of a client of its own; the first one opens it."""
    first = []

    def make(rate, past=()):
        found = Pace(opened(), NAME, parse_rates(rate))
        if not first or past:
            found.open(past)
        first.append(found)
        return found

    return make


def moments(grants):
    return [grant.token.moment for grant in grants]


def written(store):
    return json.loads(store.all("SELECT state FROM pace WHERE name=?", NAME)[0][0])


def written_text(far):
    return far._store.all("SELECT state FROM pace WHERE name=?", NAME)[0][0]


# ---------------------------------------------------------------------------------------------- pace


def test_several_clients_together_keep_every_rate(pace):
    rates = "600/min, 25 recipients/10 s, 90/5 min"
    clients = [pace(rates) for _ in range(4)]

    def reserve(number):
        chance, kept = random.Random(number), []
        for _ in range(12):
            found = clients[number].reserve([chance.randint(1, 3) for _ in range(chance.randint(1, 9))], FAR)
            back = [grant for grant in found if chance.random() < 0.2]
            clients[number].give_back(back)
            clients[number].give_back(back)
            kept += [grant.token for grant in found if grant not in back]
        return kept

    with ThreadPoolExecutor(4) as threads:
        mails = sorted((t.moment, t.recipients) for each in threads.map(reserve, range(4)) for t in each)
    assert len(mails) > 100
    for rate in parse_rates(rates):
        assert most_in_a_window(rate, mails) <= rate.count
        assert keeps_the_pace(rate, mails) or not rate.paced
        # And it is hardly slower: its windows are longer by what a mail may be late.
        late = [(t + (0.05 if n % 2 else 0.0), r) for n, (t, r) in enumerate(mails)]
        assert most_in_a_window(rate, sorted(late)) <= rate.count
    # The slowest of the three is kept busy, but for what was given back behind others.
    first = mails[0][0]
    inside = sum(1 for t, _ in mails if t < first + 300)
    assert inside >= 60


def test_a_rate_that_is_shared_is_slower_than_it_says_by_little(pace):
    one, other = pace("30/min"), pace("30/min")
    found = sorted(moments([g for _ in range(10) for p in (one, other) for g in p.reserve([1] * 3, FAR)]))
    assert len(found) == 60
    assert found[-1] - found[0] == pytest.approx(59 * 2, rel=0.002)
    assert found[-1] - found[0] >= 59 * 2


def test_a_client_that_dies_makes_the_others_slower_and_never_faster(pace):
    dead, alive = pace("1/s"), pace("1/s")
    lost = moments(dead.reserve([1] * 5, FAR))
    assert alive.reserve([1], FAR)[0].token.moment >= lost[-1] + 1


def test_what_is_given_back_from_the_end_is_the_next_ones(pace):
    one, other = pace("1/s, 5/hour"), pace("1/s, 5/hour")
    found = one.reserve([1] * 5, FAR)
    one.give_back(found[2:])
    assert moments(other.reserve([1], FAR)) == moments(found[2:3])


def test_at_least_one_mail_gets_its_moment_and_others_only_as_far_ahead_as_is_wanted(pace):
    found = pace("1/min")
    assert len(found.reserve([1, 1, 1], 5.0)) == 1
    (far,) = found.reserve([1, 1, 1], 5.0)
    assert 59 < far.seconds < 61
    assert found.reserve([], 5.0) == []


def test_a_grant_tells_its_moment_by_the_databases_clock(pace, opened):
    store = opened()
    before = store.write(store.clock, synced=False)
    (grant,) = pace("1/min").reserve([1], 5.0)
    after = store.write(store.clock, synced=False)
    assert grant.seconds < 0.05
    assert before < grant.token.moment - grant.seconds <= after
    assert 0 < grant.grace <= 0.05


class Far:
    """A store whose database is far away: its clock's answers, and its commits, take as long as is said."""

    def __init__(self, store, monkeypatch):
        self._store, self.inline = store, store.inline
        self.alone, self.damaged = store.alone, store.damaged
        self.there, self.back, self.commit = 0.0, 0.0, 0.0
        self.passed = 0.0
        monkeypatch.setattr("smtp_notebook.pace.time.monotonic", self.here)

    def here(self):
        return 1000.0 + self.passed

    def clock(self, _):
        self.passed += self.there
        found = TRUE + self.passed
        self.passed += self.back
        return found

    def write(self, change, *, synced):
        result = self._store.write(change, synced=synced)
        self.passed += self.commit
        return result


#: By how much the far clock is ahead of the one here, but for 1000 s.
TRUE = 1.8e9


@pytest.fixture
def far(opened, monkeypatch):
    return Far(opened(), monkeypatch)


@pytest.mark.parametrize(("there", "back"), [(0, 0), (0.01, 0.01), (0, 0.1), (0.1, 0), (0.3, 0.2)])
def test_no_mail_leaves_later_than_its_windows_are_longer_however_far_the_database_is(far, there, back):
    far.there, far.back, far.commit = there, back, 0.1
    found = Pace(far, NAME, parse_rates("10/s, 100/hour"))
    found.open()
    for each in found.reserve([1] * 5, FAR):
        early = TRUE + (each.told + each.seconds - 1000.0) - each.token.moment
        late = json.loads(written_text(far))["late"]
        assert early >= -1e-6
        assert early + each.grace <= late + 1e-6
        assert each.grace >= 0.01 - 1e-6


def test_a_quick_answer_of_the_clock_tells_for_the_slow_ones_behind_it(far):
    found = Pace(far, NAME, parse_rates("10/s"))
    far.there = far.back = 0.001
    found.open()
    far.back = 3.0
    (one,) = found.reserve([1], 1.0)
    assert one.grace > 0.01
    assert json.loads(written_text(far))["late"] == 0.02


def test_answers_that_take_long_leave_moments_that_can_still_be_used(far):
    found = Pace(far, NAME, parse_rates("2000/min"))
    far.commit = 2.0
    found.open()
    for _ in range(3):
        (one,) = found.reserve([1], 2.0)
        assert one.seconds + one.grace > 0.02
    far.commit = 0.0
    for _ in range(20):
        far.passed += 1
        (one,) = found.reserve([1], 2.0)
    assert one.seconds < 0.1


def test_many_mails_of_one_moment_may_leave_one_after_the_other(pace):
    assert all(grant.grace > 4 for grant in pace("2000/day").reserve([1] * 50, 2.0))


def test_a_merge_of_another_rate_has_nobody_forget_a_day(pace):
    one, other = pace("5/day"), pace("10/s")
    one.reserve([1] * 5, 5.0)
    other.open()
    other.reserve([1], 5.0)
    assert one.reserve([1], 5.0)[0].seconds > 80_000


def test_a_complaint_that_one_hears_slows_all_down(pace):
    one, other = pace("1/s"), pace("1/s")
    one.slow_down()
    first, second = moments(other.reserve([1, 1], FAR))
    assert second - first == pytest.approx(2, rel=0.02)


def test_two_that_open_at_one_moment_count_the_past_once(pace):
    clients = [pace("5/day") for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda client: client.open([(60.0, 3, 3)]), clients))
    assert len([g for client in clients for g in client.reserve([1] * 3, 5.0) if g.seconds < 5]) == 2


def test_opening_again_forgets_nothing(pace):
    one = pace("5/day")
    one.reserve([1] * 4, 5.0)
    again = pace("5/day", [(3600.0, 1, 1)])
    assert again.reserve([1], 5.0)[0].seconds > 80_000


def test_a_state_of_other_rates_is_replaced_and_what_went_counts_on(pace, opened):
    one = pace("5/day")
    one.reserve([1] * 4, 5.0)
    other = pace("3/hour, 60/min", [(7200.0, 1, 1)])
    assert written(opened())["rates"] == ["3/hour", "60/min"]
    assert other.reserve([1], 5.0)[0].seconds > 3500


def test_a_state_that_was_tampered_with_is_damage_and_nothing_is_granted(pace, opened):
    found = pace("5/day")
    store = opened()
    store.write(lambda db: db.execute("UPDATE pace SET state='{}'"), synced=True)
    with pytest.raises(JournalError, match=r"damaged: the rate of real:mail\.example\.com"):
        found.reserve([1], 5.0)


def test_a_rate_of_days_is_written_down_in_little(pace, opened):
    found = pace("30/min, 500/hour, 2000/day")
    found.reserve([1] * 2500, FAR)
    assert len(json.dumps(written(opened()), separators=(",", ":"))) < 40_000


# ------------------------------------------------------------------------------------------- granted


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def granted(clock):
    return Granted(clock)


NUMBERS = iter(range(1, sys.maxsize))


def grant(seconds, recipients=1, **more):
    return Grant(seconds, Token(seconds, recipients, number=next(NUMBERS)), **more)


def asked(granted, ahead=2.0, grants=()):
    """Return what is needed of the database, and answer it."""
    with granted.asking(ahead) as found:
        if found is not None:
            found.grants = list(grants)
    return found


def test_a_mail_waits_for_the_moment_that_was_granted(granted, clock):
    granted.add([grant(2.0), grant(1.0)])
    assert granted.lasts(100.0) == pytest.approx(2, abs=0.01)
    assert granted.due(100.0) == pytest.approx(1, abs=0.01)
    with pytest.raises(ValueError, match="before its time"):
        granted.take(100.0)
    clock.now = 101.0
    assert granted.due(101.0) == 0.0
    granted.take(101.0)
    assert granted.due(101.0) == pytest.approx(1, abs=0.01)


def test_a_mail_that_nothing_is_granted_for_asks_again_in_a_moment(granted):
    assert 0 < granted.due(100.0) <= 0.05
    assert granted.lasts(100.0) == 0.0


def test_what_is_wanted_is_asked_for_in_order_and_once(granted):
    granted.want([1, 2, 3])
    found = asked(granted, grants=[grant(1.0), grant(1.5)])
    assert (found.recipients, found.slower) == ([1, 2, 3], False)
    assert asked(granted, ahead=2.0) is None  # it lasts for half of that
    assert asked(granted, ahead=4.0).recipients == [3]


def test_what_could_not_be_asked_for_is_asked_for_again(granted):
    granted.want([1, 2])
    granted.slow_down(100.0)
    with pytest.raises(JournalError), granted.asking(2.0):
        raise JournalError("away", "wait")
    assert granted.complained
    found = asked(granted)
    assert (found.recipients, found.slower) == ([1, 2], True)


def test_a_moment_that_passed_is_given_back_and_one_asked_for_where_a_mail_still_waits(granted, clock):
    late = grant(0.5, grace=0.05)
    granted.add([late])
    clock.now = 100.54
    assert granted.due(100.54) == 0.0
    clock.now = 101.0
    assert asked(granted) is None  # nobody asked for it
    assert granted.due(101.0) > 0
    found = asked(granted)
    assert (found.recipients, found.unused) == ([1], [late])


def test_a_mail_that_nobody_claimed_for_gets_its_moment_too(granted):
    granted.due(100.0, 3)
    granted.due(100.0, 3)
    granted.due(100.0, 2)
    assert asked(granted).recipients == [3]


def test_a_grant_for_fewer_recipients_is_left_to_another_mail(granted):
    granted.add([grant(0.0, 2, room=2), grant(1.0, 5, room=5)])
    assert granted.due(100.01, 4) == pytest.approx(1, abs=0.02)
    assert granted.due(100.01, 1) == 0.0
    assert granted.take(101.0, 4).recipients == 5
    granted.due(101.0, 9)
    assert asked(granted, ahead=0.0).recipients[0] == 9


def test_a_token_that_comes_back_is_another_mails_as_long_as_it_is_not_late(granted, clock):
    granted.add([grant(0.0), grant(0.0)])
    first, second = granted.take(100.01), granted.take(100.01)
    granted.give_back(first)
    granted.give_back(first)
    assert granted.due(100.01) == 0.0
    third = granted.take(100.01)
    granted.give_back(first)
    assert granted.due(100.01) > 0
    clock.now = 200.0
    granted.give_back(second)
    granted.give_back(third)
    assert {g.token.number for g in granted.unused()} == {second.number, third.number}
    assert granted.unused() == []


def test_a_complaint_gives_up_what_was_granted_at_the_old_speed(granted):
    granted.add([grant(1.0), grant(2.0)])
    granted.slow_down(100.0)
    granted.slow_down(100.1)
    assert granted.complained
    found = asked(granted, grants=[grant(4.0)])
    assert (len(found.unused), found.recipients, found.slower) == (2, [1, 1], True)
    granted.slow_down(101.0)
    assert not granted.complained
    assert granted.due(100.0) == pytest.approx(4, abs=0.01)


def test_what_a_run_does_not_use_goes_back_to_all(pace, granted):
    one, other = pace("3/day"), pace("3/day")
    granted.want([1, 1, 1])
    one.serve(granted, 2.0)
    granted.take(100.1)
    one.give_back(granted.unused())
    assert len([g for g in other.reserve([1] * 3, 2.0) if g.seconds < 2]) == 2


# ---------------------------------------------------------------------------------------------- a run


@pytest.mark.parametrize("connections", [1, 4])
def test_a_run_sends_every_row_in_order_at_the_moments_that_were_granted(pace, monkeypatch, connections):
    granted, found, done = Granted(CLOCK), pace("6000/min"), threading.Event()
    rows = [{"Email": f"u{i}@example.com"} for i in range(30)]
    taken = []

    def took(now, recipients=1, take=granted.take):
        token = take(now, recipients)
        taken.append(token.moment)
        return token

    monkeypatch.setattr(granted, "take", took)
    monkeypatch.setattr(orders, "limiter_of", lambda *_: granted)

    def serve():
        while not done.wait(0.01):
            found.serve(granted, 2.0)

    with ThreadPoolExecutor(1) as thread, Sandbox() as sandbox:
        served = thread.submit(serve)
        granted.want([1] * 25)  # the last five are asked for when they are short of it
        try:
            via = sandbox.connection.with_(max_connections=connections)
            report = mail_merge(rows, "---\nsubject: Hello\n---\nHi", via=via, progress=False)
        finally:
            done.set()
        served.result()
        assert len(report.sent) == 30
        people = [message.recipients[0] for message in sandbox.messages]
    wanted = [row["Email"] for row in rows]
    assert people == wanted if connections == 1 else sorted(people) == sorted(wanted)
    assert taken == sorted(taken)
    (rate,) = parse_rates("6000/min")
    assert keeps_the_pace(rate, [(moment, 1) for moment in taken])
