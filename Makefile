# make setup   the environment, from the lock file, in .venv/
# make run     the daemon on the simulated venue, and a live table of its ticks, until Ctrl-C
# make test    all tests (under ten minutes on two cores)
# make lint    ruff and mypy
# make bench   the benchmarks, each beside its baseline (BENCH_FLAGS=--json for one JSON object a figure)
# make soak    the long tests, and a day's traffic in half an hour (SOAK_FLAGS='--minutes 3')
# make install the daemon on this machine, for systemd, as root (DESTDIR=/folder for a package, PREFIX=/opt/marketd)

UV := uv==0.13.9
READY := .venv/.ready
BIN := .venv/bin
BENCHMARKS := ingest ring_latency fanout websocket flood live_feed bars steps idle
PREFIX ?= /opt/marketd
PYTEST ?= $(BIN)/python -m pytest

.PHONY: setup run test lint format bench soak install clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n 's/^# make/make/p' Makefile

setup: $(READY)

$(READY): uv.lock pyproject.toml
	@python=$$(sh deploy/find-python.sh) && \
	{ test -x $(BIN)/python || "$$python" -m venv .venv || \
	  { echo "marketd: '$$python -m venv .venv' failed; on Debian and Ubuntu 'apt install python3-venv' gives it" >&2; exit 1; }; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(UV)'
	$(BIN)/uv sync --quiet --frozen --inexact --compile-bytecode --extra daemon
	$(BIN)/python -c 'from marketd.sample.warm_up import warm_up; warm_up()'
	@touch $(READY)

run: $(READY)
	@$(BIN)/marketd demo

# Where PYTHONDONTWRITEBYTECODE is set, each of the thousand processes of the tests would compile what it imports anew.
test: $(READY)
	@$(BIN)/python -m compileall -q marketd backends storage tests
	$(PYTEST) -n 3 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name $(BENCH_FLAGS) || exit 1; done

soak: $(READY)
	$(PYTEST) -m soak --timeout 7200
	$(BIN)/python -m benchmarks.soak $(SOAK_FLAGS)

install: $(READY)
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' UV='$(CURDIR)/$(BIN)/uv' sh deploy/install.sh

clean:
	rm -rf .venv .marketd .pytest_cache .mypy_cache .ruff_cache .hypothesis
