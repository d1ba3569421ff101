"""What every test has: a clean registry, and on request both of PocketFlow's sources."""

import gc
import random
from collections.abc import Iterator

import pocketflow
import pytest

from pocketflow_throttled import LimiterRegistry

from .newer_pocketflow import newer_exec


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage() -> None:
    """Let tests that collect garbage look at their own, not at every module of the SDKs anew."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _chance_is_the_same_in_every_run(request: pytest.FixtureRequest) -> None:
    """Let pauses and gaps, which are drawn from what all code shares, be the same ones for a test whatever runs before it."""
    random.seed(request.node.nodeid)


@pytest.fixture(autouse=True)
def _clean_registry() -> Iterator[None]:
    yield
    LimiterRegistry.reset()


@pytest.fixture(params=["pypi", "newer"])
def any_pocketflow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test on PyPI's PocketFlow and on its newer source."""
    if request.param == "newer":
        monkeypatch.setattr(pocketflow.AsyncNode, "_exec", newer_exec)
    return request.param
