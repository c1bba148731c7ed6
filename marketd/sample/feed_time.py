"""A feed's time, pure: how late it is there, and up to which event time everything has come.

    watermark = the newest event time, or the clock while the venue is quiet, minus the lateness that is allowed

A feed's clock is the machine's for live feeds, and follows the recorded receive times for replays. Both only go on.
"""

from __future__ import annotations

import numpy as np

from marketd.sample.kernel import HEARD, NEWEST, NOW, WATERMARK


class FeedTime:
    """See the module.

    Args:
        lateness_ns: how late an event may come; so long without any, the venue counts as quiet.

    Attributes:
        words: now, watermark, newest event, when the newest row came; all 0 before anything is known.
    """

    def __init__(self, lateness_ns: int) -> None:
        self.words = np.zeros(4, np.int64)
        self.lateness_ns = lateness_ns

    @property
    def now_ns(self) -> int:
        """The feed's clock."""
        return int(self.words[NOW])

    @property
    def watermark_ns(self) -> int:
        """Up to which event time everything has come."""
        return int(self.words[WATERMARK])

    def reach(self, now_ns: int) -> int:
        """Let the clock go on, and return it."""
        words = self.words
        now_ns = max(int(words[NOW]), now_ns)
        reached_ns = int(words[NEWEST])
        if now_ns - int(words[HEARD]) >= self.lateness_ns:
            reached_ns = max(reached_ns, now_ns)
        words[NOW] = now_ns
        words[WATERMARK] = max(int(words[WATERMARK]), reached_ns - self.lateness_ns)
        return now_ns

    def finish(self) -> None:
        """Note that nothing will ever follow."""
        self.words[WATERMARK] = max(self.words)

    def next_due_ns(self, now_ns: int, base_ns: int) -> int:
        """When :meth:`reach` may have something to say that matters, if no rows come until then.

        Args:
            base_ns: the shortest period: its bars begin and end at whole multiples.
        """
        step_ns = (now_ns // base_ns + 1) * base_ns
        close_ns = (self.watermark_ns // base_ns + 1) * base_ns + self.lateness_ns
        quiet_ns = int(self.words[HEARD]) + self.lateness_ns
        return max(now_ns + 1, min(step_ns, max(quiet_ns, close_ns)))
