"""The units, as far as they can be judged without a systemd that runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from marketd.config import Gateway
from tests.conftest import PROJECT

DEPLOY = PROJECT / "deploy"
SERVICE = DEPLOY / "marketd.service"
UNITS = (SERVICE, DEPLOY / "marketd.socket", DEPLOY / "marketd-http.socket")
EXPOSURE_MAX = 2.0


def tool(name: str) -> str:
    """A program of systemd's package, or a skip."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt install systemd")
    return found


def settings(unit: Path) -> dict[str, list[str]]:
    """Every value of each setting, in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def verify(folder: Path, text: str) -> str:
    """What `systemd-analyze verify` has to say of our units, with this text as the service."""
    for unit in UNITS[1:]:
        shutil.copy(unit, folder)
    (folder / SERVICE.name).write_text(text)
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", *(str(folder / unit.name) for unit in UNITS)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "marketd" in line]
    assert done.returncode == 0 or said
    return "\n".join(said)


def test_units_are_clean(tmp_path: Path) -> None:
    text = SERVICE.read_text().replace("/opt/marketd/venv/bin/marketd", "/bin/true")  # it is not installed here
    assert verify(tmp_path, text) == ""


def test_a_mistake_would_be_found(tmp_path: Path) -> None:
    assert "ProtectSystm" in verify(tmp_path, SERVICE.read_text().replace("ProtectSystem", "ProtectSystm"))


def test_service_is_locked_up() -> None:
    done = subprocess.run(
        [tool("systemd-analyze"), "security", "--offline=true", "--no-pager", str(SERVICE)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    exposure = re.search(r"Overall exposure level for marketd.service: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stdout + done.stderr
    assert float(exposure[1]) <= EXPOSURE_MAX, done.stdout


def test_sockets_are_those_of_the_configuration() -> None:
    """So that it makes no difference to clients who has opened them."""
    protocol, http = settings(UNITS[1]), settings(UNITS[2])
    assert [address for address in protocol["ListenStream"] if not address.startswith("/")] == Gateway().listen
    assert http["ListenStream"] == Gateway().http
    assert http["FileDescriptorName"] == ["http"]
    assert protocol["FileDescriptorName"] != ["http"]
    assert settings(SERVICE)["Sockets"] == ["marketd.socket marketd-http.socket"]
    for unit in (protocol, http):
        assert unit["Service"] == ["marketd.service"]


def test_unix_socket_is_not_in_a_folder_that_goes_with_the_daemon() -> None:
    (path,) = (address for address in settings(UNITS[1])["ListenStream"] if address.startswith("/"))
    assert Path(path).parent == Path("/run"), "a runtime folder is removed when the service stops"


def test_service_may_do_what_the_daemon_needs() -> None:
    service = settings(SERVICE)
    assert service["Type"] == ["notify"]
    assert float(service["WatchdogSec"][0]) >= 30, "a mute actor is replaced, and a feed started, in less"
    assert "MemoryDenyWriteExecute" not in service, "bars are compiled"
    assert set(service["RestrictAddressFamilies"][0].split()) == {"AF_INET", "AF_INET6", "AF_UNIX"}
    for folder in ("State", "Runtime", "Cache", "Configuration"):
        assert service[f"{folder}Directory"] == ["marketd"]
    assert "NUMBA_CACHE_DIR=%C/" in service["Environment"][0], "/opt can't be written to"


def test_user_is_made(tmp_path: Path) -> None:
    for name in ("sysusers.d", "tmpfiles.d"):
        shutil.copytree(DEPLOY / name, tmp_path / "etc" / name)
    done = subprocess.run(
        [tool("systemd-sysusers"), f"--root={tmp_path}", "marketd.conf"], capture_output=True, text=True, timeout=60
    )
    if "ermission" in done.stderr:
        pytest.skip("only root can make users, even elsewhere")
    assert done.returncode == 0, done.stderr
    user = next(line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("marketd:"))
    assert user.endswith(":/var/lib/marketd:/usr/sbin/nologin")
    assert "marketd:" in (tmp_path / "etc/group").read_text()
    service, socket = settings(SERVICE), settings(UNITS[1])
    assert service["User"] == service["Group"] == socket["SocketGroup"] == ["marketd"]
    (tmp_path / "etc/marketd").mkdir(mode=0o755)
    (tmp_path / "etc/marketd/marketd.toml").write_text("")
    done = subprocess.run(
        [tool("systemd-tmpfiles"), "--create", f"--root={tmp_path}", "marketd.conf"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "etc/marketd").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "etc/marketd/marketd.toml").stat().st_mode & 0o777 == 0o640
