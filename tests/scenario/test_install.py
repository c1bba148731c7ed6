"""`make install`, below a folder: what lies where, what is left alone, and that what is installed runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

UV = PROJECT / ".venv/bin/uv"


def install(folder: Path | str, prefix: str = "/opt/marketd", **env: str) -> subprocess.CompletedProcess[str]:
    """Run the script that `make install` runs."""
    return subprocess.run(
        ["sh", str(PROJECT / "deploy/install.sh")],
        env=os.environ | {"DESTDIR": str(folder), "PREFIX": prefix, "UV": str(UV), "UV_COMPILE_BYTECODE": "0"} | env,
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.mark.skipif(not UV.exists(), reason="this environment was not made by `make setup`: there is no uv in it")
def test_install_puts_everything_in_place_and_leaves_alone_what_is_the_operators(tmp_path: Path) -> None:
    done = install(tmp_path, "/srv/md")
    assert done.returncode == 0, done.stderr
    local = tmp_path / "usr/local"
    assert "ExecStart=/srv/md/venv/bin/marketd run " in (local / "lib/systemd/system/marketd.service").read_text()
    for name in ("systemd/system/marketd.socket", "systemd/system/marketd-http.socket", "sysusers.d/marketd.conf"):
        assert (local / "lib" / name).exists()
    assert str((local / "bin/marketd").readlink()) == "/srv/md/venv/bin/marketd"
    config = tmp_path / "etc/marketd/marketd.toml"
    assert config.read_text() == (PROJECT / "deploy/marketd.toml").read_text()
    assert config.stat().st_mode & 0o777 == 0o640
    assert config.parent.stat().st_mode & 0o777 == 0o750

    venv = tmp_path / "srv/md/venv"
    release = str(venv.readlink())
    assert release.startswith("releases/0.")
    command = (venv / "bin/marketd").read_text()
    # A path that is too long for the kernel's `#!` is behind a shell's exec.
    assert f"/srv/md/{release}/bin/python" in "".join(command.splitlines()[:2])
    assert str(tmp_path) not in command
    assert str(tmp_path) not in command
    assert str(tmp_path) not in (venv / "pyvenv.cfg").read_text()
    told = subprocess.run(
        [str(venv / "bin/python"), "-P", "-c", "import marketd, hypercorn; print(marketd.__file__)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        timeout=60,
    )
    assert told.stdout.startswith(str(venv.parent / release)) or told.stdout.startswith(str(venv)), told.stderr
    assert not list((venv / "lib").glob("python*/site-packages/pytest")), "tools of developers"

    config.write_text("mine")
    releases = venv.parent / "releases"
    for name in ("0.9.0-20200101T000000Z", "0.10.0-20210101T000000Z", "0.11.0-20220101T000000Z"):
        (releases / name / "bin").mkdir(parents=True)
    used = releases / "0.9.0-20200101T000000Z"
    (used / "bin/python").symlink_to(sys.executable)
    with subprocess.Popen([str(used / "bin/python"), "-c", "input()"], stdin=subprocess.PIPE) as daemon:
        again = install(tmp_path, "/srv/md")
        daemon.communicate(b"\n")
    assert again.returncode == 0, again.stderr
    assert config.read_text() == "mine"
    assert "was left alone" in again.stderr
    kept = {path.name for path in releases.iterdir()}
    assert kept == {used.name, Path(release).name, venv.readlink().name}, "the new one, the one before, the used one"
    shutil.rmtree(tmp_path / "srv")


@pytest.mark.parametrize(
    ("folder", "prefix", "said"),
    [
        ("relative/folder", "/opt/marketd", "it must begin with /"),
        ("/tmp/nothing", "opt/marketd", "it must begin with /"),
        ("/tmp/with space", "/opt/marketd", "may have letters"),
        ("/tmp/nothing", "/opt/$(touch pwned)", "may have letters"),
        ("/proc/nothing", "/opt/marketd", "/proc/nothing"),
    ],
)
def test_places_that_can_not_be_are_refused_before_anything_is_made(folder: str, prefix: str, said: str) -> None:
    done = install(folder, prefix)
    assert done.returncode != 0
    assert said in done.stderr
    assert not Path("/tmp/nothing").exists()


def test_release_that_can_not_be_made_leaves_nothing(tmp_path: Path) -> None:
    done = install(tmp_path, UV="/bin/false")
    assert done.returncode != 0
    assert list((tmp_path / "opt/marketd").iterdir()) == [tmp_path / "opt/marketd/releases"]
    assert not list((tmp_path / "opt/marketd/releases").iterdir())
    assert not (tmp_path / "etc").exists()
