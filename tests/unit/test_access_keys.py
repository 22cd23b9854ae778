"""Keys, scopes, rates and the audit log, without a server."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from app.access.audit import REFUSALS_AT_ONCE, AuditLog
from app.access.keys import KeyStore
from app.access.rates import TokenBucket
from app.access.scopes import Scope, required_scopes
from app.settings import load_settings
from training.commands.keys import KEYS_COMMAND
from training.errors import ConfigurationError


def codes(refusal) -> list[str]:
    return [problem.code for problem in refusal.value.problems]


def test_a_token_opens_its_own_key_and_no_other(tmp_path):
    """The token finds its key; one wrong character, the other key's id, an empty one or no ASCII find nothing."""
    store = KeyStore(tmp_path)
    (one, token), (other, _) = store.create("a", [Scope.TRAIN]), store.create("b", [Scope.ADMIN])
    fresh = KeyStore(tmp_path)
    assert fresh.find(token) == one
    assert one.scopes == (Scope.TRAIN,)
    changed = token[:-1] + ("0" if token[-1] != "0" else "1")
    for wrong in (changed, token.replace(one.id, other.id), "", token + " ", token.upper(), "ü" * 82, "\udcff"):
        assert fresh.find(wrong) is None


def test_the_file_holds_hashes_only_and_is_for_its_owner(tmp_path):
    """Neither the token nor its secret part is on the disk, and nobody else may read what is."""
    store = KeyStore(tmp_path / "keys")
    _, token = store.create("a", [Scope.FORECAST])
    text = "".join(path.read_text() for path in store.path.parent.iterdir())
    assert token.rpartition("_")[2] not in text
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_revoked_and_expired_keys_open_nothing(tmp_path, monkeypatch):
    """A revoked key is refused by a running store within its second, an expired one at its time; both stay in the list."""
    monkeypatch.setattr("app.access.keys.RELOAD_SECONDS", 0.0)
    running, store = KeyStore(tmp_path), KeyStore(tmp_path)
    (key, token), (_, short) = store.create("a", [Scope.FORECAST]), store.create("b", [Scope.FORECAST], days=1e-5)
    assert running.find(token) == key
    store.revoke("a")
    assert running.find(token) is None
    states = [key.state(datetime.now(UTC) + timedelta(seconds=2)) for key in store.list_keys()]
    assert states == ["revoked", "expired"]
    assert running.has_keys
    monkeypatch.setattr("app.access.keys.datetime", _Later)
    assert running.find(short) is None


class _Later(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(days=1)


def test_a_store_that_cannot_be_read_lets_nobody_in(tmp_path, monkeypatch, caplog):
    """A damaged file refuses every token, is no empty store, and is named in the log once; the command line says where it is."""
    monkeypatch.setattr("app.access.keys.RELOAD_SECONDS", 0.0)
    store = KeyStore(tmp_path)
    _, token = store.create("a", [Scope.FORECAST])
    assert store.find(token)
    store.path.write_text('{"keys": 3}')
    assert [store.find(token), store.find(token), store.has_keys] == [None, None, True]
    assert caplog.text.count("no key is accepted") == 1
    with pytest.raises(ConfigurationError) as refusal:
        store.list_keys()
    assert codes(refusal) == ["key_file_invalid"]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"name": "a"}, "key_name_taken"),
        ({"name": "a b"}, "config_invalid"),
        ({"name": "../a"}, "config_invalid"),
        ({"name": "c", "days": 0.0}, "config_invalid"),
        ({"name": "c", "days": float("nan")}, "config_invalid"),
        ({"name": "c", "days": 1e300}, "config_invalid"),
        ({"name": "c", "requests_per_second": 0.0}, "config_invalid"),
        ({"name": "c", "burst": 0}, "config_invalid"),
        ({"name": "c", "scopes": []}, "config_invalid"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(tmp_path, values, code):
    """Taken names and values out of range are refused with their code, and the file is as before."""
    store = KeyStore(tmp_path)
    store.create("a", [Scope.FORECAST])
    before = store.path.read_bytes()
    with pytest.raises(ConfigurationError) as refusal:
        store.create(**{"scopes": [Scope.FORECAST], **values})
    assert codes(refusal) == [code]
    assert store.path.read_bytes() == before


def test_keys_made_at_the_same_time_are_all_kept(tmp_path):
    """Four processes make a key each; the file holds four."""
    environment = os.environ | {"GRADCAST_KEYS_DIRECTORY": str(tmp_path)}
    started = [
        subprocess.Popen(
            [*KEYS_COMMAND, json.dumps({"action": "create", "name": f"k{number}", "scopes": ["train"]})],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for number in range(4)
    ]  # fmt: skip
    tokens = [process.communicate(timeout=60)[0].decode().strip() for process in started]
    store = KeyStore(tmp_path)
    assert sorted(store.find(token).name for token in tokens) == ["k0", "k1", "k2", "k3"]


def test_the_command_line_makes_lists_and_ends_keys(tmp_path):
    """The token is the whole of stdout, `list` does not know it, `revoke` by name ends it, and each stands in the audit log."""

    def keys(*words):
        environment = os.environ | {"GRADCAST_KEYS_DIRECTORY": str(tmp_path)}
        command = [sys.executable, "-m", "training", "keys", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    made = keys("create", "shop", "--scope", "forecast", "--scope", "train", "--rate", "2.5", "--days", "30")
    assert KeyStore(tmp_path).find(made.stdout.strip()).requests_per_second == 2.5
    (listed,) = json.loads(keys("list", "--json").stdout)["keys"]
    assert (listed["name"], listed["state"], listed["scopes"], listed["rate"]) == ("shop", "active", "forecast,train", "2.5/s")
    assert keys("revoke", "shop").returncode == 0
    assert KeyStore(tmp_path).find(made.stdout.strip()) is None
    again = keys("revoke", "shop")
    assert (again.returncode, "there is no key 'shop'" in again.stderr) == (2, True)
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["action"] for line in lines] == ["keys create shop", "keys revoke shop"]
    assert made.stdout.strip() not in (tmp_path / "audit.jsonl").read_text() + keys("list").stdout


def test_a_bucket_gives_its_burst_then_its_rate():
    """By hand: 2 per second, 3 at once; after 3 the next is 0.5 s away, after a second there are two, never more than 3."""
    now = [0.0]
    bucket = TokenBucket(2.0, 3, lambda: now[0])
    assert [bucket.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    now[0] = 1.0
    assert [bucket.take() for _ in range(3)] == [0.0, 0.0, 0.5]
    now[0] = 100.0
    assert [bucket.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_what_no_scope_names_asks_for_admin():
    """A route that nobody thought of, another method, and spellings that the router would not match are for admin alone."""
    for method, path in (("GET", "/new"), ("PUT", "/models"), ("GET", "//models"), ("GET", "models"), ("DELETE", "/static/x")):
        assert required_scopes(method, path) == {Scope.ADMIN}


def test_refusals_cannot_fill_the_disk(tmp_path):
    """A flood of refusals is cut, and the next line says how many have none; changes always have one."""
    log = AuditLog(tmp_path / "log" / "audit.jsonl")
    for _ in range(REFUSALS_AT_ONCE + 500):
        log.write({"name": None}, "GET /jobs", 401, is_refusal=True)
    log.write({"name": "a"}, "POST /jobs", 202)
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert len(lines) < REFUSALS_AT_ONCE + 100
    assert sum(line.get("unwritten_before", 0) for line in lines) + len(lines) == REFUSALS_AT_ONCE + 501
    assert (lines[-1]["who"], lines[-1]["outcome"]) == ({"name": "a"}, 202)
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_an_open_service_does_not_start_where_others_reach_it(monkeypatch, host):
    """Open on an address that is not the loopback one is refused with the setting, the address and the way out."""
    for value in ("until_keys", "always"):
        monkeypatch.setenv("GRADCAST_OPEN", value)
        with pytest.raises(ConfigurationError, match=f"GRADCAST_OPEN: .*it is {host} instead.*gradcast keys create"):
            load_settings(host=host)
    monkeypatch.setenv("GRADCAST_OPEN", "never")
    assert load_settings(host=host).open == "never"


def test_a_container_is_open_only_if_its_port_is_published_on_the_loopback_address(monkeypatch):
    """Its own address says nothing about who reaches it; where it is published does."""
    monkeypatch.setenv("GRADCAST_OPEN", "until_keys")
    monkeypatch.setenv("GRADCAST_PUBLISHED_ON", "127.0.0.1")
    assert load_settings(host="0.0.0.0").open == "until_keys"
    monkeypatch.setenv("GRADCAST_PUBLISHED_ON", "192.168.1.4")
    with pytest.raises(ConfigurationError, match=r"GRADCAST_OPEN: .*it is 192\.168\.1\.4 instead"):
        load_settings(host="127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_an_open_service_starts_on_the_loopback_address(monkeypatch, host):
    """Every spelling of it will do."""
    monkeypatch.setenv("GRADCAST_OPEN", "always")
    assert load_settings(host=host).open == "always"
