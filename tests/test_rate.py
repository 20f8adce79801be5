"""Rates: what a person may write, and a limiter that no pattern of requests gets past."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_notebook import SettingsError
from smtp_notebook.rate import Limiter, Rate, least_seconds, parse_rates

NEAR = 1e-5  # the tolerance of a comparison; the limiter lets a timer be a millionth of a second early
WINDOWS = [1, 5, 10, 60, 61, 300, 3600, 86400]
RATES = st.builds(
    Rate, st.integers(1, 40), st.sampled_from(WINDOWS), st.sampled_from(["mails", "recipients"])
)
#: How long each request comes after the one before was served, and for how many recipients.
REQUESTS = st.lists(
    st.tuples(st.sampled_from([0, 0, 0, 0.05, 0.9, 1.0, 7.3, 59.99, 250.0]), st.integers(1, 12)),
    min_size=20,
    max_size=60,
)


def served(limiter, requests, now=0.0):
    """Serve *requests* in order under a clock of our own and return (moment, recipients) of each."""
    found = []
    for gap, recipients in requests:
        now += gap
        while wait := limiter.due(now, recipients):
            now += wait
        found.append((now, recipients))
        limiter.take(now, recipients)
    return found


def amount(rate, recipients):
    return 1 if rate.unit == "mails" else recipients


def most_in_a_window(rate, mails):
    """Return the largest count in any window, where a single mail beyond the limit is its own excuse."""
    worst = 0
    for i, (begin, _) in enumerate(mails):
        inside = [amount(rate, r) for t, r in mails[i:] if t < begin + rate.seconds - NEAR]
        worst = max(worst, sum(inside) if len(inside) > 1 else min(inside[0], rate.count))
    return worst


# ------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("30/min", [Rate(30, 60)]),
        ("10/s", [Rate(10, 1)]),
        ("2000/day", [Rate(2000, 86400)]),
        ("50/5 min", [Rate(50, 300)]),
        ("50/5min", [Rate(50, 300)]),
        (" 30 per  Minute ", [Rate(30, 60)]),
        ("30 mails/min", [Rate(30, 60)]),
        ("100 recipients/min", [Rate(100, 60, "recipients")]),
        ("30/min, 2000/day", [Rate(30, 60), Rate(2000, 86400)]),
        (("30/min", "2000/day, 5/h"), [Rate(30, 60), Rate(2000, 86400), Rate(5, 3600)]),
        (["30/min", Rate(30, 60)], [Rate(30, 60)]),
        ("", []),
        ((), []),
    ],
)
def test_a_rate_is_written_as_people_say_it(text, rates):
    assert list(parse_rates(text)) == rates


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("30", "'30'"),
        (30, "rate=30"),
        (None, "rate=None"),
        ("30/fortnight", "'fortnight'"),
        ("30/m", "'m'"),
        ("30 pages/min", "mails nor recipients"),
        ("0/min", "out of range"),
        ("5/0 min", "out of range"),
        ("5/9 weeks", "out of range"),
        ("-5/min", "'-5/min'"),
        ("1.5/s", "'1.5/s'"),
        ("30/min,", "''"),
        ("2,000/day", "'2'"),
        (("30/min", 5), "5"),
        ("٣/min", "is no rate"),
        ("9" * 5000 + "/min", "…"),
    ],
)
def test_what_is_no_rate_is_refused_with_a_cause_and_a_way_out(text, word):
    with pytest.raises(SettingsError, match=word) as caught:
        parse_rates(text)
    assert caught.value.fix
    assert len(str(caught.value)) < 250


@given(st.builds(Rate, st.integers(1, 10**9), st.integers(1, 31 * 86400), st.sampled_from(["mails", "recipients"])))  # fmt: skip
def test_a_rate_reads_back_what_it_writes(rate):
    assert parse_rates(str(rate)) == (rate,)


def test_a_rate_made_by_hand_is_checked_too():
    with pytest.raises(SettingsError, match="'pages'"):
        Rate(1, 1, "pages")


# ------------------------------------------------------------------------------------------- limiting


def test_without_rates_nothing_waits():
    limiter = Limiter(())
    assert [t for t, _ in served(limiter, [(0, 5)] * 100)] == [0.0] * 100
    assert "without limits" in repr(limiter)


@pytest.mark.parametrize(("text", "seconds"), [("30/min", 2), ("10/s", 0.1), ("1/min", 60), ("10/5 s", 0.5)])
def test_a_short_window_is_paced_evenly(text, seconds):
    moments = [t for t, _ in served(Limiter(parse_rates(text)), [(0, 1)] * 50)]
    assert moments == pytest.approx([i * seconds for i in range(50)])


def test_a_pause_earns_no_burst():
    moments = [t for t, _ in served(Limiter(parse_rates("30/min")), [(0, 1), (3600, 1), (0, 1), (0, 1)])]
    assert moments == pytest.approx([0, 3600, 3602, 3604])


def test_a_long_window_is_a_cap_that_slides():
    moments = [t for t, _ in served(Limiter(parse_rates("5/hour")), [(0, 1), (600, 1), *[(0, 1)] * 6])]
    assert moments[:5] == [0, 600, 600, 600, 600]
    assert moments[5] == pytest.approx(3600, abs=4)  # a bucket is 3.5 s wide, and errs on the safe side
    assert moments[6:] == pytest.approx([4200, 4200], abs=4)


@given(st.lists(RATES, min_size=1, max_size=3), REQUESTS)
def test_no_window_holds_more_than_allowed(rates, requests):
    mails = served(Limiter(rates), requests)
    for rate in rates:
        assert most_in_a_window(rate, mails) <= rate.count


def keeps_the_pace(rate, mails):
    gaps = [(after - before, r) for (before, r), (after, _) in itertools.pairwise(mails)]
    return all(gap >= amount(rate, r) * rate.seconds / rate.count - NEAR for gap, r in gaps)


@given(RATES.filter(lambda r: r.paced), REQUESTS)
def test_no_two_mails_come_closer_than_the_pace(rate, requests):
    assert keeps_the_pace(rate, served(Limiter([rate]), requests))


@given(RATES, REQUESTS)
def test_nobody_waits_longer_than_a_window_and_a_bucket(rate, requests):
    limiter, now = Limiter([rate]), 0.0
    for gap, recipients in requests:
        now += gap
        begun = now
        while wait := limiter.due(now, recipients):
            now += wait
        longest = max(1.0, 12 / rate.count) * rate.seconds * (1 + 1 / 1024)
        assert now - begun <= longest + NEAR
        limiter.take(now, recipients)


@given(RATES, REQUESTS)
def test_the_wait_that_is_told_is_long_enough_and_taking_early_is_an_error(rate, requests):
    limiter, now = Limiter([rate]), 0.0
    for gap, recipients in requests:
        now += gap
        if wait := limiter.due(now, recipients):
            with pytest.raises(ValueError, match="before its time"):
                limiter.take(now, recipients)
            now += wait
        assert limiter.due(now, recipients) == 0.0
        limiter.take(now, recipients)


def test_a_hundred_thousand_a_day_take_little_memory():
    limiter = Limiter(parse_rates("100000/day"))
    mails = served(limiter, [(0.5, 1)] * 100_000 + [(0, 1)] * 3)
    assert len(limiter._caps[0]._buckets) <= 1025
    assert mails[-3][0] == pytest.approx(86400, abs=86400 / 1024 + 1)


def test_a_mail_larger_than_the_window_goes_alone():
    mails = served(Limiter(parse_rates("10 recipients/hour")), [(0, 1), (0, 25), (0, 1)])
    assert [t for t, _ in mails] == pytest.approx([0, 3600, 7200])


def test_several_connections_are_served_in_the_order_in_which_they_asked():
    async def run():
        limiter, turn, clock, order = Limiter(parse_rates("10/s")), asyncio.Lock(), [0.0], []

        async def send(number):
            async with turn:
                while wait := limiter.due(clock[0]):
                    clock[0] += wait
                    await asyncio.sleep(0)
                limiter.take(clock[0])
                order.append((number, clock[0]))

        await asyncio.gather(*map(send, range(20)))
        return order

    order = asyncio.run(run())
    assert [n for n, _ in order] == list(range(20))
    assert [t for _, t in order] == pytest.approx([i / 10 for i in range(20)])


# --------------------------------------------------------------------------------------- giving back


@given(st.lists(RATES, min_size=1, max_size=3), REQUESTS, st.integers(1, 12))
def test_a_token_given_back_at_once_leaves_no_trace(rates, requests, recipients):
    limiter = Limiter(rates)
    mails = served(limiter, requests)
    now = mails[-1][0] if mails else 0.0
    while wait := limiter.due(now, recipients):
        now += wait
    token = limiter.take(now, recipients)
    limiter.give_back(token)
    limiter.give_back(token)
    assert limiter.due(now, recipients) == 0.0
    assert most_in_a_window(rates[0], [*mails, *served(limiter, [(0, 3)] * 20, now)]) <= rates[0].count


@given(st.lists(RATES, min_size=1, max_size=2), REQUESTS, st.sets(st.integers(0, 59)))
def test_whatever_is_given_back_no_window_holds_more_than_allowed(rates, requests, unused):
    limiter, kept, now, held = Limiter(rates), [], 0.0, []
    for number, (gap, recipients) in enumerate(requests):
        now += gap
        while wait := limiter.due(now, recipients):
            now += wait
        token = limiter.take(now, recipients)
        if number in unused:
            held.append(token)
        else:
            kept.append((now, recipients))
        if held and number % 3 == 0:  # some at once, some after others were taken
            limiter.give_back(held.pop(0))
    for rate in rates:
        assert most_in_a_window(rate, kept) <= rate.count
        assert keeps_the_pace(rate, kept) or not rate.paced


def test_a_cap_counts_no_token_that_came_back():
    limiter = Limiter(parse_rates("3/day"))
    tokens = [limiter.take(float(i)) for i in range(3)]
    assert limiter.due(3.0) > 80_000
    limiter.give_back(tokens[1])
    assert limiter.due(3.0) == 0.0
    limiter.take(3.0)
    limiter.give_back(tokens[1])
    assert limiter.due(4.0) > 80_000


# ------------------------------------------------------------------- reserved ahead, and written down

SIZES = st.lists(st.integers(1, 12), max_size=12)
#: What somebody does: how long after the one before, for which mails, how far ahead, and what is given back of them.
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0.05, 0.9, 7.3, 59.99, 250.0, 4000.0]),
        SIZES,
        st.sampled_from([0.0, 2.0, 30.0, 5000.0]),
        st.sets(st.integers(0, 11), max_size=4),
        st.sampled_from(["", "", "slow", "take"]),
    ),
    min_size=5,
    max_size=25,
)
#: A clock as a database has it.
TODAY = 1_796_000_000.25


def steps(limiter, doings, between=lambda limiter: limiter):
    """Do all that is asked of a limiter; return the moments of what was not given back, and all that it said."""
    now, kept, said, late = TODAY, [], [], []
    for gap, sizes, ahead, unused, more in doings:
        now += gap
        limiter = between(limiter)
        if more == "slow":
            limiter.slow_down(now)
        if more == "take" and not limiter.due(now, 2):
            kept.append(limiter.take(now, 2))
        limiter = between(limiter)
        tokens = limiter.reserve(now, sizes, now + ahead)
        assert bool(tokens) is bool(sizes)
        assert all(now - NEAR <= t.moment for t in tokens)
        assert all(t.moment <= now + ahead + NEAR for t in tokens[1:])
        assert [t.recipients for t in tokens] == sizes[: len(tokens)]
        said += [(t.moment, t.recipients) for t in tokens]
        for token in late:  # after others were taken
            limiter.give_back(token)
        limiter = between(limiter)
        back = [t for n, t in enumerate(tokens) if n in unused]
        late = back[::2]
        for token in reversed(back[1::2]):
            limiter.give_back(token)
            limiter.give_back(token)
        kept += [t for n, t in enumerate(tokens) if n not in unused]
        said.append(limiter.due(now, 3))
    return sorted((t.moment, t.recipients) for t in kept), said


@given(st.lists(RATES, min_size=1, max_size=3), STEPS)
def test_whatever_is_reserved_ahead_no_window_holds_more_than_allowed(rates, doings):
    mails, _ = steps(Limiter(rates), doings)
    for rate in rates:
        assert most_in_a_window(rate, mails) <= rate.count
        assert keeps_the_pace(rate, mails) or not rate.paced


@given(st.lists(RATES, max_size=3), STEPS, st.sampled_from([0.0, 0.02, 0.05]))
def test_a_limiter_that_is_written_down_between_any_two_steps_decides_as_one_that_is_not(rates, doings, late):
    rates = tuple(dict.fromkeys(rates))
    one, other = (
        steps(Limiter(rates, TODAY, [(50.0, 3, 4), (0.5, 2, 2)], late=late), doings, between)
        for between in (lambda limiter: limiter, lambda limiter: Limiter.restored(rates, limiter.state()))
    )
    assert one == other


@given(st.lists(RATES, min_size=1, max_size=3), STEPS)
def test_mails_that_are_late_by_what_was_allowed_crowd_no_window(rates, doings):
    late = 0.02
    mails, _ = steps(Limiter(rates, late=late), doings)
    for shift in (0, 1):
        shifted = sorted((t + late * ((n + shift) % 2), r) for n, (t, r) in enumerate(mails))
        for rate in rates:
            assert most_in_a_window(rate, shifted) <= rate.count


@pytest.mark.parametrize("rate", ["30/min", "5/hour", "20 recipients/min"])
def test_what_is_reserved_comes_as_early_as_what_is_waited_for(rate):
    sizes = [1, 3, 2, 1, 1, 7, 1, 1]
    waited = served(Limiter(parse_rates(rate)), [(0, size) for size in sizes])
    tokens = Limiter(parse_rates(rate)).reserve(0.0, sizes, 10_000.0)
    assert [t.moment for t in tokens] == pytest.approx([moment for moment, _ in waited])


def test_the_last_places_of_a_pace_are_free_again_when_they_are_given_back_from_the_end():
    limiter = Limiter(parse_rates("30/min"))
    tokens = limiter.reserve(0.0, [1] * 5, 60.0)
    for token in reversed(tokens[2:]):
        limiter = Limiter.restored(limiter.rates, limiter.state())
        limiter.give_back(dataclasses.replace(token))
    assert limiter.reserve(0.0, [1], 60.0)[0].moment == tokens[2].moment


def test_the_past_adds_to_what_is_known_only_what_is_not():
    limiter = Limiter(parse_rates("10/hour"), TODAY)
    limiter.reserve(TODAY, [1] * 4, TODAY)
    limiter.learn(TODAY + 60, [(59.0, 4, 4)])
    assert len(limiter.reserve(TODAY + 60, [1] * 9, TODAY + 60)) == 6
    other = Limiter(parse_rates("10/hour"), TODAY)
    other.reserve(TODAY, [1] * 4, TODAY)
    other.learn(TODAY + 60, [(59.0, 6, 6), (1800.0, 1, 1)])
    assert len(other.reserve(TODAY + 60, [1] * 9, TODAY + 60)) == 3


def test_what_is_known_of_later_mails_hides_no_earlier_ones():
    limiter = Limiter(parse_rates("10/hour"), TODAY)
    limiter.reserve(TODAY, [1] * 4, TODAY)
    limiter.learn(TODAY, [(1800.0, 3, 3), (1860.0, 2, 2)])
    assert len(limiter.reserve(TODAY, [1] * 9, TODAY)) == 1


def test_mails_that_began_a_little_after_their_moment_are_not_counted_twice():
    limiter = Limiter(parse_rates("200/hour"), TODAY - 600)
    for second in range(-600, 0, 6):
        limiter.take(TODAY + second)
    minutes = [(second + 5.0, 10, 10) for second in range(0, 600, 60)]  # each mail began a second later
    limiter.learn(TODAY, [(max(0.0, age - 1.0), mails, people) for age, mails, people in minutes])
    assert 98 <= len(limiter.reserve(TODAY, [1] * 300, TODAY)) <= 100


def test_two_who_have_different_rates_forget_nothing_in_turn():
    day, fast = parse_rates("5/day"), parse_rates("10/s, 8 recipients/hour")
    limiter = Limiter(day, TODAY)
    limiter.reserve(TODAY, [1] * 3, TODAY)
    for now in (TODAY + 1, TODAY + 2):
        limiter = Limiter.restored(fast, limiter.state())
        assert len(limiter.reserve(now, [1], now)) == 1
        limiter = Limiter.restored(day, limiter.state())
    assert limiter.due(TODAY + 3) > 80_000
    # And what nobody counts any more is not carried along.
    later = Limiter.restored(fast, limiter.state())
    later.due(TODAY + 2 * 86400)
    assert json.loads(later.state())["kept"] == []


def test_a_rate_whose_mails_may_be_later_from_now_on_remembers_all():
    rates = parse_rates("30/min, 5/hour")
    limiter = Limiter(rates, TODAY, late=0.05)
    limiter.reserve(TODAY, [1] * 5, TODAY + 60)
    longer = Limiter.restored(rates, limiter.state(), late=0.5)
    assert (longer.late, Limiter.restored(rates, longer.state(), late=0.05).late) == (0.5, 0.5)
    assert longer.due(TODAY + 9) >= limiter.due(TODAY + 9) > 3500


def test_another_rate_begins_with_what_the_one_before_knew():
    limiter = Limiter(parse_rates("30/min, 100/day"), TODAY)
    limiter.reserve(TODAY, [1] * 20, TODAY + 60)
    limiter.slow_down(TODAY + 40)
    other = Limiter.restored(parse_rates("25/hour, 60/min"), limiter.state())
    moments = [t.moment - TODAY for t in other.reserve(TODAY + 40, [1] * 6, TODAY + 4000)]
    assert moments[0] == pytest.approx(38 + 2, abs=0.1)  # behind the last mail, at half of the pace
    assert moments[4] < 60
    assert moments[5] == pytest.approx(3600, abs=90)


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"rates":["30/min"],"late":0,"paces":[]}', "0"])
def test_what_is_no_state_is_said_to_be_none(state):
    with pytest.raises(ValueError, match="no state"):
        Limiter.restored(parse_rates("30/min"), state)


# ---------------------------------------------------------------------------------------- the past


def test_a_restart_does_not_refill_the_day():
    limiter = Limiter(
        parse_rates("30/min, 100/day"), 5000.0, [(3600.0, 60, 60), (80_000.0, 39, 39), (1.0, 1, 1)]
    )
    assert limiter.due(5000.0) == pytest.approx(6400, abs=90)  # when the 39 are a day old
    assert Limiter(parse_rates("30/min"), 5000.0, [(0.5, 1, 1)]).due(5000.0) == pytest.approx(1.5)
    assert Limiter(parse_rates("30/min"), 5000.0, [(-9.0, 1, 1)]).due(5000.0) == pytest.approx(2)
    assert Limiter(parse_rates("2/day"), 5000.0, [(90_000.0, 5, 5)]).due(5000.0) == 0.0


@given(st.lists(RATES, min_size=1, max_size=2), REQUESTS, REQUESTS)
def test_a_limiter_of_the_past_allows_what_the_old_one_would(rates, before, after):
    old = Limiter(rates)
    mails = served(old, before)
    now = mails[-1][0] if mails else 0.0
    fresh = Limiter(rates, now, [(now - t, 1, r) for t, r in mails])
    mails += served(fresh, after, now)
    for rate in rates:
        assert most_in_a_window(rate, mails) <= rate.count


# ------------------------------------------------------------------------------------- slowing down


def pace(limiter, now):
    """Return the seconds between two mails from *now* on."""
    first, second = (t for t, _ in served(limiter, [(0, 1), (0, 1)], now))
    return second - first


def test_a_slow_down_halves_the_pace_at_once_and_it_climbs_back():
    limiter = Limiter(parse_rates("60/min"))
    limiter.take(0.0)
    limiter.slow_down(0.0)
    assert limiter.due(0.0) == pytest.approx(2, rel=0.01)
    assert pace(limiter, 10.0) == pytest.approx(1.95, abs=0.05)
    assert pace(limiter, 150.0) == pytest.approx(1.33, abs=0.05)
    assert pace(limiter, 301.0) == pytest.approx(1)


def test_complaints_of_all_connections_at_once_are_one_and_later_ones_halve_again():
    limiter = Limiter(parse_rates("60/min"))
    for moment in (0.0, 0.1, 0.2, 9.0):
        limiter.slow_down(moment)
    assert pace(limiter, 10.0) == pytest.approx(1.95, abs=0.1)
    limiter.slow_down(20.0)
    assert pace(limiter, 20.0) > 3
    for moment in range(40, 4000, 11):
        limiter.slow_down(float(moment))
    assert 20 < pace(limiter, 4000.0) <= 64
    assert pace(limiter, 4700.0) == pytest.approx(1)


def test_a_slow_down_without_a_rate_halves_the_speed_that_was_seen():
    limiter = Limiter(parse_rates("5000/day"))
    served(limiter, [(0.1, 1)] * 50)
    limiter.slow_down(5.0)
    assert pace(limiter, 5.0) == pytest.approx(0.2, rel=0.05)
    assert pace(limiter, 310.0) == 0


@given(st.lists(RATES, min_size=1, max_size=2), REQUESTS, st.sets(st.integers(0, 59)))
def test_complaints_never_make_it_faster(rates, requests, complaints):
    limiter, mails, now = Limiter(rates), [], 0.0
    for number, (gap, recipients) in enumerate(requests):
        now += gap
        if number in complaints:
            limiter.slow_down(now)
        while wait := limiter.due(now, recipients):
            now += wait
        limiter.take(now, recipients)
        mails.append((now, recipients))
    for rate in rates:
        assert most_in_a_window(rate, mails) <= rate.count


@pytest.mark.parametrize(
    ("rate", "mails", "seconds"),
    [
        ("", 1000, 0),
        ("30/min", 1, 0),
        ("30/min", 31, 60),
        ("2000/day", 2000, 0),
        ("2000/day", 2001, 86400),
        ("2000/day", 4001, 2 * 86400),
        ("10/s, 50/5 min", 100, 300),
    ],
)
def test_the_least_time_of_a_merge_is_that_of_its_slowest_rate(rate, mails, seconds):
    assert least_seconds(parse_rates(rate), mails) == seconds
