"""What Ray reads when it is imported."""

from __future__ import annotations

import os

from training.launching import LOOPBACK_INTERFACE

ADDRESS = "RAY_ADDRESS"
# How often Ray Train looks whether its workers live; no empty list of GPUs for workers without one; not a line of Ray's own on
# stdout, which `--json` needs clean.
_EVERYWHERE = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
# A cluster of this machine calls nobody, listens on the loopback interface alone (the name is Ray's), and starts no more
# processes than it needs.
_HERE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "GLOO_SOCKET_IFNAME": LOOPBACK_INTERFACE,
}


def cluster_address() -> str | None:
    """The cluster that the user names; None = one of this machine is to be started."""
    return os.environ.get(ADDRESS) or None


def prepare_environment() -> None:
    """Set what Ray reads; whoever sets one of these variables means it."""
    for name, value in (_EVERYWHERE if cluster_address() else _EVERYWHERE | _HERE).items():
        os.environ.setdefault(name, value)
