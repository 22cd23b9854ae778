"""The gate before `champion`: a version takes its place only if it is healthy and beats what it replaces on one backtest.

The same rules serve the command line, the jobs and the web page. Overriding them takes a reason, which is kept.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from training.errors import ConfigurationError, Problem, PromotionRefusedError
from training.tracking import registry
from training.tracking.download import MANIFEST, download_bundle
from training.tracking.environment import normalize_uri, open_client, translated_errors
from training.tracking.references import ResolvedModel
from training.tracking.tracker import CHAMPION

logger = logging.getLogger(__name__)

PROMOTION_TAG = "gradcast.promotion"
MetricName = Literal["mase", "mae", "rmse", "rmsse", "smape", "wql", "crps"]
METRICS: tuple[MetricName, ...] = ("mase", "mae", "rmse", "rmsse", "smape", "wql", "crps")
BASELINE = "seasonal_naive"
# Equal windows of equal data give equal baseline errors; only the last digits may differ between machines.
SAME_ERROR = 1e-6
MAX_REASON = 500

Scores = Mapping[str, float | None]


@dataclass(frozen=True)
class PromotionPolicy:
    """What the gate asks for.

    Attributes:
        metric: Error that is compared; `mae` where a version has none of it.
        min_improvement: Share by which a version must be better than the champion.
    """

    metric: MetricName = "mase"
    min_improvement: float = 0.0


@dataclass(frozen=True)
class Contender:
    """A version as the gate sees it.

    Attributes:
        version: Its number.
        verdict: Of its gradients.
        horizon: Steps it forecasts.
        metrics: Errors by `part/metric`.
        baselines: The same of every baseline, on the same windows.
    """

    version: int
    verdict: str
    horizon: int
    metrics: Scores
    baselines: Mapping[str, Scores]


@dataclass(frozen=True)
class Rule:
    """One rule and whether it is met.

    Attributes:
        is_met: Whether it is.
        sentence: For the user.
    """

    is_met: bool
    sentence: str


@dataclass(frozen=True)
class Decision:
    """What the gate says of a version.

    Attributes:
        name: Registered name.
        version: The version.
        champion: The champion it would replace; None if there is none.
        compared_by: Part and metric; None if the version was not scored.
        rules: Every rule, those that are not met first.
        override: Why it was promoted against the rules.
        is_promoted: Whether it has become champion.
    """

    name: str
    version: int
    champion: int | None
    compared_by: str | None
    rules: tuple[Rule, ...]
    override: str | None = None
    is_promoted: bool = False

    @property
    def is_allowed(self) -> bool:
        """Whether every rule is met."""
        return all(rule.is_met for rule in self.rules)

    @property
    def reasons(self) -> list[str]:
        """The rules as sentences, those that are not met first."""
        return [rule.sentence for rule in sorted(self.rules, key=lambda rule: rule.is_met)]

    def to_dict(self) -> dict[str, Any]:
        """The decision as JSON content."""
        return {
            "is_allowed": self.is_allowed, "is_promoted": self.is_promoted, "reasons": self.reasons,
            "compared_by": self.compared_by, "version": self.version, "champion": self.champion, "override": self.override,
        }  # fmt: skip


@dataclass(frozen=True)
class Gate:
    """Decides about versions of one registry.

    Attributes:
        uri: The store.
        cache_directory: Where bundles are downloaded to.
        policy: What is asked for.
        rescore: Scores of the champion on the challenger's backtest, for versions that were scored on different windows;
            None where the data is not at hand.
    """

    uri: str
    cache_directory: Path
    policy: PromotionPolicy = field(default_factory=PromotionPolicy)
    rescore: Callable[[ResolvedModel, ResolvedModel], tuple[Scores, Mapping[str, Scores]]] | None = None

    def decide(self, name: str, version: int) -> Decision:
        """Judge a version.

        Raises:
            ModelNotFoundError: If there is no such version.
            BundleError: If one of the two is no bundle.
            TrackingError: If the store does not answer.
        """
        entry = registry.show_model(self.uri, name)
        target = registry.resolve(self.uri, f"{entry.name}/{version}")
        number = entry.aliases.get(CHAMPION)
        challenger = self._contender(target)
        if number is None or number == version:
            return judge(entry.name, challenger, None, self.policy, is_champion=number == version)
        present = registry.resolve(self.uri, f"{entry.name}/{number}")
        champion = self._contender(present)
        key = choose_key(challenger, self.policy)
        if key is not None and self.rescore is not None and not is_same_backtest(challenger, champion, key):
            metrics, baselines = self.rescore(target, present)
            champion = Contender(number, champion.verdict, champion.horizon, metrics, baselines)
        return judge(entry.name, challenger, champion, self.policy)

    def promote(self, name: str, version: int, override: str | None = None) -> Decision:
        """Make a version champion if the rules allow it, or if somebody overrides them with a reason.

        Raises:
            PromotionRefusedError: With the decision.
            ConfigurationError: If the reason is none.
            ModelNotFoundError: If there is no such version.
            TrackingError: If the store does not answer.
        """
        if override is not None and not 3 <= len(override.strip()) <= MAX_REASON:
            message = f"must give a reason of 3 to {MAX_REASON} characters; it is kept with the version."
            raise ConfigurationError([Problem("override_reason", "--override", message)])
        decision = self.decide(name, version)
        if not decision.is_allowed and override is None:
            raise PromotionRefusedError(decision)
        used = override.strip() if override is not None and not decision.is_allowed else None
        decision = Decision(
            decision.name, version, decision.champion, decision.compared_by, decision.rules, used, is_promoted=True
        )
        registry.promote(self.uri, decision.name, version, CHAMPION)
        self._record(decision)
        return decision

    def _contender(self, version: ResolvedModel) -> Contender:
        directory = download_bundle(self.uri, version, self.cache_directory)
        manifest = orjson.loads((directory / MANIFEST).read_bytes())
        verdict = str(manifest.get("gradient", {}).get("verdict", "unknown"))
        horizon = int(manifest["network"]["horizon"])
        return Contender(version.version, verdict, horizon, manifest.get("metrics", {}), manifest.get("baselines", {}))

    def _record(self, decision: Decision) -> None:
        """Keep why the version is champion, with the version itself."""
        if decision.override is not None:
            logger.warning("%s version %d promoted against the gate: %s", decision.name, decision.version, decision.override)
        record = decision.to_dict() | {"at": datetime.now(UTC).isoformat(timespec="seconds")}
        with translated_errors(self.uri, f"model {decision.name!r}"):
            client = open_client(normalize_uri(self.uri))
            client.set_model_version_tag(decision.name, str(decision.version), PROMOTION_TAG, orjson.dumps(record).decode())


def judge(
    name: str, challenger: Contender, champion: Contender | None, policy: PromotionPolicy, is_champion: bool = False
) -> Decision:
    """Apply the rules.

    Args:
        name: Registered name.
        challenger: The version in question.
        champion: The one it would replace; None if there is none.
        policy: What is asked for.
        is_champion: Whether the version in question is champion already.
    """
    key = choose_key(challenger, policy)
    verdict = challenger.verdict.replace("_", " ")
    rules = [Rule(challenger.verdict == "healthy", f"The verdict on its gradients is {verdict}.")]
    if key is None:
        rules.append(Rule(False, "It was never scored on a backtest."))
    else:
        rules.append(_beats_baseline(challenger, key))
        if is_champion:
            rules.append(Rule(True, "It is the champion already."))
        elif champion is None:
            rules.append(Rule(True, "There is no champion yet."))
        else:
            rules.append(_beats_champion(challenger, champion, key, policy))
    number = challenger.version if is_champion else champion.version if champion is not None else None
    return Decision(name, challenger.version, number, key, tuple(rules))


def choose_key(challenger: Contender, policy: PromotionPolicy) -> str | None:
    """What is compared: the test part where there is one, the policy's metric where it is defined."""
    keys = [f"{part}/{metric}" for part in ("test", "val") for metric in dict.fromkeys((policy.metric, "mae"))]
    return next((key for key in keys if _number(challenger.metrics, key) is not None), None)


def is_same_backtest(first: Contender, second: Contender, key: str) -> bool:
    """Whether two versions were scored on the same windows: then the same baselines made the same errors there."""
    if first.horizon != second.horizon:
        return False
    part = key.partition("/")[0]
    names = [name for name in ("naive", BASELINE) if name in first.baselines or name in second.baselines]
    pairs = [
        (_number(first.baselines.get(name, {}), f"{part}/{metric}"), _number(second.baselines.get(name, {}), f"{part}/{metric}"))
        for name in names
        for metric in ("mae", "rmse")
    ]  # fmt: skip
    return bool(pairs) and all(
        a is not None and b is not None and math.isclose(a, b, rel_tol=SAME_ERROR) for a, b in pairs
    )


def _beats_baseline(challenger: Contender, key: str) -> Rule:
    own, baseline = _number(challenger.metrics, key), _number(challenger.baselines.get(BASELINE, {}), key)
    assert own is not None
    if baseline is None:
        return Rule(False, f"Repeating the last season was not scored by {key}.")
    word = "better" if own < baseline else "not better"
    return Rule(own < baseline, f"It is {word} than repeating the last season: {key} {own:.4g} against {baseline:.4g}.")


def _beats_champion(challenger: Contender, champion: Contender, key: str, policy: PromotionPolicy) -> Rule:
    who = f"champion, version {champion.version}"
    if challenger.horizon != champion.horizon:
        horizons = f"it forecasts {challenger.horizon} steps, the {who}, {champion.horizon}"
        return Rule(False, f"The two cannot be compared: {horizons}.")
    own, other = _number(challenger.metrics, key), _number(champion.metrics, key)
    if own is None or other is None or not is_same_backtest(challenger, champion, key):
        remedy = "Give the data, so that both are scored on it: gradcast models promote --data FILE."
        return Rule(False, f"The two were scored on different windows. {remedy}")
    is_better = own < other * (1.0 - policy.min_improvement) if policy.min_improvement else own < other
    word = "better" if is_better else "not better"
    margin = f" by at least {policy.min_improvement:.1%}" if policy.min_improvement else ""
    sentence = f"It is {word} than the {who}{margin}: {key} {own:.4g} against {other:.4g}, on the same windows."
    return Rule(is_better, sentence)


def _number(scores: Scores, key: str) -> float | None:
    value = scores.get(key)
    return float(value) if value is not None and math.isfinite(value) else None
