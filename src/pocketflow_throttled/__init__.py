"""pocketflow-throttled: PocketFlow batches that fire as fast as the API allows and no faster, and lose nothing."""

from .adaptivity import Adaptive, Change
from .exceptions import RateLimitHit
from .flows import AdaptiveThrottledBatchFlow, ThrottledAsyncParallelBatchFlow
from .nodes import AdaptiveThrottledNode, ThrottledParallelBatchNode
from .permit import Permit
from .presets import FlowPresets, FlowRateLimitConfig, Presets, RateLimitConfig
from .rate_limiter import RateLimiter
from .registry import LimiterRegistry
from .simulation import SimulatedAPI
from .virtual_time import VirtualTimeLoop, run_virtual

__version__ = "0.3.0"

__all__ = [
    "Adaptive",
    "AdaptiveThrottledBatchFlow",
    "AdaptiveThrottledNode",
    "Change",
    "FlowPresets",
    "FlowRateLimitConfig",
    "LimiterRegistry",
    "Permit",
    "Presets",
    "RateLimitConfig",
    "RateLimitHit",
    "RateLimiter",
    "SimulatedAPI",
    "ThrottledAsyncParallelBatchFlow",
    "ThrottledParallelBatchNode",
    "VirtualTimeLoop",
    "run_virtual",
]
