"""A local server that speaks the venues' own protocols, with faults on demand. See `docs/testvenue.md`.

It is an independent implementation of the venue side: nothing of `backends/` or `marketd/feed` is imported here, so
that a misreading of a venue's documents there is not repeated here.
"""
