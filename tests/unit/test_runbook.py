"""The runbook, the alert rules and the dashboard, held to what the daemon really says."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT

DEPLOY = PROJECT / "deploy"
RUNBOOK = (DEPLOY / "README.md").read_text()
LEVELS = {"warning", "error", "exception", "critical", "say"}  # `say` is one of the first two, chosen as it runs
EVENT = re.compile(r"[a-z_]+\.[a-z_]+")


def events(path: Path) -> Iterator[str]:
    """The names of all events at level warning or above in a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        name = node.args[0]
        if called in LEVELS and isinstance(name, ast.Constant) and EVENT.fullmatch(str(name.value)):
            yield str(name.value)


def all_events() -> set[str]:
    """Those of the whole daemon."""
    files = (path for package in ("marketd", "backends", "storage") for path in (PROJECT / package).rglob("*.py"))
    return {name for path in files for name in events(path)}


def test_every_warning_and_error_stands_in_the_runbook() -> None:
    found = all_events()
    assert {"service.died", "feed.disconnected", "actor.crashed", "watchdog.withheld"} <= found
    missing = sorted(name for name in found if f"`{name}`" not in RUNBOOK)
    assert not missing, f"deploy/README.md does not say what these ask of an operator: {', '.join(missing)}"


def test_runbook_tells_of_no_event_that_there_is_not() -> None:
    source = "\n".join(
        path.read_text() for package in ("marketd", "backends", "storage") for path in (PROJECT / package).rglob("*.py")
    )
    table = RUNBOOK.partition("## What the log asks of you")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", row)}
    assert len(named) > 30
    assert not {name for name in named if f'"{name}"' not in source}


def test_every_alert_stands_in_the_runbook_and_the_other_way_round() -> None:
    alerts = re.findall(r"- alert: (\w+)", (DEPLOY / "alerts.yml").read_text())
    assert len(alerts) == len(set(alerts)) > 10
    assert set(re.findall(r"^\| `(Marketd\w+)` \|", RUNBOOK, re.MULTILINE)) == set(alerts)


@pytest.mark.parametrize("name", ["alerts.yml", "prometheus.yml"])
def test_yaml_has_no_tabs_and_every_rule_an_expression(name: str) -> None:
    text = (DEPLOY / name).read_text()
    assert "\t" not in text
    rules = text.split("- alert: ")[1:]
    assert all("expr: " in rule and "severity: " in rule and "summary: " in rule for rule in rules)


RULE_TEST = """
rule_files: [alerts.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'marketd_ready{instance="here"}', values: "1 0x10"}
      - {series: 'marketd_certificate_expires_timestamp_seconds{instance="here"}', values: "864000x90"}
    alert_rule_test:
      - {eval_time: 1m, alertname: MarketdNotReady}
      - {eval_time: 90m, alertname: MarketdNotReady}
      - eval_time: 5m
        alertname: MarketdNotReady
        exp_alerts: [{exp_labels: {severity: page, instance: here}, exp_annotations: {summary: SUMMARY}}]
      - eval_time: 70m
        alertname: MarketdCertificateExpires
        exp_alerts:
          - exp_labels: {severity: ticket, instance: here}
            exp_annotations: {summary: "the certificate of here expires in 9d 22h 50m 0s"}
"""


def test_prometheus_takes_the_rules_and_alerts_by_them(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt install prometheus")
    rules = (DEPLOY / "alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(rules)
    config = (DEPLOY / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(re.sub(r"- /\S+/alerts\.yml", "- alerts.yml", config))
    summary = re.search(r"alert: MarketdNotReady.*?summary: (\".*?\")", rules, re.DOTALL)
    assert summary is not None
    text = summary[1].replace("{{ $labels.instance }}", "here")
    (tmp_path / "test.yml").write_text(RULE_TEST.replace("SUMMARY", text))
    for arguments in (["check", "config", "prometheus.yml"], ["test", "rules", "test.yml"]):
        done = subprocess.run([promtool, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_dashboard_is_whole() -> None:
    board = json.loads((DEPLOY / "grafana.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) > 15
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(target["expr"] for panel in panels for target in panel["targets"])
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
    assert len(places) == len(board["panels"]), "two panels lie in one place"


def test_image_is_made_of_what_there_is() -> None:
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    assert all((PROJECT / name).exists() for name in kept)
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE):
        for name in line.split():
            assert name == "." or any(name == one or name.startswith(f"{one}/") for one in kept), name
            assert (PROJECT / name).exists()
    uv = re.search(r"UV := uv==(\S+)", (PROJECT / "Makefile").read_text())
    assert uv is not None
    assert f"/uv:{uv[1]} " in dockerfile
