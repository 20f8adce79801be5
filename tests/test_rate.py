"""Rates: what a person may write, and a limiter that no pattern of requests gets past."""

from __future__ import annotations

import asyncio
import itertools

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
