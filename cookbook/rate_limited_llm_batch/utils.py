"""One call to a language model: a mock that enforces a limit, OpenAI or Anthropic."""

import os
import random
import sys

from pocketflow_throttled import SimulatedAPI

PROVIDERS = ("mock", "openai", "anthropic")
MODELS = {"openai": "gpt-5.4-mini", "anthropic": "claude-haiku-4-5"}


class Answer(str):
    """A text that knows what it cost: the node reads `usage`, and corrects by it what it had estimated."""

    __slots__ = ("usage",)

    def __new__(cls, text, usage):
        answer = super().__new__(cls, text)
        answer.usage = usage
        return answer


class SetupError(Exception):
    """A key or a package is missing; the message says which and what to do."""


def make_mock(max_concurrent, max_per_window, window_seconds=60.0):
    """Return a simulated API that refuses what is over its limits and takes half a second or so for an answer."""
    chance = random.Random(7)
    return SimulatedAPI(
        max_concurrent=max_concurrent,
        max_per_window=max_per_window,
        window_seconds=window_seconds,
        latency=lambda _: chance.uniform(0.3, 0.7),
    )


def make_call_llm(provider, mock=None, limiter=None):
    """Return `call_llm(prompt)`, an async function, for a provider; SetupError says what is missing.

    The limiter, if given, observes the headers of every response: what the API says is left counts. Refusals need no code here:
    the SDKs' exceptions tell the node for how long to wait, or that no retry will help.
    """
    if provider == "mock":
        return lambda prompt: mock.call(prompt, reply=_mock_answer(prompt))
    _load_dotenv()
    variable = f"{provider.upper()}_API_KEY"
    if not os.environ.get(variable):
        raise SetupError(f"{variable} is not set: export it, put it into a .env file, or use --provider mock")
    try:
        return _openai(limiter) if provider == "openai" else _anthropic(limiter)
    except ImportError as error:
        raise SetupError(f"the package {error.name!r} is missing: pip install 'pocketflow-throttled[{provider}]'") from error


def _hooks(limiter):
    return {} if limiter is None else {"response": [limiter.observe_response]}


def _openai(limiter):
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient  # noqa: PLC0415  (optional)

    # The SDK's own retries would be calls that no limiter counts.
    client = AsyncOpenAI(max_retries=0, http_client=DefaultAsyncHttpxClient(event_hooks=_hooks(limiter)))

    async def call_llm(prompt):
        model = os.environ.get("OPENAI_MODEL", MODELS["openai"])
        answer = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}])
        choice = answer.choices[0]
        return _whole(choice.message.content, choice.finish_reason, answer.usage)

    return call_llm


def _anthropic(limiter):
    from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient  # noqa: PLC0415  (optional)

    client = AsyncAnthropic(max_retries=0, http_client=DefaultAsyncHttpxClient(event_hooks=_hooks(limiter)))

    async def call_llm(prompt):
        model = os.environ.get("ANTHROPIC_MODEL", MODELS["anthropic"])
        answer = await client.messages.create(model=model, max_tokens=4096, messages=[{"role": "user", "content": prompt}])
        text = "".join(block.text for block in answer.content if block.type == "text")
        return _whole(text, answer.stop_reason, answer.usage)

    return call_llm


def _whole(text, ended, usage):
    """Return the answer; ValueError if there is none, as the model declined, or only its beginning."""
    if not text or ended in ("length", "max_tokens"):
        raise ValueError(f"the answer is not whole: it has {len(text or '')} characters, and ended by {ended!r}")
    return Answer(text, usage)


def _mock_answer(prompt):
    language, _, document = prompt.partition("\n\n")
    return f"[mock: {language}] {document}"


def _load_dotenv():
    try:
        from dotenv import load_dotenv  # noqa: PLC0415  (optional)
    except ImportError:
        print("python-dotenv is not installed: .env is not read", file=sys.stderr)
        return
    load_dotenv(os.path.join(os.getcwd(), ".env"))  # noqa: PTH109, PTH118
