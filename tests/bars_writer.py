"""The writer of a stress test of bar segments, a process of its own: ``python -m tests.bars_writer PATH``.

It fills all slots again and again until it is killed, each time with the next generation. Every word of a slot but its
number follows from the generation, and all slots of a segment are of the same one whenever the version is even.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from pathlib import Path

import numpy as np

from marketd.ring.bars import SLOT_WORDS, BarsWriter


def fill(writer: BarsWriter, first: int, generation: int) -> None:
    """Write the bars ``first`` and on of all instruments, in pieces, in an order that changes."""
    blocks, rows, lanes, _ = writer.words.shape
    order = list(range(rows))
    random.Random(generation).shuffle(order)
    writer.begin(generation)
    for row in order:
        number = first + (row - first) % rows
        words = np.full((blocks, lanes, SLOT_WORDS), generation, np.int64)
        words[:, :, 0] = number
        writer.words[:, row] = words
    writer.end(first + rows, first)


def main() -> None:
    """Write for ever, with a pause after each burst as the sampler has it."""
    writer = BarsWriter(Path(sys.argv[1]))
    writer.allocate(writer.header.instruments)
    for generation in itertools.count(1):
        fill(writer, 1000, generation)
        if generation == 1:
            print("ready", flush=True)
        time.sleep(0.0001)


if __name__ == "__main__":
    main()
