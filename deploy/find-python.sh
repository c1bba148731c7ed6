#!/bin/sh
# Prints the first Python on this machine that marketd runs on, or says in one sentence that there is none.
for candidate in ${PYTHON:-} python3.12 python3.11 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1; then
        echo "$candidate"
        exit 0
    fi
done
found=$(python3 --version 2>/dev/null || echo "no Python at all")
echo "marketd needs Python 3.11 or 3.12 and found $found; install one, or name one: make PYTHON=/path/to/python3.12 ..." >&2
exit 1
