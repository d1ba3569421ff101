"""What a request costs in tokens: a rough estimate before the call, the provider's own count after it. Pure."""

from __future__ import annotations

from typing import Any

_CHARACTERS = 4  # to a token, in English: help.openai.com/en/articles/4936856; other scripts need more tokens
_PER_MESSAGE = 4  # tokens around the content of a chat message, by OpenAI's cookbook


def estimate(item: Any) -> int:
    """Return roughly how many tokens an item is: of a str, a chat message or a list of these; of anything else 0.

    Example:
        >>> estimate("What is the answer?"), estimate([{"role": "user", "content": "What is the answer?"}]), estimate(42)
        (5, 9, 0)
    """
    if isinstance(item, str):
        return -(-len(item) // _CHARACTERS)
    if isinstance(item, dict):
        content = item.get("content", item.get("text", item.get("messages", 0)))
        return estimate(content) + (_PER_MESSAGE if "role" in item else 0)
    if isinstance(item, list | tuple):
        return sum(estimate(part) for part in item)
    return 0


def used(result: Any) -> int | None:
    """Return the tokens that count for the limit, from the `usage` of an SDK's answer, or None if it has none.

    * OpenAI and what is like it: all of them, cached ones too (platform.openai.com/docs/guides/rate-limits).
    * Anthropic: input tokens and those written to the cache, not those read from it; output has a limit of its own
      (docs.anthropic.com/en/api/rate-limits).
    * Gemini: input tokens (ai.google.dev/gemini-api/docs/rate-limits).

    Example:
        >>> used({"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}})
        15
        >>> used({"usage": {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 90}})
        10
    """
    usage = _get(result, "usage")
    if usage is None:
        return _count(_get(_get(result, "usage_metadata"), "prompt_token_count"))
    total = _count(_get(usage, "total_tokens"))
    if total is not None:
        return total
    prompt = _count(_get(usage, "prompt_tokens"))
    if prompt is not None:
        return prompt + (_count(_get(usage, "completion_tokens")) or 0)
    read = _count(_get(usage, "input_tokens"))
    return None if read is None else read + (_count(_get(usage, "cache_creation_input_tokens")) or 0)


def _get(thing: Any, name: str) -> Any:
    try:
        return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)
    except Exception:  # noqa: BLE001  (an answer that cannot be read says nothing)
        return None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
