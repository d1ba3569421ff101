"""What a request costs in tokens: a rough estimate before the call, the provider's own count after it. Pure."""

from __future__ import annotations

from typing import Any

from .carried import told_by

_CHARACTERS = 4  # to a token, in English: help.openai.com/en/articles/4936856; other scripts need more tokens
_PER_MESSAGE = 4  # tokens around the content of a chat message, by OpenAI's cookbook
_DEEPEST = 50  # parts of parts of an item that are read: the messages of an agent that calls agents are hardly a dozen deep


def estimate(item: Any) -> int:
    """Return roughly how many tokens an item is: of a str, a chat message or a list of these; of anything else 0.

    Never raises, whatever the item is: what holds itself is counted once in itself, and what cannot be read is nothing.

    Example:
        >>> estimate("What is the answer?"), estimate([{"role": "user", "content": "What is the answer?"}]), estimate(42)
        (5, 9, 0)
    """
    try:
        return _estimate(item, _DEEPEST, {})
    except Exception:  # noqa: BLE001  (an item that cannot be read tells nothing)
        return 0


def _estimate(item: Any, depth: int, known: dict[int, int]) -> int:
    if isinstance(item, str):
        return -(-len(item) // _CHARACTERS)
    if not depth or not isinstance(item, dict | list | tuple):
        return 0
    if id(item) not in known:  # else it holds itself, or stands in many places, which must not take as many times as long
        known[id(item)] = 0
        if isinstance(item, dict):
            content = item.get("content", item.get("text", item.get("messages", 0)))
            tokens = _estimate(content, depth - 1, known) + (_PER_MESSAGE if "role" in item else 0)
        else:
            tokens = sum(_estimate(part, depth - 1, known) for part in item)
        known[id(item)] = tokens
    return known[id(item)]


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
    usage = told_by(result, "usage")
    if usage is None:
        return _count(told_by(told_by(result, "usage_metadata"), "prompt_token_count"))
    total = _count(told_by(usage, "total_tokens"))
    if total is not None:
        return total
    prompt = _count(told_by(usage, "prompt_tokens"))
    if prompt is not None:
        return prompt + (_count(told_by(usage, "completion_tokens")) or 0)
    read = _count(told_by(usage, "input_tokens"))
    return None if read is None else read + (_count(told_by(usage, "cache_creation_input_tokens")) or 0)


def written(result: Any) -> int | None:
    """Return the tokens of the answer itself, from the `usage` of an SDK's answer, or None if it has none.

    Example:
        >>> written({"usage": {"input_tokens": 10, "output_tokens": 5}})
        5
    """
    usage = told_by(result, "usage")
    tokens = _count(told_by(usage, "output_tokens"))
    return _count(told_by(usage, "completion_tokens")) if tokens is None else tokens  # as litellm passes it on


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
