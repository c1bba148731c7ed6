"""`marketd token`: who may connect, and what each may do. One module a command; `app.py` puts them together."""
