"""`marketd store`: the store's files, without a daemon. One module a command; `app.py` puts them together."""
