"""Start a training from the weights of a registered version: its network, its columns, its standardisation."""

from __future__ import annotations

from collections.abc import Iterator

from models.bundle import Bundle, load_bundle
from models.forecaster import Forecaster
from training.config import ModelConfig, TrainingConfig, build_config
from training.errors import ConfigurationError, Problem
from training.tracking.download import download_bundle
from training.tracking.environment import default_cache_directory, resolve_uri
from training.tracking.registry import resolve

# What a network may be trained with anew: these shape the start or the output, not the weights.
_FREE = ("initialization", "forget_bias", "init_gain", "dropout", "conformal", "num_paths")
_ROLES = ("futr_exog", "hist_exog", "stat_exog")


def open_warm_start(config: TrainingConfig) -> tuple[TrainingConfig, Bundle]:
    """Fetch and verify the version that `fit.warm_start` names, and take over what its weights depend on.

    Args:
        config: As the user wrote it, with `fit.warm_start`.

    Returns:
        The configuration with the network and the columns of that version, which it names by number, and its bundle.

    Raises:
        ModelNotFoundError: If there is no such version.
        BundleError: If its bundle is damaged.
        ConfigurationError: If the configuration asks for another network, other columns or another step.
    """
    uri = resolve_uri(config.tracking)
    assert config.fit.warm_start is not None
    found = resolve(uri, config.fit.warm_start)
    bundle = load_bundle(download_bundle(uri, found, default_cache_directory()))
    return adopt(config, bundle, f"{found.name}/{found.version}"), bundle


def adopt(config: TrainingConfig, bundle: Bundle, reference: str) -> TrainingConfig:
    """The configuration with everything that the bundle's weights depend on.

    Args:
        config: As the user wrote it; what differs from both default and bundle is refused.
        bundle: Whose weights are taken.
        reference: The version, `name/number`.

    Raises:
        ConfigurationError: With every key that cannot be as it is.
    """
    problems = list(_conflicts(config, bundle, reference))
    if problems:
        raise ConfigurationError(problems)
    manifest, tree = bundle.manifest, config.model_dump(by_alias=True)
    network = manifest.network.model_dump()
    tree["model"] |= {key: network[key] for key in _network_keys(network) if key not in _FREE}
    tree["model"]["series_embedding"] = network["series_embedding"] or None
    tree["data"] |= {role: getattr(manifest.columns, role) for role in _ROLES}
    tree["data"] |= {"freq": manifest.freq}
    tree["data"]["season_length"] = config.data.season_length or manifest.season_length
    # The start is measured no more: it is replaced.
    tree["model"]["initialization"] = config.model.initialization or network.get("initialization", "torch")
    tree["fit"]["warm_start"] = reference
    return build_config(tree)


def load_weights(forecaster: Forecaster, bundle: Bundle) -> None:
    """Copy weights and standardisation; a conformal calibration belongs to the old weights and is left behind."""
    own = forecaster.state_dict()
    taken = {name: value for name, value in bundle.forecaster.state_dict().items() if not name.startswith("calibration.")}
    forecaster.load_state_dict(own | {name: value.to(own[name]) for name, value in taken.items()})


def _network_keys(network: dict[str, object]) -> list[str]:
    return [key for key in ModelConfig.model_fields if key in network]


def _conflicts(config: TrainingConfig, bundle: Bundle, reference: str) -> Iterator[Problem]:
    manifest, default = bundle.manifest, ModelConfig()
    network = manifest.network.model_dump()
    remedy = f"Leave it out: it is taken from {reference}."
    for key in _network_keys(network):
        asked = getattr(config.model, key)
        if key not in _FREE and asked not in (getattr(default, key), network[key]):
            yield Problem("warm_start_conflict", f"model.{key}", f"is {asked!r}, but {network[key]!r} in {reference}.", remedy)
    for role in _ROLES:
        asked, known = getattr(config.data, role), getattr(manifest.columns, role)
        if asked and asked != known:
            message = f"is {', '.join(asked)}, but {', '.join(known) or 'none'} in {reference}."
            yield Problem("warm_start_conflict", f"data.{role}", message, remedy)
    if config.data.freq not in (None, manifest.freq):
        message = f"is {config.data.freq}, but {manifest.freq} in {reference}."
        yield Problem("warm_start_conflict", "data.freq", message, remedy)
