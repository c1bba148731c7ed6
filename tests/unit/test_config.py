import re
import tomllib

import msgspec
import pytest

from backends import backend
from marketd import config as configs
from marketd.config import Config, decode, load
from marketd.errors import ConfigError
from tests.conftest import PROJECT


class _Settings(msgspec.Struct, frozen=True):
    """The keys of a made-up backend."""

    path: str
    speed: float = 1.0
    mode: str = "plain"
    names: list[str] = []

    def __post_init__(self):
        if self.mode == "fast" and self.speed == 1.0:
            raise ValueError("mode fast needs a speed above 1")


@pytest.fixture(autouse=True)
def _made_up_backends(monkeypatch):
    """Two made-up backends beside the real ones: `file` has keys, `dead` has no live source."""
    made_up = {
        "file": backend.Backend("file", "for tests", _Settings, open_source=lambda settings, clock: None),
        "dead": backend.Backend("dead", "for tests", _Settings),
    }
    monkeypatch.setattr(configs, "BACKENDS", (*backend.NAMES, *made_up))
    monkeypatch.setattr(configs, "load_backend", lambda name: made_up.get(name) or backend.load(name))


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "marketd.toml"
        path.write_text(text)
        return path

    return write


# --- where the file is ------------------------------------------------------------------------------------------------


def test_without_any_file_one_simulated_feed_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "SYSTEM_FILE", tmp_path / "etc" / "marketd.toml")
    found, source = load(None, {"HOME": str(tmp_path)})
    assert source is None
    assert found == Config(feeds={"sim": {"backend": "sim"}})


def test_the_named_file_wins_over_the_environment_the_user_and_the_system(tmp_path, monkeypatch):
    places = [
        tmp_path / "named.toml",
        tmp_path / "env.toml",
        tmp_path / "marketd" / "marketd.toml",
        tmp_path / "etc.toml",
    ]
    places[2].parent.mkdir()
    for number, place in enumerate(places):
        place.write_text(f'instance = "place{number}"')
    monkeypatch.setattr(configs, "SYSTEM_FILE", places[3])
    env = {"MARKETD_CONFIG": str(places[1]), "XDG_CONFIG_HOME": str(tmp_path)}
    assert load(places[0], env)[0].instance == "place0"
    assert load(None, env)[0].instance == "place1"
    del env["MARKETD_CONFIG"]
    assert load(None, env) == (Config(instance="place2"), places[2])
    places[2].unlink()
    assert load(None, env) == (Config(instance="place3"), places[3])


@pytest.mark.parametrize("named_by", ["--config", "$MARKETD_CONFIG"])
def test_a_named_file_that_is_not_there_raises_and_is_not_created(tmp_path, named_by):
    """R76: unknown names raise; asking for them creates no file."""
    path = tmp_path / "brokers.toml"
    with pytest.raises(ConfigError, match=rf"brokers\.toml: there is no such file; \{named_by}"):
        load(path, {}) if named_by == "--config" else load(None, {"MARKETD_CONFIG": str(path)})
    assert list(tmp_path.iterdir()) == []


def test_searching_creates_nothing(tmp_path, monkeypatch):
    """R76: no blank files."""
    monkeypatch.setattr(configs, "SYSTEM_FILE", tmp_path / "etc" / "marketd.toml")
    load(None, {"XDG_CONFIG_HOME": str(tmp_path / "config")})
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_readable_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        load(tmp_path, {})
    path = tmp_path / "binary.toml"
    path.write_bytes(b'instance = "\xff"')
    with pytest.raises(ConfigError, match="is no text in UTF-8: byte 12 is 0xff"):
        load(path, {})


def test_a_syntax_error_is_told_with_its_line(write):
    with pytest.raises(ConfigError, match=r"marketd.toml: is no valid TOML: .*at line 3"):
        load(write('instance = "a"\nring = [\n1 2'), {})


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_every_value_arrives(write):
    found, _ = load(
        write(
            """
            instance = "eu"
            [log]
            level = "debug"
            [ring]
            rows = 4096
            [gateway]
            listen = ["127.0.0.1:0", "127.0.0.1:0", "[::1]:7601", "localhost:7602", "unix:/run/x.sock"]
            unix = false
            limits.clients_max = 5
            [feeds.one]
            backend = "file"
            path = "x"
            speed = 2
            """
        ),
        {},
    )
    assert (found.instance, found.log.level, found.ring.rows) == ("eu", "debug", 4096)
    assert len(found.gateway.listen) == 5
    assert found.gateway.limits.clients_max == 5
    assert found.gateway.limits.frame_bytes_max == 1 << 20
    assert found.feeds == {"one": {"backend": "file", "path": "x", "speed": 2}}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[lgo]", "lgo: unknown key; did you mean 'log'?"),
        ("zzz = 1", "zzz: unknown key; allowed are bars, feeds, gateway, history, instance, log, ring"),
        ('[log]\nlvel = "info"', "log.lvel: unknown key; did you mean 'level'?"),
        (
            '[log]\nlevel = "loud"',
            "log.level is 'loud': it must be one of 'critical', 'debug', 'error', 'info'",
        ),
        ("log = 3", "log is 3: it must be a table"),
        ('instance = "Prod EU"', "instance is 'Prod EU': it must be text that matches ^[a-z0-9]"),
        ("[ring]\nrows = 100", "ring.rows is 100: it must be a whole number, at least 1024, at most 268435456"),
        ("[ring]\nrows = 1.5", "ring.rows is 1.5: it must be a whole number"),
        ('[ring]\nrows = "many"', "ring.rows is 'many': it must be a whole number"),
        ("[ring]\nrows = 5000", "ring.rows is 5000: it must be a power of two, e.g. 4096 or 8192"),
        ("[gateway]\nunix = 1", "gateway.unix is 1: it must be true or false"),
        ("[gateway]\nlisten = 7600", "gateway.listen is 7600: it must be a list, each item text"),
        # R78: the form that older programs had.
        (
            '[gateway]\nlisten = {tcp = "127.0.0.1:7600"}',
            "gateway.listen is {'tcp': '127.0.0.1:7600'}: it must be a list, each item text",
        ),
        ("[gateway]\nlisten = [7600]", "gateway.listen is [7600]: it must be a list, each item text"),
        ('[gateway]\nlisten = ["7600"]', "gateway.listen: '7600' is no address: host:port is, e.g. 127.0.0.1:7600"),
        ('[gateway]\nlisten = ["127.0.0.1:99999"]', "'127.0.0.1:99999' is no address"),
        (
            '[gateway]\nlisten = ["venue.example:1"]',
            "'venue.example' is no IP address; use 127.0.0.1",
        ),
        ('[gateway]\nlisten = ["unix:x.sock"]', "the path after unix: must begin with /"),
        ('[gateway]\nlisten = ["0.0.0.0:7600"]', "'0.0.0.0:7600' is reachable from other machines, which needs TLS"),
        ('[gateway]\nhttp = ["[::]:7601"]', "gateway.http: '[::]:7601' is reachable from other machines"),
        ('[gateway]\nlisten = ["tls://127.0.0.1:1"]', "to speak TLS, for which there is no certificate"),
        ('[security]\nkey = "x"', "security.key is given and security.certificate is not"),
        ("[security]\nallow_plaintext = 1", "security.allow_plaintext is 1: it must be true or false"),
        ('[gateway]\nlisten = ["127.0.0.1:1", "127.0.0.1:1"]', "'127.0.0.1:1' is there more than once"),
        ("[gateway]\nlisten = []\nunix = false", "nobody could connect"),
        ("[gateway.limits]\nclients_mx = 5", "gateway.limits.clients_mx: unknown key; did you mean 'clients_max'?"),
        ("[gateway.limits]\nclients_max = 0", "gateway.limits.clients_max is 0: it must be greater than 0"),
        ("[gateway.limits]\nstall_timeout_s = -1", "gateway.limits.stall_timeout_s is -1.0: it must be greater than 0"),
        ("feeds = 3", "feeds is 3: it must be a table"),
        ("[feeds]\nsim = 3", "feeds.sim is 3: it must be a table"),
        ('[feeds."My Feed"]\nbackend = "file"\npath = "x"', "feeds: the name is 'My Feed': it must be text that"),
        ("[feeds.a]\nspeed = 1", "feeds.a.backend: missing; it must be one of sim, replay, binance"),
        ('[feeds.a]\nbackend = "fle"', "feeds.a.backend is 'fle': no such backend; did you mean 'file'?"),
        ("[feeds.a]\nbackend = 7", "feeds.a.backend is 7: no such backend; allowed are "),
        ('[feeds.a]\nbackend = "dead"', "feeds.a.backend is 'dead': it can only replay recordings so far"),
        *(
            (
                f'[feeds.a]\nbackend = "{name}"\nkinds = ["trade", "book"]',
                f"feeds.a.kinds has 'book': the backend '{name}' has 'trade', 'quote'",
            )
            for name in ("binance", "kucoin")
        ),
        ('[feeds.a]\nbackend = "kraken"\nkinds = ["level"]', "one of 'book', 'quote', 'trade'"),
        ('[feeds.a]\nbackend = "file"', "feeds.a.path: missing; it must be text"),
        ('[feeds.a]\nbackend = "file"\npath = "x"\nsped = 1', "feeds.a.sped: unknown key; did you mean 'speed'?"),
        ('[feeds.a]\nbackend = "file"\npath = 1', "feeds.a.path is 1: it must be text"),
        ('[feeds.a]\nbackend = "file"\npath = "x"\nspeed = "x"', "feeds.a.speed is 'x': it must be a number"),
        ('[feeds.a]\nbackend = "file"\npath = "x"\nmode = "fast"', "feeds.a: mode fast needs a speed above 1"),
    ],
)
def test_what_is_wrong_is_told_with_file_key_and_what_is_allowed(write, text, sentence):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert str(caught.value).startswith(f"{path}: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_told_at_once(write):
    with pytest.raises(ConfigError) as caught:
        load(
            write('[log]\nlevel = "x"\nformt = "json"\n[ring]\nrows = 1\n[feeds.a]\nbackend = "file"\n[feeds.b]\n'), {}
        )
    first, *others = str(caught.value).splitlines()
    assert first.endswith("marketd.toml: 5 mistakes")
    assert [line.split()[0].rstrip(":") for line in others] == [
        "log.level",
        "log.formt",
        "ring.rows",
        "feeds.a.path",
        "feeds.b.backend",
    ]


def test_relations_are_told_together_with_the_feeds_mistakes(write):
    with pytest.raises(ConfigError, match="2 mistakes") as caught:
        load(write('[ring]\nrows = 5000\n[feeds.a]\nbackend = "file"'), {})
    assert "power of two" in str(caught.value)
    assert "feeds.a.path: missing" in str(caught.value)


def test_kinds_that_the_venue_has_are_taken(write):
    path = write('[feeds.a]\nbackend = "kraken"\nkinds = ["trade", "quote", "book"]')
    assert load(path, {})[0].feeds["a"]["kinds"] == ["trade", "quote", "book"]


def test_ten_thousand_entries_are_read_and_nothing_writes_toml(write) -> None:
    """R74, R75: there is no state in TOML, so there is nothing to be slow at, and no None to be lost."""
    entries = "".join(f'"x{number}/usd.spot.file" = ["10t"]\n' for number in range(10_000))
    path = write(f'[feeds.a]\nbackend = "file"\npath = "x"\n[bars.activity]\n{entries}')
    assert len(load(path, {})[0].bars.activity) == 10_000
    for source in (PROJECT / "marketd").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) (toml|tomlkit|tomli_w)\b", source.read_text(), re.MULTILINE), source


@pytest.mark.parametrize(
    "security",
    ["allow_plaintext = true", 'certificate = "c"\nkey = "k"', 'allow_plaintext = true\ncertificate = "c"\nkey = "k"'],
)
def test_addresses_for_other_machines_are_taken_with_tls_or_if_plain_text_is_meant(security):
    gateway = '[gateway]\nlisten = ["0.0.0.0:7600", "[::1]:7600"]\nhttp = ["[::]:0"]'
    table = tomllib.loads(f"{gateway}\n[security]\n{security}")
    assert decode(table, "x").gateway.http == ["[::]:0"]
