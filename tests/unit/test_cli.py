"""The commands' own share: help, exit codes and what is refused before anything starts."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import marketd
from marketd.cli import common, demo
from marketd.cli.app import app
from marketd.client.errors import CannotConnect, ConnectionLost, RequestError
from marketd.errors import ConfigError, InstanceRunningError, RecordingError
from tests.conftest import PROJECT

COMMANDS = (
    "run",
    "demo",
    "status",
    "watch",
    "search",
    "instrument",
    "bars",
    "ticks",
    "backends",
    "testvenue",
    "record",
    "replay",
    "version",
)
CLIENT_COMMANDS = (
    ("status",),
    ("watch", "*"),
    ("bars", "btc"),
    ("ticks", "btc"),
    ("search", "btc"),
    ("record", "sim", "--name", "x", "--seconds", "1"),
)


@pytest.fixture
def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _invoke(*arguments, **options):
    return CliRunner().invoke(app, list(arguments), **options)


def _run(*arguments, env=None, **options):
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(PROJECT), **(env or {})}
    command = [sys.executable, "-m", "marketd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, **options)


# --- help and version -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    result = _invoke(command, "--help", env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"Example: marketd {command}" in result.output.replace("`", "")
    if command not in ("version", "testvenue"):
        assert "--address" in result.output


def test_help_says_the_exit_codes_and_names_all_commands():
    result = _invoke("--help", env={"COLUMNS": "200"})
    assert "3 no daemon answers" in result.output
    assert all(command in result.output for command in COMMANDS)


@pytest.mark.parametrize("arguments", [("nosuch",), ("watch",), ("watch", "*", "--count", "many"), ("search",)])
def test_wrong_usage_exits_with_2(arguments):
    assert _invoke(*arguments).exit_code == 2


def test_version_says_what_this_install_can_do():
    text = _invoke("version")
    assert text.exit_code == 0
    assert text.output.startswith(f"marketd {marketd.__version__}, protocol 1, Python 3.")
    assert json.loads(_invoke("version", "--json").output) == {
        "version": marketd.__version__,
        "protocol": 1,
        "python": ".".join(map(str, sys.version_info[:3])),
        "daemon": True,
    }


def test_version_and_help_need_no_package_of_the_daemon():
    script = """
import sys
for name in ("trio", "tractor", "structlog", "psutil", "polars", "pyarrow", "numba", "numpy"):
    sys.modules[name] = None
from marketd.cli.app import app
for arguments in (["version"], ["--help"], *([name, "--help"] for name in sys.argv[1:])):
    try:
        app(arguments)
    except SystemExit as end:
        assert end.code == 0, (arguments, end.code)
"""
    done = subprocess.run([sys.executable, "-c", script, *COMMANDS], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [("run",), ("demo",), ("replay", __file__)])
def test_the_daemons_commands_say_so_when_its_packages_are_missing(command, tmp_path):
    script = """
import sys
sys.modules["trio"] = None
from marketd.cli.app import app
app(sys.argv[1:])
"""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", script, *command], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 1
    assert "marketd: the daemon's packages are not installed: there is no module 'trio'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


# --- reaching a daemon ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", CLIENT_COMMANDS)
def test_no_daemon_at_the_address_exits_with_3_and_says_how_to_start_one(command, free_port):
    result = _invoke(*command, "--address", f"127.0.0.1:{free_port}")
    assert result.exit_code == 3
    assert result.stderr.startswith("marketd: can't connect")
    assert "marketd run" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_an_address_that_is_none_exits_with_2():
    result = _invoke("status", "--address", "here")
    assert result.exit_code == 2
    assert "--address: 'here' is no address" in result.stderr
    result = _invoke("status", env={"MARKETD_ADDRESS": "there"})
    assert result.exit_code == 2
    assert "$MARKETD_ADDRESS: 'there' is no address" in result.stderr


@pytest.mark.parametrize("kinds", ["trade,book", "bar", "bar.m", "trade,", "candle.1m"])
def test_unknown_kinds_exit_with_2(kinds):
    result = _invoke("watch", "*", "--kinds", kinds)
    assert result.exit_code == 2
    assert "allowed are trade, quote, level, bar.1m, index.1m and the like, with commas between" in result.stderr


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (RecordingError("x"), 2),
        (CannotConnect("a:1", "refused"), 3),
        (ConnectionLost("x"), 3),
        (RequestError("unknown_feed", "x", {}), 1),
        (InstanceRunningError("x"), 1),
    ],
)
def test_the_exit_code_says_whose_doing_it_was(error, code, capsys):
    with pytest.raises(typer.Exit) as caught, common.exits():
        raise error
    assert caught.value.exit_code == code
    assert capsys.readouterr().err == f"marketd: {error}\n"


def test_an_error_in_a_group_of_one_is_that_error(capsys):
    with pytest.raises(typer.Exit) as caught, common.exits():
        raise ExceptionGroup("", [ExceptionGroup("", [ConfigError("no")])])
    assert caught.value.exit_code == 2


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError), common.exits():
        raise ZeroDivisionError


@pytest.mark.parametrize(("options", "code"), [({}, 130), ({"interrupted": 0}, 0)])
def test_ctrl_c_ends_a_client_with_130_and_a_daemon_with_0(options, code):
    with pytest.raises(typer.Exit) as caught, common.exits(**options):
        raise KeyboardInterrupt
    assert caught.value.exit_code == code


def test_a_reader_that_has_enough_ends_the_output_quietly():
    script = "import sys; from marketd.cli.common import exits\n@exits()\ndef f():\n  while True: print('x' * 9999)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", script + "import typer; typer.run(f)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=PROJECT,
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 0


# --- run --------------------------------------------------------------------------------------------------------------


def test_run_refuses_a_wrong_configuration_with_2_and_creates_nothing(tmp_path):
    """R76: nor does a configuration file that is not there get made."""
    path = tmp_path / "marketd.toml"
    result = _run("run", "--config", str(path), "--base", str(tmp_path))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"marketd: {path}: there is no such file; --config names it\n"
    assert list(tmp_path.iterdir()) == []
    path.write_text("[rnig]\nrows = 1")
    result = _run("run", env={"MARKETD_CONFIG": str(path)})
    assert result.returncode == 2
    assert result.stderr == f"marketd: {path}: rnig: unknown key; did you mean 'ring'?\n"


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--log-level", "loud", "command line: log.level is 'loud': it must be one of"),
        ("--instance", "My Own", "command line: instance is 'My Own': it must be text that matches"),
        ("--address", "0.0.0.0:7600", "'0.0.0.0:7600' is reachable from other machines"),
    ],
)
def test_run_checks_its_options_as_it_does_the_file(option, value, sentence, tmp_path):
    result = _run("run", option, value, "--base", str(tmp_path), env={"HOME": str(tmp_path), "MARKETD_CONFIG": ""})
    assert result.returncode == 2
    assert sentence in result.stderr


def test_run_refuses_a_folder_whose_socket_no_client_could_name(tmp_path):
    base = tmp_path / ("x" * 60) / ("y" * 60)
    result = _run("run", "--base", str(base), "--address", "127.0.0.1:0", env={"HOME": str(tmp_path)})
    assert result.returncode == 2
    assert "the path of the Unix socket is too long" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [("run",), ("replay",)])
def test_an_address_in_use_is_told_before_anything_starts(command, tmp_path, shared_data):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ["--address", address]
        if command == ("replay",):
            arguments.append(str(shared_data / "recordings" / "binance-futures.ws"))
        else:
            arguments += ["--base", str(tmp_path)]
        env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "MARKETD_CONFIG": ""}
        result = _run(*command, *arguments, env=env)
    assert result.returncode == 1
    assert f"marketd: the address {address} is in use; give another with --address" in result.stderr
    assert list(tmp_path.iterdir()) == []


# --- replay -----------------------------------------------------------------------------------------------------------


def test_replay_refuses_files_that_are_none_before_anything_starts(tmp_path):
    foreign = tmp_path / "notes.txt"
    foreign.write_text("buy milk\n")
    unknown = tmp_path / "unknown.ws"
    unknown.write_text("wss://nowhere.example/ws <-> 1618678132.3\n")
    empty = tmp_path / "empty.ws"
    empty.touch()
    failed = tmp_path / "trades.json"
    failed.write_text('{"error":["EGeneral:Invalid arguments"]}')
    env = {"XDG_RUNTIME_DIR": str(tmp_path / "runtime")}
    for path, sentence in [
        (tmp_path / "missing.ws", "does not exist"),
        (tmp_path, "is a directory"),
        (foreign, f"{foreign}:1: neither 'TIME: MESSAGE'"),
        (unknown, "no backend knows the protocol of 'wss://nowhere.example/ws'"),
        (empty, "is empty"),
        (failed, f"{failed}: Kraken says EGeneral:Invalid arguments; expected is Kraken's /0/public/Trades"),
    ]:
        result = _run("replay", str(path), "--address", "127.0.0.1:0", env={**env, "COLUMNS": "300"})
        assert result.returncode == 2, result.stderr
        assert sentence in result.stderr
        assert result.stdout == ""
    assert not (tmp_path / "runtime").exists()


@pytest.mark.parametrize("speed", ["fast", "0", "-1", "nan", "inf"])
def test_replay_refuses_speeds_that_are_none(speed, tmp_path):
    path = tmp_path / "x.ws"
    path.write_text("wss://fstream.binance.com/ws <-> 1618678132.3\n")
    result = _run("replay", str(path), "--speed", speed, "--address", "127.0.0.1:0")
    assert result.returncode == 2
    assert "speed" in result.stderr


# --- demo -------------------------------------------------------------------------------------------------------------


def test_demo_says_what_its_daemon_said_when_that_does_not_start(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = _run("demo", "--base", str(tmp_path / "d"), "--address", address)
    assert result.returncode == 1
    assert f"the daemon has not started: the address {address} is in use" in result.stderr
    assert (tmp_path / "d" / "demo.log").exists()


def test_the_demos_configuration_is_one(tmp_path):
    from marketd.config import load

    path = tmp_path / "demo.toml"
    path.write_text(demo._config("127.0.0.1:0"))
    found, _ = load(path, {})
    assert (found.instance, found.gateway.listen, found.gateway.unix) == ("demo", ["127.0.0.1:0"], False)


def test_a_daemon_ends_with_the_process_that_it_was_told_is_its_parent():
    script = "import sys, time; from marketd.cli.run import _end_with; _end_with(int(sys.argv[1])); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child = subprocess.Popen([sys.executable, "-c", script, str(parent.pid)], cwd=Path(PROJECT))
    parent.kill()
    parent.communicate()
    assert child.wait(30) == -signal.SIGTERM
