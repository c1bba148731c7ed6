"""Which subscription has a venue dropped without a word? Pure: it is known by its habit alone.

A *channel* is one kind of one instrument. When a venue loses one, nothing tells: the subscription was acked, and the
connection goes on with all the others. But a channel that has never been silent for more than a few seconds, and now is
for a minute, while the others are as they always were, is lost.

Everything is counted in *looks* at the newest rows, one about every second. A look counts only if one of the channel's
peers spoke: those of its kind on the same connection, or all of the connection where too few of its kind have habits.
So a market, a venue or a path that is quiet as a whole is nobody's silence, and neither is a machine that slept. As
there are no clocks here but for the pause between two alarms, none can be wrong.

A wrong alarm costs a gap row of data that is not missing. That must be rare also among a thousand instruments that
sleep at night and wake for minutes:

- a channel is judged by the longest silence that it ever ended by itself, of late, and not by a mean;
- it is lost after ten times that. Trades come in crowds, and crowds end; that the time between two grows tenfold at
  once, and none of the steps between is seen, is what does not happen;
- nobody is, while more than half of the peers are silent for longer than they were before;
- after an alarm the channel has to show its habit again, and its instrument is left alone for a minute, for two, for
  four, up to an hour.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from marketd.clock import SECOND_NS
from marketd.ring.layout import Row

MARGIN = 10  # times the longest silence
SILENCE_MIN = 15  # looks; less is nothing, whatever the habit
SILENCE_MAX = 3600  # a channel that would be lost only after so many looks is never judged
WORDS_MIN = 30  # nor is one that spoke less often
MEMORY = 86_400  # looks after which a third is left of the longest silence: a night is remembered in the next
PEERS_MIN = 2  # so many channels of a kind have habits, or all of the connection are peers
PAUSE_NS, PAUSE_NS_MAX = 60 * SECOND_NS, 3600 * SECOND_NS  # after an alarm, the first and the longest


class Channel(NamedTuple):
    """One kind of one instrument."""

    instrument: int
    kind: int


class Habit:
    """How often one channel speaks.

    Attributes:
        silence: looks since it spoke, or was subscribed to.
        longest: the longest silence that it ended by itself, of late.
        spoke: whether it has spoken since the last look.
        known: whether it can be judged.
    """

    __slots__ = ("_row", "_words", "channel", "known", "longest", "silence", "spoke")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.silence = 0
        self.longest = 0.0
        self.spoke = False
        self.known = False
        self._words = 0
        self._row: Row | None = None

    def hear(self, row: Row | None) -> None:
        """See which row is the newest now."""
        self.spoke = row is not self._row
        self._row = row

    def count(self) -> None:
        """Let the look count."""
        self.silence += 1
        if self.spoke:
            self.longest -= self.longest * self.silence / MEMORY
            if self.silence > self.longest:
                self.longest = self.silence
            self.silence = 0
            self._words += 1
            self.known = self._words >= WORDS_MIN and self.patience <= SILENCE_MAX

    def forget(self) -> None:
        """Judge it no more until it has shown its habit again; its longest silence stays."""
        self._words = 0
        self.known = False

    @property
    def patience(self) -> float:
        """After how long a silence it is lost."""
        return max(SILENCE_MIN, MARGIN * self.longest)


class Rest(NamedTuple):
    """An instrument had an alarm, and is left alone until then."""

    until_ns: int
    pause_ns: int


class Habits:
    """Those of all channels at one address of a venue, whatever connection they are on.

    Args:
        newest: the newest row of each instrument, by kind.
    """

    def __init__(self, newest: Mapping[int, Mapping[int, Row]]) -> None:
        self._newest = newest
        self._habits: dict[int, dict[int, Habit]] = {kind: {} for kind in newest}
        self._rests: dict[int, Rest] = {}

    def begin(self, instrument: int) -> None:
        """Note that an instrument's data begins, or begins again: a silence before that was none of its own."""
        for kind in self._habits:
            self._habit(instrument, kind).silence = 0

    def look(self, instruments: Sequence[int], kinds: Collection[int], now_ns: int) -> Channel | None:
        """Look at the channels of one connection. The one returned is lost: its instrument is to be made anew.

        Args:
            instruments: those whose subscriptions are whole.
            now_ns: for the pauses.
        """
        groups = [[self._habit(instrument, kind) for instrument in instruments] for kind in kinds]
        for kind, group in zip(kinds, groups, strict=True):
            newest = self._newest[kind]
            for habit in group:
                habit.hear(newest.get(habit.channel.instrument))
        if any(sum(habit.known for habit in group) < PEERS_MIN for group in groups):
            groups = [[habit for group in groups for habit in group]]
        lost = [habit for group in groups for habit in _lost(group) if self._is_rested(habit.channel, now_ns)]
        if not lost:
            return None
        longest = max(lost, key=lambda habit: habit.silence)
        longest.forget()
        self._let_rest(longest.channel.instrument, now_ns)
        return longest.channel

    def _habit(self, instrument: int, kind: int) -> Habit:
        habits = self._habits[kind]
        habit = habits.get(instrument)
        if habit is None:
            habit = habits[instrument] = Habit(Channel(instrument, kind))
        return habit

    def _is_rested(self, channel: Channel, now_ns: int) -> bool:
        rest = self._rests.get(channel.instrument)
        return rest is None or now_ns >= rest.until_ns

    def _let_rest(self, instrument: int, now_ns: int) -> None:
        rest = self._rests.get(instrument)
        again = rest is not None and now_ns < rest.until_ns + PAUSE_NS_MAX
        pause_ns = min(2 * rest.pause_ns, PAUSE_NS_MAX) if rest is not None and again else PAUSE_NS
        self._rests[instrument] = Rest(now_ns + pause_ns, pause_ns)


def _lost(peers: Sequence[Habit]) -> list[Habit]:
    """Let a look count for channels that are each other's peers, if one of them spoke; return those that are lost."""
    if not any(habit.spoke for habit in peers):
        return []
    for habit in peers:
        habit.count()
    lost = [habit for habit in peers if habit.known and habit.silence > habit.patience]
    if lost:
        known = [habit for habit in peers if habit.known]
        late = sum(habit.silence > habit.longest for habit in known)
        if 2 * late > len(known):
            return []
    return lost
