"""Which channel is lost, and which is only quiet."""

from __future__ import annotations

import itertools
import random

from marketd.clock import SECOND_NS
from marketd.feed.habits import MARGIN, PAUSE_NS, PAUSE_NS_MAX, SILENCE_MAX, SILENCE_MIN, WORDS_MIN, Channel, Habits
from marketd.model import Kind
from tests.fake_venue import quote_row, trade_row

TRADE, QUOTE = int(Kind.TRADE), int(Kind.QUOTE)
KINDS = (TRADE, QUOTE)
A_TRADES, A_QUOTES = Channel(1, TRADE), Channel(1, QUOTE)


class World:
    """Instruments whose channels speak as they are told to, and one look a second."""

    def __init__(self, instruments: int = 4, kinds: tuple[int, ...] = KINDS) -> None:
        self.instruments = list(range(1, instruments + 1))
        self.kinds = kinds
        self.every = {Channel(i, kind): 1 for i in self.instruments for kind in kinds}  # seconds; 0: not at all
        self.alarms: list[tuple[int, Channel]] = []
        self.resubscribes = True
        self.now_s = 0
        self._newest = {kind: {} for kind in KINDS}
        self._habits = Habits(self._newest)

    def run(self, seconds: int) -> list[Channel]:
        """Let time go by; return the channels that were found to be lost."""
        begun = len(self.alarms)
        for _ in range(seconds):
            self.now_s += 1
            for channel, every in self.every.items():
                if every and self.now_s % every == 0:
                    self.speak(channel)
            lost = self._habits.look(self.instruments, self.kinds, self.now_s * SECOND_NS)
            if lost is not None:
                self.alarms.append((self.now_s, lost))
                self._habits.begin(lost.instrument)
        return [channel for _, channel in self.alarms[begun:]]

    def speak(self, channel: Channel) -> None:
        make = trade_row if channel.kind == TRADE else quote_row
        self._newest[channel.kind][channel.instrument] = make(channel.instrument, self.now_s, self.now_s * SECOND_NS)

    def begin(self, instrument: int) -> None:
        self._habits.begin(instrument)

    def silence(self, *channels: Channel) -> None:
        self.every |= dict.fromkeys(channels, 0)


def test_channel_that_falls_silent_while_the_others_go_on_is_lost():
    world = World()
    assert world.run(WORDS_MIN + 1) == []
    world.silence(A_TRADES)
    assert world.run(SILENCE_MIN) == []
    assert world.run(1) == [A_TRADES]


def test_each_kind_is_judged_by_itself():
    world = World()
    world.run(WORDS_MIN + 1)
    world.silence(A_QUOTES)
    assert world.run(SILENCE_MIN + 5) == [A_QUOTES]


def test_instrument_that_is_lost_altogether_is_one_alarm():
    world = World()
    world.run(WORDS_MIN + 1)
    world.silence(A_TRADES, A_QUOTES)
    assert len(world.run(PAUSE_NS // SECOND_NS)) == 1


def test_habit_is_the_longest_silence_and_not_the_mean():
    world = World()
    world.run(WORDS_MIN + 1)
    world.silence(A_TRADES)
    world.run(10)
    world.every[A_TRADES] = 1
    world.run(600)
    world.silence(A_TRADES)
    assert world.run(10 * MARGIN) == []
    assert world.run(2 * MARGIN) == [A_TRADES]


def test_channel_that_spoke_too_few_times_is_not_judged():
    world = World()
    world.run(WORDS_MIN - 1)
    world.silence(A_TRADES)
    assert world.run(SILENCE_MAX) == []


def test_channel_that_speaks_rarely_is_not_judged():
    world = World()
    world.every[A_TRADES] = SILENCE_MAX // MARGIN + 1
    world.run(world.every[A_TRADES] * (WORDS_MIN + 5))
    world.silence(A_TRADES)
    assert world.run(20_000) == []


def test_market_that_goes_quiet_as_a_whole_is_nobodys_silence():
    world = World()
    world.run(600)
    world.silence(*world.every)
    assert world.run(3600) == []


def test_market_without_trades_whose_quotes_go_on_is_nobodys_silence():
    """As in an exchange that takes orders and does not match them yet."""
    world = World()
    world.run(600)
    world.silence(*(channel for channel in world.every if channel.kind == TRADE))
    assert world.run(3600) == []


def test_most_of_a_market_falling_silent_is_no_storm():
    world = World(instruments=10)
    world.run(600)
    world.silence(*(channel for channel in world.every if channel.instrument > 4))
    assert world.run(3600) == []


def test_quiet_of_a_whole_market_is_not_learnt_as_a_habit():
    world = World()
    world.run(60)
    every = dict(world.every)
    world.silence(*world.every)
    world.run(3600)
    world.every |= every
    world.run(5)
    world.silence(A_TRADES)
    assert world.run(SILENCE_MIN + 5) == [A_TRADES]


def test_one_alarm_at_a_look_however_many_are_lost():
    world = World(instruments=20)
    world.run(60)
    world.silence(*(Channel(i, TRADE) for i in range(1, 6)))
    world.run(SILENCE_MIN + 10)
    assert sorted(channel.instrument for _, channel in world.alarms) == [1, 2, 3, 4, 5]
    assert len({at for at, _ in world.alarms}) == 5


def test_only_instrument_of_a_connection_is_judged_by_its_other_kind():
    world = World(instruments=1)
    world.run(60)
    world.silence(A_TRADES)
    assert world.run(SILENCE_MIN + 5) == [A_TRADES]


def test_only_channel_of_a_connection_is_never_judged():
    world = World(instruments=1, kinds=(TRADE,))
    world.run(60)
    world.silence(A_TRADES)
    assert world.run(SILENCE_MAX) == []


def test_busy_instrument_among_quiet_ones_is_judged_by_its_other_kind():
    world = World()
    world.every |= {channel: 2000 for channel in world.every if channel.instrument != 1}
    world.run(60)
    world.silence(A_TRADES)
    assert world.run(SILENCE_MIN + 5) == [A_TRADES]


def test_silence_before_a_subscription_is_none_of_the_channels_own():
    world = World()
    world.run(60)
    world.silence(A_TRADES)
    world.run(SILENCE_MIN - 1)
    world.begin(1)
    assert world.run(SILENCE_MIN) == []
    assert world.run(1) == [A_TRADES]


def test_lost_again_is_found_again_once_the_habit_is_shown():
    world = World()
    world.run(60)
    for _ in range(5):
        world.silence(A_TRADES)
        assert world.run(SILENCE_MIN + 1) == [A_TRADES]
        world.every[A_TRADES] = 1
        assert world.run(2 * PAUSE_NS_MAX // SECOND_NS) == []


def test_instrument_that_gives_alarm_again_and_again_is_left_alone_for_longer_and_longer():
    """Such as a venue that drops it each time it is subscribed to."""
    world = World()
    world.run(60)
    world.silence(A_TRADES)
    for _ in range(12 * 3600):
        if world.run(1):
            world.every[A_TRADES] = 1
            world.run(WORDS_MIN)
            world.silence(A_TRADES)
    pauses_s = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(world.alarms)]
    assert pauses_s[:3] == [60, 120, 240]
    assert max(pauses_s) <= PAUSE_NS_MAX / SECOND_NS + 1
    assert pauses_s == sorted(pauses_s)


def test_instrument_that_has_really_become_quiet_gives_one_alarm():
    """Its new habit is learnt, however it goes on."""
    world = World()
    world.run(3600)
    world.every[A_TRADES] = 120
    assert world.run(24 * 3600) == [A_TRADES]


def test_crowds_that_come_and_go_give_hardly_an_alarm():
    """A thousand hours of trades whose pace changes a hundredfold within minutes, at random."""
    rng = random.Random(1)
    world = World(instruments=10, kinds=(TRADE,))
    for hour in range(100):
        for channel in world.every:
            world.every[channel] = 1 + int(rng.lognormvariate(1.0, 1.2)) if rng.random() < 0.7 else 1
        world.run(36 * 10 if hour else 3600)
    assert len(world.alarms) <= 10
