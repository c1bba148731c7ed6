"""Which instruments a text means, the best first. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from marketd.fqme import glob_pattern, is_glob
from marketd.model import MktPair
from marketd.rpc.messages import SearchHit

# What venues call the same thing by. XBT is what ISO 4217 would call bitcoin, and what Kraken does.
ALIASES = {"btc": "xbt", "xbt": "btc", "doge": "xdg", "xdg": "doge"}
GLOB_SCORE = 0.5
ANY_SCORE = 0.1


def search(markets: Iterable[MktPair], text: str, limit: int, feed: str) -> list[SearchHit]:
    """Rank the instruments whose names have all of the text's words, or fit it as a glob; ties in order of name.

    Returns:
        At most ``limit`` hits with scores from 1 (the name itself) down to just above 0. No words find everything.
    """
    words = text.lower().split()
    pattern = glob_pattern(text) if is_glob(text) else None
    hits = []
    for market in markets:
        fqme = market.fqme
        score = (GLOB_SCORE if pattern.fullmatch(fqme) else 0.0) if pattern else _score_best(fqme, words)
        if score > 0:
            hits.append(SearchHit(fqme=fqme, type=market.type, feed=feed, score=round(score, 4)))
    hits.sort(key=lambda hit: (-hit.score, hit.fqme))
    return hits[:limit]


def _score_best(fqme: str, words: list[str]) -> float:
    """Try the words as they are, and then under their other names, which is worth a little less."""
    score = _score(fqme, words)
    if score or not any(word in ALIASES for word in words):
        return score
    return 0.9 * _score(fqme, [ALIASES.get(word, word) for word in words])


def _score(fqme: str, words: list[str]) -> float:
    """Weigh how much of the name the words are, and whether they are whole tokens of it."""
    if not words:
        return ANY_SCORE
    if not all(word in fqme for word in words):
        return 0.0
    tokens = {fqme, *fqme.replace("/", ".").split("."), fqme.split(".")[0]}
    share = min(1.0, sum(map(len, words)) / len(fqme))
    return 0.4 * share + 0.6 * sum(word in tokens for word in words) / len(words)
