"""`python -m marketd` is `marketd`. An actor process may import this file again, so it does nothing on import."""

from __future__ import annotations

from marketd.cli import main

if __name__ == "__main__":
    main()
