"""When to connect again, and what silence means: the pure parts."""

from __future__ import annotations

import math
import random

import hypothesis.strategies as st
from hypothesis import given

from marketd.feed.pacer import Pacer
from marketd.feed.quiet import QuietWatch, Verdict
from marketd.feed.reconnect import ReconnectPolicy


def test_first_attempt_after_a_good_connection_is_made_at_once():
    """The connection had worked, so nothing says that the next will not."""
    policy = ReconnectPolicy(rng=random.Random(1), attempt=7)
    assert policy.lost(brought_data=True, lived_s=60.0) == 0.0


def test_connection_that_brought_nothing_does_not_reset_the_backoff():
    """A handshake is no proof that the venue is well."""
    policy = ReconnectPolicy(rng=random.Random(1))
    policy.lost(brought_data=False, lived_s=3600.0)
    assert policy.attempt == 1
    policy.lost(brought_data=False, lived_s=3600.0)
    assert policy.attempt == 2


def test_venue_that_cuts_after_each_message_is_not_stormed():
    """Data alone does not reset the backoff: a minute of cuts is a few dozen attempts, and then two a minute."""
    policy = ReconnectPolicy(rng=random.Random(1))
    now_s, attempts = 0.0, []
    while now_s < 600:
        attempts.append(now_s)
        now_s += 0.01 + policy.lost(brought_data=True, lived_s=0.01)
    assert sum(at < 60 for at in attempts) < 15
    assert len(attempts) < 75


def test_hopeless_connection_waits_about_as_long_as_any():
    """R84: what will fail again is tried again, but rarely."""
    policy = ReconnectPolicy(rng=random.Random(1), cap_s=30.0)
    assert all(15 <= policy.lost(brought_data=False, lived_s=0, hopeless=True) <= 30 for _ in range(100))


def test_the_venue_is_left_alone_for_as_long_as_it_asks():
    """R83: a Retry-After is the least that is waited."""
    policy = ReconnectPolicy(rng=random.Random(1))
    assert policy.lost(brought_data=True, lived_s=60.0, asked_s=42.0) == 42.0


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100), st.booleans()), max_size=200), st.integers())
def test_delays_are_bounded_whatever_happens(lives, seed):
    """For months of failures, too."""
    policy = ReconnectPolicy(rng=random.Random(seed))
    for brought_data, lived_s, hopeless in lives * 5:
        delay_s = policy.lost(brought_data=brought_data, lived_s=lived_s, hopeless=hopeless)
        assert 0 <= delay_s <= policy.cap_s


# --- silence -----------------------------------------------------------------------------------------------


def watch(quiet_s: float = 0.0) -> QuietWatch:
    return QuietWatch(timeout_s=10.0, reset_after=3, quiet_s=quiet_s, now_s=0.0)


def test_silent_connection_is_probed_and_then_dead():
    """R47: after ``reset_after`` timeouts without any sign of life."""
    silence = watch()
    verdicts = [silence.check(now_s, heard_s=0.0) for now_s in (5, 9.9, 10, 15, 20, 29.9, 30)]
    fine, probe, dead = Verdict.FINE, Verdict.PROBE, Verdict.DEAD
    assert verdicts == [fine, fine, probe, fine, probe, fine, dead]


def test_message_starts_the_count_anew():
    """R47: the count resets on a message."""
    silence = watch()
    silence.check(20, heard_s=0.0)
    silence.message(25)
    assert silence.timeouts == 0
    assert silence.check(34.9, heard_s=25) is Verdict.FINE
    assert silence.check(54.9, heard_s=25) is not Verdict.DEAD
    assert silence.check(55, heard_s=25) is Verdict.DEAD


def test_quiet_channel_whose_pongs_come_is_not_dead():
    """A night without trades is no reason to reconnect, if the venue is one that may be silent for an hour."""
    silence = watch(quiet_s=3600)
    verdicts = {silence.check(float(now_s), heard_s=now_s - 1.0) for now_s in range(1, 3600)}
    assert verdicts == {Verdict.FINE, Verdict.PROBE}
    assert silence.check(3600.0, heard_s=3599.0) is Verdict.SILENT


def test_venue_with_heartbeats_that_sends_only_pongs_is_silent():
    """Its gateway lives, and what is behind it does not."""
    silence = watch(quiet_s=0.0)
    assert silence.check(30.0, heard_s=29.0) is Verdict.SILENT


@given(st.lists(st.floats(0.001, 30), min_size=1, max_size=100), st.floats(0.1, 100), st.integers(1, 10))
def test_a_connection_with_messages_often_enough_is_never_given_up(pauses_s, timeout_s, reset_after):
    """Whatever the settings are."""
    silence = QuietWatch(timeout_s=timeout_s, reset_after=reset_after, quiet_s=0.0, now_s=0.0)
    now_s = 0.0
    for pause_s in pauses_s:
        now_s += min(pause_s, 0.99 * timeout_s * reset_after)
        assert silence.check(now_s, heard_s=0.0) in (Verdict.FINE, Verdict.PROBE)
        silence.message(now_s)


# --- pace --------------------------------------------------------------------------------------------------


@given(st.floats(0.1, 100), st.lists(st.floats(0, 1), max_size=100))
def test_no_second_has_more_messages_than_the_venue_allows(rate, pauses_s):
    """In whatever rhythm they are asked for."""
    pacer, now_s, sent = Pacer(rate), 0.0, []
    for pause_s in pauses_s:
        now_s += pause_s
        now_s += pacer.wait_s(now_s)
        pacer.note(now_s)
        sent.append(now_s)
    window_s = max(1.0, 1 / rate)
    for begin_s in sent:
        count = sum(begin_s <= at < begin_s + window_s - 1e-6 for at in sent)
        assert count <= math.ceil(rate * window_s)
