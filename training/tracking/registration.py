"""Puts a bundle into the registry: logged model, version, alias. Repeating a registration finds what the first try left."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

import models
import training
from training.tracking.dashboard import resolve_links
from training.tracking.environment import error_code, open_client, prepare_environment, summarize
from training.tracking.history import record_champion
from training.tracking.sender import RejectedError
from training.tracking.spool import SpoolEvent
from training.tracking.tracker import CHAMPION, RegisteredModel

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

EVENT_TAG, HEALTHY_TAG = "gradcast.registration", "gradcast.healthy"
MODEL_SCRIPT = Path(__file__).with_name("pyfunc_model.py")
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "safetensors", "torch")
_FORECASTING_PARTS = ("__init__.py", "config.py", "errors.py", "forecasting.py", "data")
_MAX_LOGGED_MODEL_TAG = 250


def register_bundle(uri: str, run_id: str, bundle: Path, event: SpoolEvent) -> RegisteredModel:
    """Register the bundle that an event carries.

    Args:
        uri: Normalized URI of the store.
        run_id: The run that trained it.
        bundle: Its directory in the spool.
        event: Name, alias, healthy, tags and note.

    Returns:
        The version, with the aliases it was given.
    """
    if not (bundle / "bundle.json").is_file():
        raise RejectedError("the directory holds no bundle.json")
    client = open_client(uri)
    name, is_healthy = str(event.payload["name"]), bool(event.payload["healthy"])
    note = resolve_links(str(event.payload["note"]), client.get_run(run_id).info.experiment_id, run_id)
    identity = f"{run_id}:{event.payload['identity']}"
    _ensure_registered_model(client, name)
    version = _find_version(client, name, identity)
    if version is None:
        model = _log_model(client, run_id, bundle, identity)
        tags = {str(key): str(value) for key, value in event.payload["tags"].items()}
        tags |= {EVENT_TAG: identity, HEALTHY_TAG: str(is_healthy).lower(), "mlflow.note.content": note}
        source = f"models:/{model.model_id}" if uri.startswith("http") else model.artifact_location
        version = client.create_model_version(
            name, source, run_id, tags=tags, description=note or None, model_id=model.model_id
        )
    number = int(version.version)
    aliases = {alias: int(target) for alias, target in (client.get_registered_model(name).aliases or {}).items()}
    alias = _choose_alias(client, name, number, str(event.payload["alias"]), aliases) if is_healthy else None
    if alias is not None:
        client.set_registered_model_alias(name, alias, str(number))
    if alias == CHAMPION:
        record_champion(client, name, number, aliases.get(CHAMPION))
    if note and (alias == CHAMPION or not client.get_registered_model(name).description):
        client.update_registered_model(name, note)
        client.set_registered_model_tag(name, "mlflow.note.content", note)
    pointing = client.get_model_version(name, str(number)).aliases or ()
    return RegisteredModel(name, number, f"models:/{name}/{number}", tuple(sorted(str(alias) for alias in pointing)))


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except Exception as error:
        if error_code(error) != "RESOURCE_ALREADY_EXISTS":
            raise


def all_versions(client: MlflowClient, name: str | None = None) -> list[ModelVersion]:
    """Every version of a name (None = of all names), newest first."""
    query = "" if name is None else f"name = '{name}'" if "'" not in name else f'name = "{name}"'
    versions: list[ModelVersion] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(query, max_results=200, page_token=token)
        versions += page
        token = page.token
        if not token:
            return sorted(versions, key=lambda version: -int(version.version))


def _find_version(client: MlflowClient, name: str, identity: str) -> ModelVersion | None:
    return next((v for v in all_versions(client, name) if v.tags.get(EVENT_TAG) == identity), None)


def _choose_alias(
    client: MlflowClient, name: str, version: int, later_alias: str, aliases: Mapping[str, int]
) -> str | None:
    """`champion` for a name's first healthy version, else the alias for later ones.

    "First" is decided by the version numbers that the registry hands out, not by who looks first: of two trainers that
    register at once both come to the same answer. A version that a person has promoted stays where it is.
    """
    if aliases.get(CHAMPION) == version or (CHAMPION in aliases and aliases.get(later_alias, 0) > version):
        return None
    if later_alias == CHAMPION:  # asked for by the user: the newest is to be served at once
        return CHAMPION
    if CHAMPION in aliases:
        return later_alias
    earlier = [v for v in all_versions(client, name) if int(v.version) < version and v.tags.get(HEALTHY_TAG) == "true"]
    return later_alias if earlier else CHAMPION


def _log_model(client: MlflowClient, run_id: str, bundle: Path, identity: str) -> LoggedModel:
    """Store the pyfunc once, as a logged model of the run; one that an interrupted try left unfinished is used again."""
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    experiment_id = run.info.experiment_id
    tag = identity[:_MAX_LOGGED_MODEL_TAG]
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    model = next((candidate for candidate in found if candidate.tags.get(EVENT_TAG) == tag), None)
    if model is None:
        model = client.create_logged_model(experiment_id, name="forecaster", source_run_id=run_id, tags={EVENT_TAG: tag})
    if str(model.status) != "READY":
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / "model"
            try:
                save_pyfunc(directory, bundle, run_id=run_id, model_id=model.model_id)
            except OSError:
                raise
            except Exception as error:  # nothing here depends on a server: it would fail again
                raise RejectedError(f"no MLflow model can be made of the bundle: {summarize(error)}") from error
            client.log_model_artifacts(model.model_id, str(directory))
        client.finalize_logged_model(model.model_id, "READY")
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    if model.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return model


def save_pyfunc(directory: Path, bundle: Path, run_id: str | None = None, model_id: str | None = None) -> None:
    """Write an MLflow model around a bundle: from code, with the project's modules beside it, nothing pickled.

    Args:
        directory: Where to; must not exist.
        bundle: The bundle's directory.
        run_id: Run that made it.
        model_id: Logged model it becomes.
    """
    prepare_environment()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about type hints in its own modules
        import mlflow.pyfunc
        from mlflow.models import Model

        from training.tracking import pyfunc_model

        manifest = orjson.loads((bundle / "bundle.json").read_bytes())
        # The artifact's folder is named after the directory it is copied from.
        source = Path(folder) / "bundle"
        shutil.copytree(bundle, source)
        mlflow.pyfunc.save_model(
            str(directory),
            python_model=str(MODEL_SCRIPT),
            artifacts={"bundle": str(source)},
            code_paths=_copy_code(Path(folder) / "code"),
            pip_requirements=pinned_requirements(),
            signature=pyfunc_model.build_signature(manifest),
            input_example=pyfunc_model.read_input_example(source, manifest),
            mlflow_model=Model(run_id=run_id, model_id=model_id),
        )
        _write_strict_json(directory)


def pinned_requirements() -> list[str]:
    """What a machine without this project needs, at the versions used here, so that MLflow need not guess."""
    pins = []
    for name in _REQUIREMENTS:
        version = importlib.metadata.version(name).partition("+")[0]  # +cpu builds are on no public index
        pins.append(f"{name}=={version}")
    return pins


def _copy_code(target: Path) -> list[str]:
    """Copy the source files a pyfunc imports: all of `models`, and of `training` what `forecasting` needs."""
    for package, parts in ((models, ("",)), (training, _FORECASTING_PARTS)):
        root = Path(next(iter(package.__path__)))
        for part in parts:
            path = root / part
            for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
                destination = target / root.name / source.relative_to(root)
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, destination)
    return [str(target / "models"), str(target / "training")]


def _write_strict_json(directory: Path) -> None:
    # MLflow writes a missing value as NaN, which no other JSON reader accepts.
    for name in ("input_example.json", "serving_input_example.json"):
        path = directory / name
        if path.is_file():
            path.write_bytes(orjson.dumps(json.loads(path.read_bytes())))


def version_summary(version: ModelVersion) -> Mapping[str, Any]:
    """Tags of a version without those this package keeps for itself."""
    own = {EVENT_TAG, HEALTHY_TAG, "mlflow.note.content"}
    return {key: value for key, value in version.tags.items() if key not in own}
