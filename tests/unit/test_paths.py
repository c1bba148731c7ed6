import os
import stat

import pytest

from marketd.errors import ConfigError
from marketd.paths import Paths, config_folder, runtime_folder


def test_xdg_folders_end_in_the_instance(tmp_path):
    env = {"XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r", "XDG_CACHE_HOME": "/c", "HOME": "/home/ann"}
    paths = Paths.for_instance("eu", env=env)
    assert [str(folder) for folder in (paths.state, paths.runtime, paths.cache)] == [
        "/s/marketd/eu",
        "/r/marketd/eu",
        "/c/marketd/eu",
    ]


def test_home_stands_in_where_xdg_is_not_set_or_relative():
    paths = Paths.for_instance("default", env={"HOME": "/home/ann", "XDG_CACHE_HOME": "relative"})
    assert str(paths.state) == "/home/ann/.local/state/marketd/default"
    assert str(paths.cache) == "/home/ann/.cache/marketd/default"
    assert paths.runtime.parent == runtime_folder({})
    assert str(config_folder({"HOME": "/home/ann"})) == "/home/ann/.config/marketd"


def test_systemd_folders_are_taken_as_they_are_and_the_first_of_several():
    env = {"STATE_DIRECTORY": "/var/lib/marketd:/var/lib/other", "RUNTIME_DIRECTORY": "/run/marketd", "HOME": "/root"}
    paths = Paths.for_instance("default", env=env)
    assert str(paths.state) == "/var/lib/marketd"
    assert str(paths.socket) == "/run/marketd/marketd.sock"
    assert str(paths.cache) == "/root/.cache/marketd/default"


def test_base_wins_over_the_environment(tmp_path):
    paths = Paths.for_instance("demo", base=tmp_path, env={"STATE_DIRECTORY": "/var/lib/marketd"})
    for folder in (paths.state, paths.runtime, paths.cache, paths.recordings, paths.lock, paths.addresses):
        assert folder.is_relative_to(tmp_path / "demo")


def test_segments_of_two_instances_or_two_bases_never_have_the_same_name(tmp_path):
    paths = [
        Paths.for_instance("a", base=tmp_path),
        Paths.for_instance("b", base=tmp_path),
        Paths.for_instance("a", base=tmp_path / "elsewhere"),
        Paths.for_instance("a", env={"RUNTIME_DIRECTORY": "/run/marketd", "HOME": "/root"}),
    ]
    names = {each.segment("sim", what) for each in paths for what in ("ring", "table", "bells")}
    assert len(names) == 12
    assert all(name.parent.as_posix() == "/dev/shm" for name in names)
    assert all(name.name.startswith(f"marketd.{os.getuid()}.") for name in names)


def test_all_segments_of_an_instance_are_found_and_no_others(tmp_path):
    mine, other = (
        Paths(name, state=tmp_path, runtime=tmp_path / name, cache=tmp_path, shm=tmp_path) for name in ("a", "ab")
    )
    left_behind = [
        mine.segment("sim", "bells"),
        tmp_path / f"{mine.segment('sim', 'bells').name}.3",
        mine.segment("x", "ring"),
    ]
    for path in [*left_behind, other.segment("sim", "ring")]:
        path.touch()
    assert mine.segments() == left_behind


@pytest.mark.parametrize("name", ["", "../etc", "a/b", "A", "-a", "a.b", "a" * 33, "a\n"])
def test_instance_names_that_could_leave_their_folder_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="instance name"):
        Paths.for_instance(name, base=tmp_path)


def test_asking_for_paths_creates_nothing(tmp_path):
    """R76: only `create` touches the disk."""
    paths = Paths.for_instance("a", base=tmp_path)
    _ = paths.socket, paths.lock, paths.addresses, paths.recordings, paths.segment("sim", "ring")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_private_to_the_user(tmp_path):
    paths = Paths.for_instance("a", base=tmp_path / "new")
    paths.runtime.mkdir(parents=True, mode=0o755)
    paths.create()
    paths.create()
    for folder in (paths.state, paths.runtime, paths.cache, paths.recordings):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(ConfigError, match=f"{tmp_path}/a/state can't be made: Not a directory"):
        Paths.for_instance("a", base=tmp_path).create()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_what_another_user_planted_in_a_shared_folder_is_refused(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "planted").mkdir()
    os.chown(shared / "planted", 12345, 12345)
    with pytest.raises(ConfigError, match="was made by user 12345"):
        Paths.for_instance("a", base=shared / "planted").create()
    assert list((shared / "planted").iterdir()) == []
