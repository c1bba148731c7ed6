"""Kraken spot: websocket version 2 and REST."""
