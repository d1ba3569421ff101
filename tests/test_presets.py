"""What Presets and FlowPresets promise."""

import copy
import json
from typing import Any

import pytest

from pocketflow_throttled import (
    AdaptiveThrottledBatchFlow,
    AdaptiveThrottledNode,
    FlowPresets,
    Presets,
    RateLimitConfig,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
)
from pocketflow_throttled.presets import concurrency

BOTH = pytest.mark.parametrize("presets", [Presets, FlowPresets])


@pytest.mark.parametrize("name", list(Presets.list_presets()))
def test_every_node_preset_is_accepted_and_has_a_per_minute_key(name: str) -> None:
    preset = getattr(Presets, name.upper())
    assert preset == Presets.get(name.swapcase())
    node = ThrottledParallelBatchNode(**preset)
    assert (node.max_concurrent, node.max_per_minute) == (preset["max_concurrent"], preset["max_per_minute"])
    source = Presets.source(name)
    if source.source:
        assert source.date
        assert source.model
        assert source.source in Presets.list_presets()[name]


@pytest.mark.parametrize(
    ("name", "at_once", "per_minute"),
    [("CONSERVATIVE", 2, 20), ("MODERATE", 5, 60), ("AGGRESSIVE", 10, 200)],
)
def test_our_own_presets_have_the_values_they_are_known_by(name: str, at_once: int, per_minute: int) -> None:
    assert getattr(Presets, name) == {"max_concurrent": at_once, "max_per_minute": per_minute}
    assert getattr(FlowPresets, name) == {"max_concurrent_flows": at_once, "max_flows_per_minute": per_minute}


def test_a_providers_concurrency_follows_from_its_rate() -> None:
    assert Presets.OPENAI_TIER1["max_concurrent"] == 84  # 500 a minute, ten seconds each
    assert Presets.ANTHROPIC_BUILD_TIER1 == {"max_concurrent": 9, "max_per_minute": 50, "max_tokens_per_minute": 30_000}
    assert FlowPresets.REALTIME["max_flows_per_minute"] is None


def test_where_a_provider_counts_by_the_second_so_does_its_preset() -> None:
    spaced = {name: (config.max_burst, config.max_per_minute) for name, config in Presets.CONFIGS.items() if config.max_burst}
    assert spaced == {"mistral_free": (1, 60), "mistral_standard": (5, 300)}
    assert Presets.MISTRAL_FREE["max_burst"] == 1
    assert RateLimitConfig(**Presets.MISTRAL_FREE).to_dict() == Presets.MISTRAL_FREE
    assert ThrottledParallelBatchNode(**Presets.MISTRAL_FREE).limiter.max_burst == 1
    assert AdaptiveThrottledNode(**Presets.MISTRAL_STANDARD).limiter.max_burst == 5


@BOTH
def test_get_takes_a_name_in_any_case(presets: Any) -> None:
    for name in presets.list_presets():
        assert presets.get(name) == presets.get(name.upper()) == presets.get(name.title()) == getattr(presets, name.upper())


@BOTH
def test_nobody_can_change_a_preset_for_everybody(presets: Any) -> None:
    for name in presets.list_presets():
        before = dict(getattr(presets, name.upper()))
        for preset in (getattr(presets, name.upper()), presets.get(name)):
            preset["max_concurrent"] = 0
            preset.clear()
        assert getattr(presets, name.upper()) == presets.get(name) == before


def test_a_preset_that_was_read_is_the_readers_own() -> None:
    mine = Presets.CONSERVATIVE
    mine["max_concurrent"] = 1
    assert ThrottledParallelBatchNode(**mine).max_concurrent == 1
    assert Presets.CONSERVATIVE["max_concurrent"] == 2


@BOTH
def test_a_preset_is_a_dict_in_every_way(presets: Any) -> None:
    preset = presets.CONSERVATIVE
    same = {**preset}
    assert isinstance(preset, dict)
    assert preset == same == dict(preset) == preset.copy() == copy.deepcopy(preset) == json.loads(json.dumps(preset))
    assert repr(preset) == repr(same)
    assert preset | {"on_error": "raise"} == {**same, "on_error": "raise"}


@BOTH
def test_every_preset_is_described(presets: Any) -> None:
    descriptions = presets.list_presets()
    assert all(name == name.lower() and text for name, text in descriptions.items())


def test_each_providers_preset_tells_its_source_its_date_and_its_models() -> None:
    ours = {"conservative", "moderate", "aggressive", "unlimited_concurrent", "mistral_standard", "huggingface_free"}
    ours |= {"huggingface_pro", "scraping_polite", "scraping_moderate", "scraping_aggressive"}
    for name in Presets.list_presets():
        source = Presets.source(name.upper())
        assert bool(source.source and source.date and source.model) is (name not in ours)
    with pytest.raises(KeyError, match="Unknown preset: 'nope'"):
        Presets.source("nope")


def test_concurrency_is_what_keeps_a_rate_busy_at_ten_seconds_a_call() -> None:
    assert [concurrency(rate) for rate in (1, 6, 60, 500, 600, 10_000)] == [1, 1, 10, 84, 100, 100]


@pytest.mark.parametrize("name", list(FlowPresets.list_presets()))
def test_every_flow_preset_is_accepted_by_the_flow_it_is_for(name: str) -> None:
    preset = FlowPresets.get(name)
    cls = AdaptiveThrottledBatchFlow if name.startswith("adaptive_") else ThrottledAsyncParallelBatchFlow
    flow = cls(**preset)
    assert {key: getattr(flow, key) for key in preset} == preset


@BOTH
@pytest.mark.parametrize("name", ["nope", "", None, 5, ["moderate"]])
def test_an_unknown_preset_lists_the_known(presets: Any, name: Any) -> None:
    with pytest.raises(KeyError) as caught:
        presets.get(name)
    assert f"Unknown preset: {name!r}. Known: " in caught.value.args[0]
    assert all(known in caught.value.args[0] for known in presets.list_presets())
