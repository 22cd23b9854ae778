"""`GET /models`, `GET /models/{name}`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from app.dependencies import catalog_of
from app.schemas.models import ColumnsBody, ModelBody, ModelDetail, ModelList, VersionBody
from app.schemas.problem import build_problem_docs
from app.services.catalog import Catalog
from app.services.loading import LoadedModel
from app.services.sources import ModelListing, ModelVersion
from models.bundle import BundleManifest
from training.errors import ModelNotFoundError

router = APIRouter(tags=["models"])


@router.get("/models", summary="List models")
async def list_models(catalog: Annotated[Catalog, Depends(catalog_of)]) -> ModelList:
    """Names, versions, aliases, verdict, horizon, context_length and columns of every model."""
    bodies = [ModelBody(**_describe(catalog, listing)) for listing in catalog.listings]
    return ModelList(models=bodies, default_model=catalog.default_name)


@router.get("/models/{name}", summary="Show a model", responses=build_problem_docs("model_not_found"))
async def show_model(name: str, catalog: Annotated[Catalog, Depends(catalog_of)]) -> ModelDetail:
    """One model with its backtest beside the baselines."""
    listing = next((listing for listing in catalog.listings if listing.name == name), None)
    if listing is None:
        raise ModelNotFoundError(f"model {name[:64]!r}", "one that is served", "unknown", "See GET /models.")
    loaded = catalog.loaded.get(name)
    manifest = loaded.manifest if loaded is not None else None
    return ModelDetail(
        **_describe(catalog, listing),
        metrics=manifest.metrics if manifest else {},
        baselines=manifest.baselines if manifest else {},
        data_fingerprint=manifest.data_fingerprint if manifest else None,
        versions_of=manifest.versions if manifest else {},
    )


def _describe(catalog: Catalog, listing: ModelListing) -> dict[str, object]:
    loaded = catalog.loaded.get(listing.name)
    return {
        "name": listing.name,
        "is_ready": loaded is not None,
        "version": loaded.version.version if loaded is not None else None,
        "aliases": {alias: version.version for version in listing.versions for alias in version.aliases},
        "last_error": catalog.last_error(listing.name),
        "versions": [_version_body(version, loaded) for version in listing.versions],
        **_describe_loaded(loaded),
    }


def _describe_loaded(loaded: LoadedModel | None) -> dict[str, object]:
    manifest = loaded.manifest if loaded is not None else None
    network = manifest.network if manifest is not None else None
    return {
        "verdict": loaded.verdict if loaded is not None else None,
        "reach_steps": loaded.reach_steps if loaded is not None else None,
        "horizon": network.horizon if network else None,
        "context_length": network.context_length if network else None,
        "architecture": network.architecture if network else None,
        "quantile_levels": list(network.output_levels) if network else None,
        "freq": manifest.freq if manifest else None,
        "season_length": manifest.season_length if manifest else None,
        "time_kind": manifest.time_kind if manifest else None,
        "columns": _columns_body(manifest) if manifest else None,
        "num_series": manifest.num_series if manifest else None,
        "has_context": loaded is not None and len(loaded.context) > 0,
        "trained_until": manifest.trained_until if manifest else None,
    }


def _columns_body(manifest: BundleManifest) -> ColumnsBody:
    return ColumnsBody(target=manifest.target, **manifest.columns.model_dump(mode="json", exclude={"series"}))


def _version_body(version: ModelVersion, loaded: LoadedModel | None) -> VersionBody:
    is_loaded = loaded is not None and loaded.version.version == version.version
    verdict = loaded.verdict if is_loaded and loaded is not None else version.tags.get("gradient.verdict")
    return VersionBody(
        version=version.version,
        aliases=sorted(version.aliases),
        run_id=version.run_id,
        verdict=verdict,
        is_loaded=is_loaded,
    )
