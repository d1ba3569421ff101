"""Presets: limits to start from, each with its source, its date and the model it holds for.

A provider's limits differ by account and model and change often. None publishes how many calls may run at once:
that follows from the rate by Little's law, calls at once = calls a second x seconds a call, with an answer of ten seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

_LATENCY = 10.0  # seconds: a few hundred tokens of output
_MOST = 100


@dataclass(frozen=True, slots=True)
class Source:
    """Where a preset comes from: a page, the date it was read, and the models it holds for. Empty for our own."""

    source: str = ""
    date: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class RateLimitConfig:
    """Settings of a throttled node; None: no limit.

    Attributes:
        max_concurrent: calls at once.
        max_per_minute: calls in any minute.
        description: for people.
        max_tokens_per_minute: tokens in any minute.
        max_burst: calls in any `max_burst / max_per_minute` minutes.
    """

    max_concurrent: int
    max_per_minute: int | None
    description: str = ""
    max_tokens_per_minute: int | None = None
    max_burst: int | None = None

    def to_dict(self) -> dict[str, int]:
        """Return the settings that are limits, without a key for None."""
        settings = {
            "max_concurrent": self.max_concurrent,
            "max_per_minute": self.max_per_minute,
            "max_tokens_per_minute": self.max_tokens_per_minute,
            "max_burst": self.max_burst,
        }
        return {name: value for name, value in settings.items() if value is not None}


@dataclass(frozen=True, slots=True)
class FlowRateLimitConfig:
    """Settings of a throttled flow; None: no limit.

    Attributes:
        max_concurrent_flows: instances at once.
        max_flows_per_minute: instances that start in any minute.
        description: for people.
    """

    max_concurrent_flows: int
    max_flows_per_minute: int | None
    description: str = ""

    def to_dict(self) -> dict[str, int]:
        """Return the settings that are limits, without a key for None."""
        settings = {"max_concurrent_flows": self.max_concurrent_flows, "max_flows_per_minute": self.max_flows_per_minute}
        return {name: value for name, value in settings.items() if value is not None}


def concurrency(per_minute: int) -> int:
    """Return the calls at once that a rate keeps busy, by Little's law, from 1 to 100.

    Example:
        >>> concurrency(50), concurrency(3), concurrency(30_000)
        (9, 1, 100)
    """
    return min(_MOST, max(1, math.ceil(per_minute / 60 * _LATENCY)))


_OPENAI = "platform.openai.com/docs/guides/rate-limits"
_ANTHROPIC = "docs.anthropic.com/en/api/rate-limits"
_OLD_CLAUDE = "Sonnet and Opus 4.x, superseded in 2026"
_NEW_CLAUDE = "Opus, Sonnet and Haiku 4.5 and later"
_GPT = "gpt-5.5 and gpt-6-sol class, before 2026-10"
_GOOGLE = "ai.google.dev/gemini-api/docs/rate-limits"
_COHERE = "docs.cohere.com/docs/rate-limits"
_MISTRAL = "docs.mistral.ai/deployment/ai-studio/tier"
_READ = "2026-11"

# name: (calls a minute, tokens a minute where the provider publishes them, source, date, model).
# Of Anthropic and Google these are input tokens.
_PROVIDERS: dict[str, tuple[int, int | None, str, str, str]] = {
    "openai_free": (3, None, _OPENAI, "older table", "no current model without credit"),
    "openai_tier1": (500, 500_000, _OPENAI, _READ, _GPT),
    "openai_tier2": (5_000, 1_000_000, _OPENAI, _READ, _GPT),
    "openai_tier3": (5_000, 2_000_000, _OPENAI, _READ, _GPT),
    "openai_tier4": (10_000, 4_000_000, _OPENAI, _READ, _GPT),
    "openai_tier5": (15_000, 40_000_000, _OPENAI, _READ, _GPT),
    "openai_build": (5_000, 1_000_000, _OPENAI, _READ, "gpt-6.1-sol, since 2026-10"),
    "openai_launch": (10_000, 4_000_000, _OPENAI, _READ, "gpt-6.1-sol, since 2026-10"),
    "openai_grow": (15_000, 40_000_000, _OPENAI, _READ, "gpt-6.1-sol, since 2026-10"),
    "anthropic_free": (5, None, _ANTHROPIC, "older evaluation tier", "Claude 3"),
    "anthropic_build_tier1": (50, 30_000, _ANTHROPIC, _READ, _OLD_CLAUDE),
    "anthropic_build_tier2": (1_000, 450_000, _ANTHROPIC, _READ, _OLD_CLAUDE),
    "anthropic_build_tier3": (2_000, 800_000, _ANTHROPIC, _READ, _OLD_CLAUDE),
    "anthropic_build_tier4": (4_000, 2_000_000, _ANTHROPIC, _READ, _OLD_CLAUDE),
    "anthropic_standard": (1_000, None, _ANTHROPIC, _READ, _OLD_CLAUDE),
    "anthropic_start": (1_000, 2_000_000, _ANTHROPIC, _READ, _NEW_CLAUDE),
    "anthropic_build": (5_000, 5_000_000, _ANTHROPIC, _READ, _NEW_CLAUDE),
    "anthropic_scale": (10_000, 10_000_000, _ANTHROPIC, _READ, _NEW_CLAUDE),
    "google_free": (15, 1_000_000, _GOOGLE, "2025-05", "Gemini 2.0 Flash; no longer published"),
    "google_pay_as_you_go": (1_000, 4_000_000, _GOOGLE, "2025-05", "Gemini 2.0 and 2.5 Flash, tier 1"),
    "cohere_trial": (20, None, _COHERE, _READ, "chat"),
    "cohere_production": (500, None, _COHERE, _READ, "chat"),
    "mistral_free": (60, 500_000, _MISTRAL, _READ, "all; enforced as 1 a second"),
    "groq_free": (30, 6_000, "console.groq.com/docs/rate-limits", _READ, "llama-3.x"),
    "openrouter_free": (20, None, "openrouter.ai/docs/api-reference/limits", _READ, ":free models"),
}

# Calls in a second, where that is what the provider counts. Others that may count so do not say it: refusals will.
_A_SECOND: dict[str, int] = {"mistral_free": 1, "mistral_standard": 5}

# name: (at once, a minute, description): no provider's, a choice of ours.
_OURS: dict[str, tuple[int, int | None, str]] = {
    "mistral_standard": (10, 300, "Mistral with a plan, 5 a second: a careful start, as its limits differ by account"),
    "huggingface_free": (2, 20, "Hugging Face without a plan: a careful start"),
    "huggingface_pro": (10, 200, "Hugging Face PRO: a careful start"),
    "conservative": (2, 20, "Careful with an API you do not know"),
    "moderate": (5, 60, "A fair start for most APIs"),
    "aggressive": (10, 200, "For an API that is known to allow it"),
    "unlimited_concurrent": (100, None, "Many at once, no limit a minute"),
    "scraping_polite": (1, 20, "One page at a time, 20 a minute"),
    "scraping_moderate": (3, 60, "60 pages a minute"),
    "scraping_aggressive": (10, 300, "300 pages a minute: ask first"),
}


def _configs() -> dict[str, RateLimitConfig]:
    provided = {}
    for name, (rate, tokens, source, date, model) in _PROVIDERS.items():
        kind = "input tokens" if source in (_ANTHROPIC, _GOOGLE) else "tokens"
        limits = f"{rate} requests" if tokens is None else f"{rate} requests and {tokens:,} {kind}"
        provided[name] = RateLimitConfig(
            concurrency(rate), rate, f"{limits} a minute: {model} ({source}, {date})", tokens, _A_SECOND.get(name)
        )
    return {**provided, **{name: RateLimitConfig(*values, max_burst=_A_SECOND.get(name)) for name, values in _OURS.items()}}


class _Preset:
    """A class attribute that is a new dict each time it is read, so that whoever changes one changes it for nobody else."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type[Presets | FlowPresets]) -> dict[str, Any]:
        return owner.get(self._name)


def _lookup(name: object, configs: dict[str, Any]) -> str:
    key = name.lower() if isinstance(name, str) else ""
    if key not in configs:
        raise KeyError(f"Unknown preset: {name!r}. Known: {', '.join(sorted(configs))}")
    return key


class Presets:
    """Settings of throttled nodes, each a new dict for `**`: to change one, change what was read, or `{**preset, ...}`.

    Example:
        >>> Presets.CONSERVATIVE
        {'max_concurrent': 2, 'max_per_minute': 20}
        >>> Presets.get("Moderate")["max_per_minute"]
        60
        >>> Presets.source("openai_tier1").date
        '2026-11'
    """

    CONFIGS: ClassVar[dict[str, RateLimitConfig]] = _configs()

    OPENAI_FREE: ClassVar[dict[str, Any]]
    OPENAI_TIER1: ClassVar[dict[str, Any]]
    OPENAI_TIER2: ClassVar[dict[str, Any]]
    OPENAI_TIER3: ClassVar[dict[str, Any]]
    OPENAI_TIER4: ClassVar[dict[str, Any]]
    OPENAI_TIER5: ClassVar[dict[str, Any]]
    OPENAI_BUILD: ClassVar[dict[str, Any]]
    OPENAI_LAUNCH: ClassVar[dict[str, Any]]
    OPENAI_GROW: ClassVar[dict[str, Any]]
    ANTHROPIC_FREE: ClassVar[dict[str, Any]]
    ANTHROPIC_BUILD_TIER1: ClassVar[dict[str, Any]]
    ANTHROPIC_BUILD_TIER2: ClassVar[dict[str, Any]]
    ANTHROPIC_BUILD_TIER3: ClassVar[dict[str, Any]]
    ANTHROPIC_BUILD_TIER4: ClassVar[dict[str, Any]]
    ANTHROPIC_STANDARD: ClassVar[dict[str, Any]]
    ANTHROPIC_START: ClassVar[dict[str, Any]]
    ANTHROPIC_BUILD: ClassVar[dict[str, Any]]
    ANTHROPIC_SCALE: ClassVar[dict[str, Any]]
    GOOGLE_FREE: ClassVar[dict[str, Any]]
    GOOGLE_PAY_AS_YOU_GO: ClassVar[dict[str, Any]]
    COHERE_TRIAL: ClassVar[dict[str, Any]]
    COHERE_PRODUCTION: ClassVar[dict[str, Any]]
    MISTRAL_FREE: ClassVar[dict[str, Any]]
    MISTRAL_STANDARD: ClassVar[dict[str, Any]]
    HUGGINGFACE_FREE: ClassVar[dict[str, Any]]
    HUGGINGFACE_PRO: ClassVar[dict[str, Any]]
    GROQ_FREE: ClassVar[dict[str, Any]]
    OPENROUTER_FREE: ClassVar[dict[str, Any]]
    CONSERVATIVE: ClassVar[dict[str, Any]]
    MODERATE: ClassVar[dict[str, Any]]
    AGGRESSIVE: ClassVar[dict[str, Any]]
    UNLIMITED_CONCURRENT: ClassVar[dict[str, Any]]
    SCRAPING_POLITE: ClassVar[dict[str, Any]]
    SCRAPING_MODERATE: ClassVar[dict[str, Any]]
    SCRAPING_AGGRESSIVE: ClassVar[dict[str, Any]]

    @classmethod
    def get(cls, name: str) -> dict[str, Any]:
        """Return a new dict of the settings, by name in any case. Raises KeyError that lists the known."""
        config = cls.CONFIGS[_lookup(name, cls.CONFIGS)]
        return {"max_concurrent": config.max_concurrent, "max_per_minute": None, **config.to_dict()}

    @classmethod
    def list_presets(cls) -> dict[str, str]:
        """Return what each preset is, by name."""
        return {name: config.description for name, config in cls.CONFIGS.items()}

    @classmethod
    def source(cls, name: str) -> Source:
        """Return where a preset comes from; empty for one that is no provider's."""
        key = _lookup(name, cls.CONFIGS)
        return Source(*_PROVIDERS[key][2:]) if key in _PROVIDERS else Source()


class FlowPresets:
    """Settings of throttled flows, each a dict for `**`; those named ADAPTIVE are for flows that adapt.

    Example:
        >>> FlowPresets.MODERATE
        {'max_concurrent_flows': 5, 'max_flows_per_minute': 60}
    """

    CONFIGS: ClassVar[dict[str, FlowRateLimitConfig]] = {
        **{name: FlowRateLimitConfig(*_OURS[name]) for name in ("conservative", "moderate", "aggressive")},
        "high_throughput": FlowRateLimitConfig(50, 1000, "Many short instances"),
        "batch_processing": FlowRateLimitConfig(10, 100, "A night's batch"),
        "data_pipeline": FlowRateLimitConfig(20, 300, "Records through a pipeline"),
        "realtime": FlowRateLimitConfig(10, None, "Answers at once, no limit a minute"),
        "heavy_processing": FlowRateLimitConfig(3, 30, "Few large instances"),
        "unlimited": FlowRateLimitConfig(*_OURS["unlimited_concurrent"]),
    }
    _ADAPTIVE: ClassVar[dict[str, tuple[int, int, int, str]]] = {
        "adaptive_conservative": (2, 1, 5, "Starts at 2, between 1 and 5"),
        "adaptive_moderate": (5, 1, 20, "Starts at 5, between 1 and 20"),
        "adaptive_aggressive": (10, 2, 50, "Starts at 10, between 2 and 50"),
    }

    CONSERVATIVE: ClassVar[dict[str, Any]]
    MODERATE: ClassVar[dict[str, Any]]
    AGGRESSIVE: ClassVar[dict[str, Any]]
    HIGH_THROUGHPUT: ClassVar[dict[str, Any]]
    BATCH_PROCESSING: ClassVar[dict[str, Any]]
    DATA_PIPELINE: ClassVar[dict[str, Any]]
    REALTIME: ClassVar[dict[str, Any]]
    HEAVY_PROCESSING: ClassVar[dict[str, Any]]
    UNLIMITED: ClassVar[dict[str, Any]]
    ADAPTIVE_CONSERVATIVE: ClassVar[dict[str, Any]]
    ADAPTIVE_MODERATE: ClassVar[dict[str, Any]]
    ADAPTIVE_AGGRESSIVE: ClassVar[dict[str, Any]]

    @classmethod
    def get(cls, name: str) -> dict[str, Any]:
        """Return a new dict of the settings, by name in any case. Raises KeyError that lists the known."""
        key = _lookup(name, {**cls.CONFIGS, **cls._ADAPTIVE})
        if key in cls._ADAPTIVE:
            initial, least, most, _ = cls._ADAPTIVE[key]
            return {"initial_concurrent_flows": initial, "min_concurrent_flows": least, "max_concurrent_flows": most}
        config = cls.CONFIGS[key]
        return {"max_concurrent_flows": config.max_concurrent_flows, "max_flows_per_minute": config.max_flows_per_minute}

    @classmethod
    def list_presets(cls) -> dict[str, str]:
        """Return what each preset is, by name."""
        fixed = {name: config.description for name, config in cls.CONFIGS.items()}
        return {**fixed, **{name: values[-1] for name, values in cls._ADAPTIVE.items()}}


for _presets in (Presets, FlowPresets):
    for _name in _presets.list_presets():
        setattr(_presets, _name.upper(), _Preset(_name))
