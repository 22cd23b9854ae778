"""Who has been champion, kept as a tag of the registered model, so that a promotion can be taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel
    from mlflow.tracking import MlflowClient

HISTORY_TAG = "gradcast.champions"
MAX_HISTORY = 50


def read_champions(client: MlflowClient, name: str) -> list[int]:
    """Versions that have been champion, oldest first, the present one last."""
    return parse_champions(client.get_registered_model(name))


def parse_champions(model: RegisteredModel) -> list[int]:
    """The history that a registered model carries."""
    text = (model.tags or {}).get(HISTORY_TAG, "[]")
    try:
        return [int(version) for version in orjson.loads(text)]
    except (ValueError, TypeError):  # edited by hand
        return []


def write_champions(client: MlflowClient, name: str, versions: Sequence[int]) -> None:
    """Replace the history."""
    client.set_registered_model_tag(name, HISTORY_TAG, orjson.dumps(list(versions)[-MAX_HISTORY:]).decode())


def record_champion(client: MlflowClient, name: str, version: int, previous: int | None = None) -> None:
    """Note that `version` is champion now.

    Args:
        client: Client of the store.
        name: Registered name.
        version: The new champion.
        previous: The champion before, which may have been set elsewhere (in the dashboard).
    """
    versions = read_champions(client, name)
    for champion in (previous, version):
        if champion is not None and versions[-1:] != [champion]:
            versions.append(champion)
    write_champions(client, name, versions)
