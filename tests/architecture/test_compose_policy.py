"""What every container of the stack must be, read from every YAML file of docker/ on each run of the tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).resolve().parents[2] / "docker"
OVERLAYS = ("compose.gpu.yaml", "compose.auth.yaml")
# End by themselves, so there is no health to ask for; the worker listens nowhere and has its jobs' locks for a pulse.
WITHOUT_HEALTH = {"password", "bucket", "bootstrap", "train", "worker"}
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)
VARIABLE = re.compile(r"\$\{[A-Z0-9_]+:?-?([^}]*)\}")


class ComposeLoader(yaml.SafeLoader):
    """YAML with Compose's own tags."""


ComposeLoader.add_constructor("!reset", lambda _loader, _node: [])
ComposeLoader.add_constructor("!override", lambda loader, node: loader.construct_object(node, deep=True))


def read(name: str) -> dict[str, Any]:
    return yaml.load((DOCKER / name).read_text(encoding="utf-8"), ComposeLoader)


STACK = read("compose.yaml")
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
every_service = pytest.mark.parametrize("name", sorted(SERVICES))


def violations(service: dict[str, Any]) -> list[str]:
    """What a service does that none may."""
    found = []
    if service.get("read_only") is not True:
        found.append("its root is writable")
    if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
        found.append("it keeps capabilities")
    if "no-new-privileges:true" not in service.get("security_opt", []):
        found.append("it may gain privileges")
    if service.get("privileged") or str(service.get("user", "")).split(":")[0] in ("0", "root"):
        found.append("it is privileged")
    if any(service.get(key) for key in ("pid", "ipc", "userns_mode", "devices")) or service.get("network_mode") == "host":
        found.append("it shares a namespace or a device with the host")
    if not service.get("mem_limit"):
        found.append("its memory has no limit")
    if not re.search(r":[^:@/]*\d", service.get("image", "")) or service["image"].endswith(":latest"):
        found.append("its image has no version")
    found += [f"port {port} is open to the network" for port in service.get("ports", []) if not _is_loopback(port)]
    found += [f"volume {volume} reaches the engine" for volume in service.get("volumes", []) if "docker.sock" in volume]
    found += [f"{key} holds a secret" for key, value in _environment(service) if _holds_secret(key, value)]
    return found


def _environment(service: dict[str, Any]) -> list[tuple[str, str]]:
    given = service.get("environment", {})
    pairs = given.items() if isinstance(given, dict) else (entry.partition("=")[::2] for entry in given)
    return [(str(key), str(value)) for key, value in pairs]


def _holds_secret(key: str, value: str) -> bool:
    is_address = re.search(r"://[^/@\s]*:[^/@\s]+@", value) is not None
    is_named_so = SECRET_NAME.search(key) is not None and not key.endswith(("_FILE", "_DIRECTORY"))
    return is_address or is_named_so


def _is_loopback(port: str) -> bool:
    return VARIABLE.sub(r"\1", str(port)).startswith("127.0.0.1:")


@every_service
def test_every_service_keeps_the_policy(name):
    """Unprivileged, read-only, limited, pinned, on the loopback address, without secrets in its environment."""
    assert violations(SERVICES[name]) == []


BAD: list[dict[str, Any]] = [
    {"read_only": False}, {"cap_drop": []}, {"cap_add": ["NET_ADMIN"]}, {"security_opt": []}, {"privileged": True},
    {"user": "0:0"},
    {"pid": "host"}, {"network_mode": "host"}, {"mem_limit": None}, {"image": "postgres:latest"}, {"image": "postgres"},
    {"ports": ["8000:8000"]}, {"ports": ["0.0.0.0:8000:8000"]}, {"volumes": ["/var/run/docker.sock:/var/run/docker.sock"]},
    {"environment": {"POSTGRES_PASSWORD": "x"}}, {"environment": ["DB=postgresql://me:x@db/y"]},
]  # fmt: skip


@pytest.mark.parametrize("change", BAD, ids=str)
def test_the_policy_notices(change):
    """Each rule, broken on a service that keeps them all, is named."""
    assert violations(SERVICES["api"] | change)


@every_service
def test_health_is_proved(name):
    """A service that stays has a health check, its own or its image's."""
    service = SERVICES[name]
    dockerfile = (DOCKER / "Dockerfile").read_text()
    target = service.get("build", {}).get("target", "")
    stage = re.search(rf"^FROM \S+ AS {target}$(.*?)(?=^FROM |\Z)", dockerfile, re.MULTILINE | re.DOTALL) if target else None
    has_health = "test" in service.get("healthcheck", {}) or (stage is not None and "HEALTHCHECK" in stage[1])
    assert has_health or name in WITHOUT_HEALTH


@every_service
def test_what_is_waited_for_is_healthy_or_done(name):
    """Order is by condition, never by luck."""
    waited = SERVICES[name].get("depends_on", {})
    assert all(wanted["condition"] in ("service_healthy", "service_completed_successfully") for wanted in waited.values())


def test_volumes_are_named_or_read_only():
    """Of the host's files a container may write none."""
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = VARIABLE.sub(r"\1", volume).split(":")[0]
            assert source in STACK["volumes"] or volume.endswith(":ro")


def test_the_database_has_no_way_out():
    """Its only network is internal, and no port leads to it."""
    assert SERVICES["db"]["networks"] == ["database"]
    assert STACK["networks"]["database"]["internal"] is True
    assert "ports" not in SERVICES["db"]


def test_the_bucket_is_reached_by_mlflow_alone():
    """Its network is internal and only MLflow is in it too; without the profile MLflow does not wait for it."""
    assert SERVICES["s3"]["networks"] == ["storage"]
    assert STACK["networks"]["storage"]["internal"] is True
    assert {name for name, service in SERVICES.items() if "storage" in service.get("networks", [])} == {"s3", "mlflow"}
    assert "ports" not in SERVICES["s3"]
    assert SERVICES["mlflow"]["depends_on"]["s3"]["required"] is False
    # MLflow's clients would otherwise be sent to the bucket itself, which they cannot reach.
    for name in ("api", "worker", "train", "bootstrap"):
        for direction in ("DOWNLOAD", "UPLOAD"):
            assert SERVICES[name]["environment"][f"MLFLOW_ENABLE_PROXY_MULTIPART_{direction}"] == "false"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_take_nothing_back(overlay):
    """They change services that are there, and touch neither hardening nor limits."""
    for name, change in read(overlay)["services"].items():
        assert name in SERVICES
        assert not {"read_only", "cap_drop", "cap_add", "security_opt", "privileged", "user", "mem_limit"} & set(change)
        assert violations(SERVICES[name] | {key: value for key, value in change.items() if key in ("environment", "image")}) == []


def test_the_auth_overlay_closes_what_is_open():
    """No request without a key, and no port to MLflow, which asks nobody."""
    services = read("compose.auth.yaml")["services"]
    assert services["api"]["environment"]["GRADCAST_OPEN"] == "never"
    assert services["mlflow"]["ports"] == []
    assert "!reset" in (DOCKER / "compose.auth.yaml").read_text()


def test_every_variable_is_documented():
    """What compose files read from the environment stands in .env.example, with its default."""
    example = (DOCKER / ".env.example").read_text()
    texts = "".join((DOCKER / name).read_text() for name in ("compose.yaml", *OVERLAYS))
    names = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", texts))
    assert {name for name in names if f"\n{name}=" not in example} == set()


def test_every_yaml_of_docker_is_known_here():
    """A new compose file falls under the policy by being named above."""
    composed = {path.name for path in DOCKER.glob("*.yaml")}
    assert composed == {"compose.yaml", *OVERLAYS}
