"""What signals and headers read: every provider's dialect, and nothing that raises or waits for ever."""

import asyncio
import email.message
import json
import math
import time
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pocketflow_throttled import AdaptiveThrottledNode, RateLimitHit, SimulatedAPI, ThrottledParallelBatchNode, run_virtual
from pocketflow_throttled.headers import Quota, lowered, read_quotas
from pocketflow_throttled.headers import retry_after as header_wait
from pocketflow_throttled.signals import Refusal, headers_of, is_rate_limit_error, read_error, retry_after
from pocketflow_throttled.told_times import parse_wait

from .test_nodes import Batch, now, run


def sdk_error(sdk: Any, kind: str, status: int, body: Any = None, headers: dict[str, str] | None = None) -> Exception:
    """Return an error as the openai or anthropic SDK raises it."""
    client = httpx2 if "httpx2" in str(sdk.APIStatusError.__init__.__annotations__.get("response", "")) else None
    for http in (client, httpx2, httpx):
        if http is None:
            continue
        request = http.Request("POST", "https://api.example/v1")
        response = http.Response(status, headers=headers or {}, request=request, json=body or {})
        break
    message = f"Error code: {status} - {body}"
    return getattr(sdk, kind)(message, response=response, body=(body or {}).get("error", body))


class ClientError(Exception):
    """google-genai's."""

    def __init__(self, code: int, body: dict[str, Any], response: Any = None) -> None:
        error = body.get("error", {})
        self.code, self.status, self.message = code, error.get("status"), error.get("message")
        self.details, self.response = body, response
        super().__init__(f"{code} {self.status}. {body}")


class SDKError(Exception):
    """mistralai's."""

    def __init__(self, message: str, status_code: int, headers: Any) -> None:
        super().__init__(message)
        self.status_code, self.headers = status_code, headers


class TooManyRequestsError(Exception):
    """cohere's."""

    def __init__(self, headers: Any = None) -> None:
        super().__init__("headers: None, status_code: 429, body: too many tokens")
        self.status_code, self.headers = 429, headers


class RateLimitError(Exception):
    """litellm's, and others' that say no more than their name."""


class VoyageError(Exception):
    """voyageai's."""

    def __init__(self, message: str, http_status: int, headers: dict[str, str]) -> None:
        super().__init__(message)
        self.http_status, self.headers = http_status, headers


def gemini(quota: str = "GenerateRequestsPerMinutePerProjectPerModel", delay: str | None = "53s", extra: str = "") -> ClientError:
    details: list[dict[str, Any]] = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]},
    ]
    if delay:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    message = f"You exceeded your current quota. {extra}"
    return ClientError(429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": message, "details": details}})


def wrapped(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("call failed") from cause
    except RuntimeError as outer:
        return outer


REFUSED: list[tuple[Exception, float | None]] = [
    (sdk_error(openai, "RateLimitError", 429, headers={"retry-after": "7"}), 7.0),
    (sdk_error(openai, "RateLimitError", 429, headers={"retry-after": "7", "retry-after-ms": "6500"}), 6.5),
    (sdk_error(openai, "RateLimitError", 429, {"error": {"code": "slow_down", "message": "slow"}}), None),
    (sdk_error(openai, "RateLimitError", 429, {"error": {"message": "Please try again in 665ms."}}), 0.665),
    (sdk_error(openai, "RateLimitError", 429, {"error": {"message": "Please try again in 6m0s."}}), 360.0),
    (sdk_error(openai, "RateLimitError", 429, {"error": {"message": "Please try again in 20 seconds."}}), 20.0),
    (sdk_error(openai, "RateLimitError", 429, {"error": {"message": "Please wait 2 minutes and 5 seconds"}}), 125.0),
    (sdk_error(openai, "RateLimitError", 429, {"error": {"message": "Retry after: 500 milliseconds"}}), 0.5),
    (sdk_error(openai, "RateLimitError", 429, {"message": "Too many", "retryAfter": 9}), 9.0),
    (
        sdk_error(
            openai,
            "RateLimitError",
            429,
            headers={
                "x-ratelimit-remaining-requests": "10",
                "x-ratelimit-reset-requests": "1h",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "12.5s",
            },
        ),
        12.5,
    ),
    (sdk_error(anthropic, "RateLimitError", 429, {"error": {"type": "rate_limit_error"}}, {"retry-after": "2"}), 2.0),
    (sdk_error(anthropic, "RateLimitError", 429, {"error": {"error_code": "ramp_limit_exceeded"}}), None),
    (sdk_error(anthropic, "APIStatusError", 529, {"error": {"type": "overloaded_error"}}), None),
    (sdk_error(anthropic, "APIStatusError", 200, {"error": {"type": "overloaded_error"}}), None),
    (sdk_error(openai, "InternalServerError", 503, headers={"Retry-After": "4"}), 4.0),
    (sdk_error(openai, "InternalServerError", 500, {"error": {"message": "AnthropicError overloaded_error"}}), None),
    (sdk_error(openai, "APIStatusError", 402, {"error": {"code": "in_flight_budget_exhausted"}}, {"retry-after": "9"}), 9.0),
    (gemini(), 53.0),
    (gemini(delay="57.238747106s"), 57.238747106),
    (gemini(delay=None), None),
    (SDKError("API error occurred: Status 429", 429, httpx.Headers({"Retry-After": "1"})), 1.0),
    (SDKError("API error occurred", 429, {"x-ratelimit-limit-req-minute": "60"}), None),
    (TooManyRequestsError(), None),
    (TooManyRequestsError({"retry-after": "3"}), 3.0),
    (RateLimitError("no"), None),
    *[
        (type(name, (Exception,), {})("no"), None)
        for name in (
            "ModelRateLimitError",
            "RateLimitExceeded",
            "RateLimitException",
            "TooManyRequestsException",
            "ThrottledError",
        )
    ],
    (VoyageError("slow down", 429, {"retry-after": "3"}), 3.0),
    (VoyageError("overloaded", 503, {"retry-after": "3"}), 3.0),
    (RateLimitHit("slow down", retry_after=2.5), 2.5),
    (Exception("429 Too Many Requests"), None),
    (Exception("API quota exceeded"), None),
    (Exception("Rate limit reached, retry after 3s"), 3.0),
    (Exception("Error code: 429"), None),
    (Exception("HTTP 429"), None),
    (ValueError("too many requests"), None),
    (httpx.HTTPStatusError("no", request=httpx.Request("GET", "http://x"), response=httpx.Response(429)), None),
]


@pytest.mark.parametrize(("error", "wait"), REFUSED, ids=lambda value: f"{value!r:.60}")
def test_a_refusal_is_known_in_every_dialect_with_its_wait(error: Exception, wait: float | None) -> None:
    for exc in (error, wrapped(error)):
        refusal = read_error(exc)
        assert refusal is not None
        assert not refusal.final
        assert refusal.retry_after == wait == retry_after(exc)


NOT_REFUSED: list[BaseException] = [
    Exception("order 1429"),
    Exception("item 4290 not found"),
    Exception("429 items were read"),
    Exception("the rate was limited by nothing"),
    ValueError("bad"),
    sdk_error(openai, "BadRequestError", 400, {"error": {"message": "rate limit must be a number"}}),
    sdk_error(openai, "AuthenticationError", 401, {"error": {"message": "too many requests with this key"}}),
    sdk_error(openai, "InternalServerError", 500, {"error": {"message": "rate limit service down"}}),
    sdk_error(openai, "InternalServerError", 503),
    sdk_error(openai, "APIStatusError", 402, {"error": {"message": "pay"}}),
    sdk_error(openai, "APIStatusError", 413, {"error": {"message": "payload too large"}}),
    openai.APITimeoutError(request=httpx2.Request("POST", "https://x")),
    TimeoutError(),
    KeyError("model-429"),
    KeyError("rate_limit"),
    AttributeError("'Config' object has no attribute 'rate_limit'"),
    TypeError("call() got an unexpected keyword argument 'rate_limit'"),
    VoyageError("rate limit exceeded", 400, {}),
    json.JSONDecodeError("429", "Rate limit exceeded", 0),
    type("ScannerError", (type("YAMLError", (Exception,), {}),), {})('in "<unicode string>": "429: rate limit exceeded"'),
    type("ValidationError", (ValueError,), {})("input_value='too many requests'"),
    type("OutputParserException", (ValueError,), {})("could not parse: rate limit exceeded"),
    type("RateLimitConfigError", (Exception,), {})("no"),
]


@pytest.mark.parametrize(
    "text",
    [
        "Got 429",
        "got a 429 from the server",
        "received 429 status",
        "returned 429",
        "request failed (429)",
        "API error [429]: slow down",
        "[429] slow down",
        "server responded with 429",
        "call failed: <Response [429]>",
        "statusCode=429",
        "response.status == 429",
        '{"error": {"code": 429, "message": "slow"}}',
        "{'status': '429', 'error': 'slow'}",
        "throttled",
        "Request was throttled. Expected available in 5 seconds.",
        "your requests are being throttled",
        "Rate exceeded",
        "ThrottledException: Rate exceeded",
        "An error occurred when calling InvokeModel: Rate exceeded.",
        "quota has been exceeded",
        "Quota was exceeded",
        "You exceeded your current quota",
        "server is busy, retry after 3s",
        "Error code: 529 - {'type': 'error', 'error': {'type': 'overloaded_error', 'message': 'Overloaded'}}",
        "expected status 200, got 429",
        "Expected 200 but received 429",
        "Unexpected status code 429",
        "expected an answer, got 429",
        "429: slow down",
        "failed with code 429",
        "code 429",
        "HTTP status code: 429",
        "expected code 0, got 429",
        "Expected status code 302, got 429",
        "expected 2 or 200, got 429",
        "expected 200 rows, got 429",
        "Expected response within 5 seconds, got 429",
        "API returned code 429",
        "request failed code=429",
        "got 429 and gave up after 3 tries",
        "received 429 in response to POST /v1",
        "429 came back",
        "429 out of credits",
        "(429) Out of quota",
        "expected 401, got 429",
        "Expected 5 chunks, received 429 from server",
    ],
)
def test_a_message_that_says_so_is_a_refusal(text: str) -> None:
    assert is_rate_limit_error(Exception(text))


@pytest.mark.parametrize(
    "text",
    [
        "got 429 results",
        "received 429 items of 1429",
        "got 4290",
        "[429] items were read",
        '{"code": "4290"}',
        "forgot 4291",
        "order 1429 failed",
        "page (429)",
        "No module named 'pocketflow_throttled'",
        "use a throttled class that does not adapt",
        "unthrottled",
        "the error rate exceeded 5 percent",
        "heart rate exceeded",
        "Rate exceeded the threshold",
        "[Errno 122] Disk quota exceeded",
        "the quota of quotas",
        "server busy",  # as a 503 without a hint
        "the server is busy-waiting, retry",
        "expected 512 features, got 429",
        "Expected 10 rows but received 429",
        "shapes differ: expected exactly 128, got 429",
        "429.5",
        "invalid zip code: 429",
        "bad country code 429",
        "429 out of range",
        "429 is not a valid color",
        "429 not in index",
    ],
)
def test_a_message_that_only_sounds_like_it_is_none(text: str) -> None:
    assert not is_rate_limit_error(Exception(text))


@pytest.mark.parametrize("error", NOT_REFUSED, ids=lambda value: f"{value!r:.60}")
def test_what_is_no_refusal_is_none_of_our_business(error: Exception) -> None:
    assert read_error(error) is None
    assert not is_rate_limit_error(error)


FINAL: list[Exception] = [
    *[
        sdk_error(openai, "RateLimitError", 429, {"error": {"code": code, "message": "quota"}}, {"retry-after": "1"})
        for code in (
            "insufficient_quota",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
        )
    ],
    sdk_error(anthropic, "RateLimitError", 429, {"error": {"type": "x", "error_code": "enforced_spend_limit_reached"}}),
    SDKError("no", 429, {"x-ratelimit-limit-req-minute": "0"}),
    gemini("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
    gemini(extra="* Quota exceeded for metric: x, limit: 0"),
    sdk_error(openai, "APIStatusError", 413, {"error": {"code": "rate_limit_exceeded", "message": "Request too large"}}),
    sdk_error(openai, "RateLimitError", 429, {"error": {"code": "rate_limit_exceeded", "message": "Request too large for gpt"}}),
    sdk_error(openai, "RateLimitError", 429, {"error": {"message": "Rate limit reached on tokens per day (TPD)"}}),
    sdk_error(anthropic, "RateLimitError", 429, {"error": {"message": "Number of tokens has exceeded your daily rate limit"}}),
    sdk_error(openai, "RateLimitError", 429, {"error": {"message": "Quota exceeded for generate_requests_per_model_per_day"}}),
    sdk_error(openai, "RateLimitError", 429, {"errors": [{"message": "you have used up your daily free allocation"}]}),
]


def answered(body: bytes, status: int = 429) -> Exception:
    """Return the error that httpx raises for an answer."""
    response = httpx.Response(status, content=body, request=httpx.Request("POST", "https://api.example"))
    try:
        response.raise_for_status()
    except httpx.HTTPStatusError as error:
        return error
    raise AssertionError


def refused(message: str, *, headers: dict[str, str] | None = None, **more: Any) -> Exception:
    return sdk_error(openai, "RateLimitError", 429, {"error": {"message": message, **more}}, headers)


@pytest.mark.parametrize(
    "error",
    [
        refused("Your plan allows 10 requests per minute and 1000 requests per day. Try again in 4 seconds."),
        refused("60 requests per minute. See https://x.example/limits#requests-per-day"),
        refused("Limit 30000, Used 30000, Requested 100. Try again in 1s. To raise your daily limit visit https://x.example"),
        refused(
            "slow down", headers={"retry-after": "4"}, limits={"per_minute": {"remaining": 0}, "per_day": {"remaining": 700}}
        ),
        refused("a monthly limit of 9000 calls, 20 a minute", headers={"retry-after": "60"}),
    ],
    ids=lambda value: f"{value!r:.60}",
)
def test_who_asks_for_a_short_wait_or_only_names_a_quota_of_a_day_has_not_used_it_up(error: Exception) -> None:
    refusal = read_error(error)
    assert refusal is not None
    assert not refusal.final


@pytest.mark.parametrize(
    "error",
    [
        refused("requests per day (RPD): Limit 200, Used 200. Try again in 8s"),
        refused("Rate limit of 150 per 86400s exceeded for UserByModelByDay. Please wait 60 seconds before retrying."),
        refused("1000 requests per day exceeded", headers={"retry-after": "3600"}),
        refused("1000 requests per day exceeded", headers={"x-ratelimit-remaining": "0", "x-ratelimit-reset": "30"}),
        refused('{"url":"https://x.example/limits","quotaId":"RequestsPerDayPerProject"}'),
    ],
    ids=lambda value: f"{value!r:.60}",
)
def test_a_quota_of_a_day_that_is_told_by_its_name_or_asks_for_long_is_final(error: Exception) -> None:
    refusal = read_error(error)
    assert refusal is not None
    assert (refusal.final, refusal.reason) == (True, "a quota per day is used up")


def test_a_final_refusal_is_known_in_a_body_that_is_a_list() -> None:
    """As Gemini answers where it speaks as OpenAI does."""
    told = gemini("GenerateRequestsPerDayPerProjectPerModel-FreeTier")
    refusal = read_error(answered(json.dumps([told.details]).encode()))
    assert refusal is not None
    assert refusal.final


@pytest.mark.parametrize("error", FINAL, ids=lambda value: f"{value!r:.60}")
def test_a_final_refusal_is_known_and_says_why(error: Exception) -> None:
    for exc in (error, wrapped(error)):
        refusal = read_error(exc)
        assert refusal is not None
        assert refusal.final
        assert refusal.reason


def quoting(error: Exception) -> Exception:
    """Return an error of a program's own that repeats what is behind it."""
    outer = RuntimeError(f"call failed: {error}, given up")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize("error", NOT_REFUSED, ids=lambda value: f"{value!r:.60}")
def test_who_quotes_what_is_no_refusal_is_none_either(error: Exception) -> None:
    assert read_error(quoting(error)) is None
    assert read_error(quoting(quoting(error))) is None


def test_who_quotes_a_refusal_is_read_too_as_it_may_say_more() -> None:
    told = Exception("429 Too Many Requests")
    more = RuntimeError(f"chat failed: {told}: insufficient_quota")
    more.__cause__ = told
    assert read_error(more) == Refusal(None, final=True, reason="insufficient_quota")


def test_a_long_error_that_is_quoted_and_cut_is_still_quoted() -> None:
    told = type("ValidationError", (ValueError,), {})("input: rate limit exceeded " + "x" * 5000)
    assert read_error(quoting(told)) is None


def test_an_error_far_behind_is_quoted_as_well_as_the_next_one() -> None:
    between, outer = RuntimeError("no answer"), RuntimeError("failed for 'rate_limit' at last")
    outer.__cause__, between.__cause__ = between, KeyError("rate_limit")
    assert read_error(outer) is None


def test_a_status_in_words_of_its_own_counts_beside_a_quote() -> None:
    told = type("ValidationError", (ValueError,), {})("input: rate limit exceeded")
    outer = RuntimeError(f"HTTP 429: {told}")
    outer.__cause__ = told
    assert is_rate_limit_error(outer)


def test_a_bug_that_quotes_another_is_none_whatever_status_it_names() -> None:
    told = KeyError("rate_limit")
    outer = KeyError("status 429 of rate_limit")
    outer.__cause__ = told
    assert read_error(outer) is None


def test_what_a_body_says_does_not_take_back_what_the_message_says() -> None:
    error = ToldError(body={"error": {"code": 502, "message": "bad gateway"}})
    error.args = ("Provider returned 429: rate limit exceeded",)
    assert is_rate_limit_error(error)


def test_what_a_program_says_of_itself_is_no_quote() -> None:
    outer = RuntimeError("got 429 for x")
    outer.__cause__ = KeyError("x")
    assert is_rate_limit_error(outer)


def test_what_grpc_makes_of_another_answer_is_told_by_its_message() -> None:
    """As of one that a proxy sent, with a status of HTTP."""
    made = {"code": lambda: SimpleNamespace(name="UNAVAILABLE"), "trailing_metadata": tuple}
    error = ToldError(**made)
    assert read_error(error) is None
    error.args = ("Received http2 header with status: 429",)
    assert is_rate_limit_error(error)


def test_who_says_in_its_own_words_that_it_was_refused_is_believed_whatever_is_behind_it() -> None:
    outer = RuntimeError("429 Too Many Requests")
    outer.__cause__ = KeyError("rate_limit")
    assert is_rate_limit_error(outer)
    assert is_rate_limit_error(quoting(Exception("too many requests")))


@pytest.mark.parametrize(
    ("body", "wait", "is_final"),
    [
        (
            b"<p>Free plans have 100 requests per day. Support is available 24 hours a day.</p>",
            None,
            False,
        ),  # a page of anybody's
        (b'\n {"error": {"message": "Please retry in 7s"}}', 7.0, False),
        (b'\xef\xbb\xbf{"error": {"message": "no", "code": "insufficient_quota"}}', None, True),
        (b'[{"error": {"message": "Please retry in 7s", "code": 429}}]', 7.0, False),
        (b"\xff\xfe", None, False),
        (b'\n {"estimated_time": 7}', 7.0, False),
        (b'\xef\xbb\xbf{"estimated_time": 7}', 7.0, False),
        (b'[{"message": "no"}, {"code": "insufficient_quota"}]', None, True),
        (b'{"message": "no", "requests_per_day": 1000}', None, False),
        (b"slow down " * 1000 + b"insufficient_quota", None, False),
    ],
)
def test_a_body_is_read_whatever_it_begins_with(body: bytes, wait: float | None, is_final: bool) -> None:
    refusal = read_error(answered(body))
    assert refusal is not None
    assert (refusal.retry_after, refusal.final) == (wait, is_final)


class ToldError(Exception):
    """An error that tells what it is given."""

    def __init__(self, **told: Any) -> None:
        super().__init__("Provider returned error")
        self.__dict__.update(told)


@pytest.mark.parametrize(
    "told",
    [
        {"body": {"error": {"code": 429, "message": "no"}}},  # OpenRouter's, in mid-stream
        {"body": {"code": 429}},
        {"body": {"error": "too fast", "status": 429}},
        {"body": {"errors": [], "status": "429"}},
        {"code": "429"},
        {"status_code": "429"},
        {"status_code": 429, "body": {"code": 400}},
        {"body": {"type": "rate_limit_error", "code": 500}},
        {"body": {"type": "overloaded_error", "code": "400"}},
        {"type": "overloaded_error"},
        {"code": lambda: SimpleNamespace(name="RESOURCE_EXHAUSTED"), "trailing_metadata": tuple},  # gRPC's
    ],
)
def test_a_status_is_read_wherever_it_is_told(told: dict[str, Any]) -> None:
    assert is_rate_limit_error(ToldError(**told))


@pytest.mark.parametrize(
    "told",
    [
        {"code": "4290"},
        {"code": "४२९"},
        {
            "code": lambda: SimpleNamespace(name="INVALID_ARGUMENT"),
            "trailing_metadata": tuple,
            "args": ("rate limit exceeded",),
        },
        {"code": lambda: SimpleNamespace(name="RESOURCE_EXHAUSTED")},  # some method of a program's own
        {"code": lambda: 1 / 0, "trailing_metadata": tuple},
        {"body": {"code": 400}},
        {"body": {"code": 42}},
        {"body": {"code": 200}, "status_code": 500},
        {"status_code": "x" * 10_000_000},
        {"code": lambda needs: needs, "trailing_metadata": tuple},
    ],
)
def test_what_tells_another_status_or_none_is_no_refusal(told: dict[str, Any]) -> None:
    error = ToldError(**{name: value for name, value in told.items() if name != "args"})
    error.args = told.get("args", error.args)
    assert not is_rate_limit_error(error)


def given_up_after(error: Exception) -> Exception:
    """Return what tenacity raises from an error after its last try: in its text stands the name of the error's class."""
    outer = Exception(f"RetryError[<Future at 0x7f state=finished raised {type(error).__name__}>]")
    outer.__cause__ = error
    return outer


def test_a_refusal_of_which_a_wrapper_repeats_only_the_name_is_read_itself() -> None:
    asked = sdk_error(openai, "RateLimitError", 429, {"error": {"message": "Please try again in 6m0s."}})
    assert retry_after(given_up_after(asked)) == 360.0
    final = sdk_error(openai, "RateLimitError", 429, {"error": {"code": "insufficient_quota", "message": "quota"}})
    assert read_error(given_up_after(final)) == read_error(final)


def test_the_outermost_of_several_waits_counts() -> None:
    outer = RateLimitHit("slow down", retry_after=3.0)
    outer.__cause__ = RateLimitHit("slow down", retry_after=9.0)
    assert retry_after(outer) == 3.0


def test_a_simulated_refusal_reads_like_a_real_one() -> None:
    async def main() -> Exception:
        api = SimulatedAPI(max_per_window=1, window_seconds=10.0)
        await api.call()
        with pytest.raises(Exception) as caught:
            await api.call()
        return caught.value

    assert retry_after(run_virtual(main())) == 10.0


def test_headers_are_found_wherever_an_sdk_keeps_them() -> None:
    assert headers_of(wrapped(TooManyRequestsError({"X-A": "1"}))) == {"x-a": "1"}
    assert headers_of(sdk_error(openai, "RateLimitError", 429, headers={"X-A": "1"}))["x-a"] == "1"
    assert headers_of(ValueError()) == {}
    message = email.message.Message()
    message["Retry-After"] = "5"
    assert lowered(message) == {"retry-after": "5"}
    assert lowered({b"Retry-After": b"5"}) == {"retry-after": "5"}


NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Unreadable(float):
    def __float__(self) -> float:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("1.5", 1.5),
        (3, 3.0),
        (timedelta(minutes=1, seconds=30), 90.0),
        (timedelta(seconds=-1), None),
        (Decimal("2.5"), 2.5),
        (Fraction(5, 2), 2.5),
        (Decimal(int(NOW.timestamp()) + 7), 7.0),
        (Unreadable(), None),
        *[(Decimal(value), None) for value in ("-1", "NaN", "sNaN", "Infinity", "-Infinity", "1e400")],
        *[(value, None) for value in (Fraction(-1, 2), Fraction(10**400), 3 + 0j)],
        ("12ms", 0.012),
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("2m59.56s", 179.56),
        ("1h", 3600.0),
        ("1d", 86400.0),
        ("57.238747106s", 57.238747106),
        ("2 minutes", 120.0),
        ("1 minute and 30 seconds", 90.0),
        ("1 hr, 2 mins", 3720.0),
        ("500 milliseconds", 0.5),
        ("2026-11-24T12:01:00Z", 60.0),
        ("2026-11-24T11:00:00Z", 0.0),
        ("Tue, 24 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 24 Nov 2086 12:00:00 GMT", 21915 * 86400.0),
        (timedelta(days=20_000), 20_000 * 86400.0),
        (str(int(NOW.timestamp()) + 7), 7.0),
        (str((int(NOW.timestamp()) + 7) * 1000), 7.0),
        *[
            (value, None)
            for value in ("", "soon", "-1", "nan", "inf", "-inf", "1e400", -3, True, None, [], "5 apples", "5 and 6s", "9" * 5000)
        ],
        *[(value, None) for value in ("1_0", "٣", "٣s")],
    ],
)
def test_every_format_of_a_time_is_read_and_nonsense_is_no_information(value: Any, seconds: float | None) -> None:
    assert parse_wait(value, now=NOW) == (None if seconds is None else pytest.approx(seconds))


def test_a_date_is_counted_from_the_servers_clock() -> None:
    fields = {"date": "Tue, 24 Nov 2020 12:00:00 GMT", "retry-after": "Tue, 24 Nov 2020 12:00:30 GMT"}
    assert header_wait(fields) == 30.0
    fields = {
        "date": "Tue, 24 Nov 2020 12:00:00 GMT",
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2020-11-24T12:00:05Z",
    }
    assert read_quotas(fields) == (Quota("requests", 50, 0, 5.0, is_date=True),)


@pytest.mark.parametrize(
    ("told", "wait"),
    [
        ("10, 10", 10.0),
        ("10,10", 10.0),
        ("10, 10, 10", 10.0),
        ("10, 12", 12.0),
        ("soon, 5", 5.0),
        ("soon, later", None),
        ("Tue, 24 Nov 2026 12:00:30 GMT, Tue, 24 Nov 2026 12:00:30 GMT", 30.0),
        ("Tue, 24 Nov 2026 12:00:30 GMT, Tue, 24 Nov 2026 12:00:45 GMT", 30.0),
    ],
)
def test_a_wait_that_a_proxy_told_again_is_read(told: str, wait: float | None) -> None:
    fields = lowered({"Retry-After": told, "Date": "Tue, 24 Nov 2026 12:00:00 GMT"})
    assert header_wait(fields) == wait


def test_what_a_proxy_told_again_is_left_is_read() -> None:
    told = {"limit-requests": "60, 60", "remaining-requests": "0,0", "reset-requests": "6s, 6s"}
    assert read_quotas(lowered({f"x-ratelimit-{name}": value for name, value in told.items()})) == (
        Quota("requests", 60, 0, 6.0),
    )


def test_a_refusal_for_output_tokens_is_waited_out_by_their_reset() -> None:
    told = {
        "anthropic-ratelimit-input-tokens-limit": "30000",
        "anthropic-ratelimit-input-tokens-remaining": "12000",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-24T12:00:50Z",
        "anthropic-ratelimit-output-tokens-limit": "8000",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-24T12:00:33Z",
        "date": "Tue, 24 Nov 2026 12:00:00 GMT",
    }
    assert retry_after(sdk_error(anthropic, "RateLimitError", 429, headers=told)) == 33.0
    assert retry_after(sdk_error(anthropic, "RateLimitError", 429, headers={**told, "retry-after": "4"})) == 4.0
    [quota] = read_quotas(told)
    assert quota.remaining == 12000  # no call is admitted by the others'


@pytest.mark.parametrize(
    ("fields", "quotas"),
    [
        (
            {
                "x-ratelimit-limit-requests": "500",
                "x-ratelimit-remaining-requests": "499",
                "x-ratelimit-reset-requests": "120ms",
                "x-ratelimit-limit-tokens": "30000",
                "x-ratelimit-remaining-tokens": "29000",
                "x-ratelimit-reset-tokens": "2s",
            },
            (Quota("requests", 500, 499, 0.12), Quota("tokens", 30000, 29000, 2.0)),
        ),
        ({"x-ratelimit-limit-requests": "0", "x-ratelimit-remaining-requests": "-1"}, ()),
        (
            {
                "anthropic-ratelimit-tokens-limit": "100",
                "anthropic-ratelimit-tokens-remaining": "90",
                "anthropic-ratelimit-input-tokens-limit": "50",
                "anthropic-ratelimit-input-tokens-remaining": "10",
                "anthropic-ratelimit-output-tokens-limit": "20",
                "anthropic-ratelimit-output-tokens-remaining": "1",
            },
            (Quota("tokens", 50, 10),),
        ),
        (
            {"x-ratelimit-limit-req-minute": "60", "x-ratelimit-remaining-req-minute": "58"},
            (Quota("requests", 60, 58, None, 60.0),),
        ),
        (
            {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "5"},
            (Quota("requests", 20, 0, 5.0),),
        ),
        (
            {"ratelimit": '"api";r=0;t=55', "ratelimit-policy": '"api";q=500;w=300'},
            (Quota("requests", 500, 0, 55.0, 300.0),),
        ),
        ({"ratelimit-limit": "10", "ratelimit-remaining": "9", "ratelimit-reset": "3"}, (Quota("requests", 10, 9, 3.0),)),
        (
            {"ratelimit": '"api";r=0;t=55', "ratelimit-policy": '"fixed window";"api";q=500;w=300'},
            (Quota("requests", 500, 0, 55.0, 300.0),),
        ),
        (
            {"ratelimit": "limit=500, remaining=3, reset=5", "ratelimit-policy": "500;w=60"},
            (Quota("requests", 500, 3, 5.0, 60.0),),
        ),
        (
            {"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "9", "ratelimit-reset": "3"},
            (Quota("requests", 100, 9, 3.0, 60.0),),
        ),
        (
            {"ratelimit-limit": "100", "ratelimit-remaining": "9", "ratelimit-reset": "3", "ratelimit-policy": "5;w=1, 100;w=60"},
            (Quota("requests", 100, 9, 3.0, 60.0),),
        ),
        (
            {"x-rate-limit-limit": "15", "x-rate-limit-remaining": "3", "x-rate-limit-reset": "9"},
            (Quota("requests", 15, 3, 9.0),),
        ),
        (
            {"x-ratelimit-limit": "0.1", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "7"},
            (Quota("requests", None, 0, 7.0),),
        ),
        ({"x-ratelimit-remaining-requests": "nan", "x-ratelimit-limit-requests": "many"}, ()),
    ],
)
def test_every_providers_quotas_are_read(fields: dict[str, str], quotas: tuple[Quota, ...]) -> None:
    assert read_quotas(fields) == quotas


def test_headers_are_read_of_clients_that_keep_a_list_for_each() -> None:
    many = lowered({"X": [str(number) for number in range(10**5)]})["x"]
    assert many.startswith("0, 1, 2")
    assert len(many) < 100
    assert lowered({"Retry-After": ["3"], "X": ("a", b"b"), "Y": []}) == {"retry-after": "3", "x": "a, b", "y": ""}
    assert header_wait(lowered({"Retry-After": ["3", "5"]})) == 5.0


def test_a_reset_by_a_clock_that_may_be_wrong_tells_no_length() -> None:
    told = Quota("requests", 100, 99, 7200.0, is_date=True)
    assert told.is_longer_than(60.0)
    assert not replace(told, is_guess=True).is_longer_than(60.0)


TEXT = st.text(max_size=50) | st.sampled_from(
    ["0", "-1", "1e309", "nan", "6m0s", "2026-11-24T12:00:00Z", "1" * 400, "\x00", "1,2"]
)
NAMES = st.sampled_from(
    [
        "retry-after",
        "retry-after-ms",
        "date",
        "ratelimit",
        "ratelimit-policy",
        "x-ratelimit-reset",
        "x-ratelimit-remaining",
        *[f"x-ratelimit-{part}-{kind}" for part in ("limit", "remaining", "reset") for kind in ("requests", "tokens")],
        *[
            f"anthropic-ratelimit-{kind}-{part}"
            for part in ("limit", "remaining", "reset")
            for kind in ("requests", "input-tokens")
        ],
    ]
)
BODIES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["error", "code", "type", "retryDelay"]), inner),
    max_leaves=20,
)


STATUSES = st.sampled_from([None, 200, 402, 413, 429, 500, 503, 529, "429", 4.29, True, 10**400])


@settings(deadline=None)
@given(st.dictionaries(NAMES, TEXT), BODIES, TEXT, STATUSES)
def test_nothing_a_server_sends_raises_or_waits_for_ever(fields: dict[str, str], body: Any, message: str, status: Any) -> None:
    error = SDKError(message, status, fields)
    error.body = error.details = body  # type: ignore[attr-defined]
    refusal = read_error(error)
    wait = retry_after(error)
    assert wait is None or (wait >= 0 and math.isfinite(wait))
    assert refusal is None or isinstance(refusal.reason, str)
    for quota in read_quotas(lowered(fields)):
        assert quota.limit is None or quota.limit >= 1
        assert quota.remaining is None or quota.remaining >= 0
        assert quota.reset is None or (quota.reset >= 0 and math.isfinite(quota.reset))
        assert quota.window is None or (quota.window > 0 and math.isfinite(quota.window))


@settings(max_examples=150, deadline=None)
@example({"x-ratelimit-limit-requests": "4"}, None, "", 529, 1.0)
@given(st.dictionaries(NAMES, TEXT), BODIES, TEXT, STATUSES, st.floats(0, 300))
def test_nothing_a_server_sends_makes_a_node_wait_beyond_its_time_or_lose_an_item(
    fields: dict[str, str], body: Any, message: str, status: Any, timeout: float
) -> None:
    async def call(item: int) -> int:
        error = SDKError(message, status, fields)
        error.body = body  # type: ignore[attr-defined]
        raise error

    class FallingBack(Batch):
        async def exec_fallback_async(self, item: int, exc: Exception) -> int:
            ended.append(now())
            return item

    ended: list[float] = []
    node = FallingBack(call, rate_limit_timeout=timeout)
    assert run(node, [1, 2, 3]) == [1, 2, 3]
    if node.limiter.max_per_window is None:  # else it keeps to what it was told of, and time in its own queue is none of that
        assert max(ended) <= timeout + 0.1


class Raising:
    """Raises whatever is done with it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __len__(self) -> int:
        raise RuntimeError

    def __bool__(self) -> bool:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError

    __iter__ = __int__ = __float__ = __len__  # type: ignore[assignment]


class RaisingDict(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError

    values = keys = __iter__ = items


class HostileError(Exception):
    def __str__(self) -> str:
        raise RuntimeError

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError


cyclic: dict[str, Any] = {"error": {}}
cyclic["error"]["error"] = cyclic["again"] = cyclic
wide: list[Any] = []
wide += [wide] * 1000
ATTRIBUTES: dict[str, Any] = {  # by name, as Hypothesis could not show them
    "raises": Raising(),
    "raises in part": RaisingDict(a=1),
    "cyclic": cyclic,
    "wide": wide,
    "text": "x" * 10**6,
    "bytes": b"{" * 10**5,
    "brackets": "[" * 10**5,
    "odd keys": {1: {2: (3, {})}},
    "nothing": [None] * 10**5,
    "429": 429,
    "a class": int,
    "longer than may be printed": 10**5000,
    "longer than a float": -(10**400),
}


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["status_code", "code", "status", "headers", "body", "details", "type", "error_code", "retry_after"]),
        st.sampled_from(list(ATTRIBUTES)),
    ),
    st.dictionaries(st.sampled_from(["status_code", "headers", "content", "text"]), st.sampled_from(list(ATTRIBUTES))),
)
def test_no_attribute_of_an_exception_makes_reading_it_raise(attributes: dict[str, str], answer: dict[str, str]) -> None:
    error = Exception(Raising())
    error.__dict__.update({name: ATTRIBUTES[value] for name, value in attributes.items()})
    error.response = SimpleNamespace(**{name: ATTRIBUTES[value] for name, value in answer.items()})  # type: ignore[attr-defined]
    refusal = read_error(error)
    assert refusal is None or (refusal.reason and not refusal.final)
    assert isinstance(headers_of(error), dict)


def test_an_exception_that_cannot_be_read_says_nothing() -> None:
    first, second = HostileError(), HostileError()
    first.__cause__, second.__cause__ = second, first
    assert read_error(first) is None
    assert headers_of(first) == {}


@pytest.mark.parametrize("node_class", [ThrottledParallelBatchNode, AdaptiveThrottledNode])
def test_an_exception_that_cannot_be_read_takes_its_items_place(node_class: type[ThrottledParallelBatchNode]) -> None:
    error = HostileError()

    class Ask(node_class):  # type: ignore[misc, valid-type]
        async def prep_async(self, shared: dict[str, Any]) -> list[int]:
            return [0, 1]

        async def exec_async(self, item: int) -> int:
            if item == 0:
                raise error
            return item

        async def post_async(self, shared: dict[str, Any], prep_res: Any, exec_res_list: list[Any]) -> None:
            shared["results"] = exec_res_list

    shared: dict[str, Any] = {}
    run_virtual(asyncio.wait_for(Ask(on_error="collect").run_async(shared), 10))
    assert shared["results"] == [error, 1]


def test_a_chain_and_a_group_that_cannot_be_read_say_nothing() -> None:
    class Chained(Exception):  # noqa: N818
        @property
        def __cause__(self) -> BaseException:  # type: ignore[override]
            raise RuntimeError

    class Group(ExceptionGroup[Exception]):
        exceptions = property(lambda _: 1 / 0)  # type: ignore[assignment]

    for error in (Chained(), Group("x", [RateLimitHit()])):
        assert read_error(error) is None
        assert headers_of(error) == {}


@pytest.mark.parametrize("number", [Decimal("2.5"), Fraction(5, 2)], ids=repr)
def test_a_wait_may_be_any_real_number_that_code_has(number: Any) -> None:
    refused = Exception("slow down")
    refused.status_code = 429  # type: ignore[attr-defined]
    refused.retry_after = number  # type: ignore[attr-defined]
    assert retry_after(RateLimitHit("slow down", retry_after=number)) == retry_after(refused) == 2.5


@pytest.mark.parametrize("wait", [10**400, 10**5000, -(10**5000)], ids=lambda wait: f"{wait.bit_length()} bits")
def test_a_wait_longer_than_a_float_is_none_that_was_told(wait: int) -> None:
    assert parse_wait(wait) is None
    assert read_error(RateLimitHit("slow down", retry_after=wait)) == Refusal(None, final=False, reason="slow down")


def test_a_refusal_is_found_behind_what_cannot_be_read() -> None:
    outer = HostileError()
    outer.__cause__ = RateLimitHit(retry_after=3)
    assert retry_after(outer) == 3.0


LONG = [
    "rate limit " * 10**5,
    "1" * 10**6,
    "1." * 10**5,
    "try again in " * 10**5,
    "try again in " + "1m" * 10**5,
    "1m" * 10**6,
    "429 " + " " * 10**6,
    "429 " + "a" * 10**6,
    "status code " * 10**5,
    "a=" * 10**5,
    '"a";r=1,' * 10**5,
    "Tue, " * 10**5,
    "2026-11-24T" + "0" * 10**6,
    "limit: " * 10**5,
    "(" * 10**6,
    "[" * 99_999,
]


@pytest.mark.parametrize("text", LONG, ids=lambda text: f"{text:.20}")
def test_long_texts_are_read_in_no_time(text: str) -> None:
    before = time.process_time()
    fields = {"retry-after": text, "ratelimit": text, "ratelimit-policy": text, "x-ratelimit-limit": text, "date": text}
    error = SDKError(text, 429, {**fields, "x-ratelimit-reset": text})
    error.body = {"message": text}  # type: ignore[attr-defined]
    read_error(error)
    read_error(ValueError(text))
    assert time.process_time() - before < 60  # a catastrophic pattern takes years


# --- groups, and errors that were raised while a refusal was handled


def slow_down(wait: float | None = None) -> Exception:
    return RateLimitHit("slow down", retry_after=wait)


def test_a_group_of_refusals_is_one_that_waits_for_the_longest() -> None:
    refusal = read_error(ExceptionGroup("unhandled errors in a TaskGroup", [slow_down(2.0), slow_down(5.0), slow_down()]))
    assert refusal is not None
    assert (refusal.retry_after, refusal.final) == (5.0, False)


def test_a_group_in_a_group_is_read_too_and_what_caused_its_errors() -> None:
    inner = ExceptionGroup("inner", [wrapped(slow_down(3.0))])
    assert retry_after(wrapped(ExceptionGroup("outer", [inner, slow_down()]))) == 3.0


def test_a_group_with_any_other_error_is_the_users_to_see() -> None:
    assert read_error(ExceptionGroup("some", [slow_down(), ValueError("no")])) is None
    assert read_error(ExceptionGroup("rate limit reached", [ValueError("no")])) is None


def test_a_group_with_a_final_refusal_is_final() -> None:
    final = sdk_error(openai, "RateLimitError", 429, {"error": {"code": "insufficient_quota"}})
    refusal = read_error(ExceptionGroup("some", [slow_down(), final]))
    assert refusal is not None
    assert (refusal.final, refusal.reason) == (True, "insufficient_quota")


def test_the_headers_of_a_group_are_those_of_its_errors() -> None:
    refused = sdk_error(openai, "RateLimitError", 429, headers={"retry-after": "7"})
    assert headers_of(ExceptionGroup("some", [slow_down(), wrapped(refused)]))["retry-after"] == "7"


def test_a_group_nested_without_end_is_read_in_no_time() -> None:
    group = ExceptionGroup("0", [slow_down()])
    for _ in range(5000):
        group = ExceptionGroup("more", [group])
    read_error(group)
    headers_of(group)


def raised_while_handling(error: Exception, refused: Exception, *, is_suppressed: bool = False) -> Exception:
    try:
        try:
            raise refused
        except Exception:
            if is_suppressed:
                raise error from None
            raise error  # noqa: B904
    except Exception as outer:  # noqa: BLE001
        return outer


def test_an_error_raised_while_a_refusal_was_handled_is_one() -> None:
    outer = raised_while_handling(RuntimeError("no answer"), slow_down(2.0))
    assert retry_after(outer) == 2.0
    assert retry_after(wrapped(outer)) == 2.0


@pytest.mark.parametrize(
    "error", [KeyError("x"), TypeError("x"), NameError("x"), AttributeError("x"), AssertionError("x"), ZeroDivisionError("x")]
)
def test_a_bug_in_the_handling_of_a_refusal_is_the_users_to_see(error: Exception) -> None:
    assert read_error(raised_while_handling(error, slow_down())) is None


def test_an_error_with_a_status_of_its_own_speaks_for_itself() -> None:
    other = sdk_error(openai, "BadRequestError", 400)
    assert read_error(raised_while_handling(other, slow_down())) is None


def test_an_error_that_tells_an_answer_anew_is_read_with_what_the_answer_said() -> None:
    body = {"error": {"message": "no budget", "code": "in_flight_budget_exhausted"}}
    answer = sdk_error(openai, "APIStatusError", 402, body, {"retry-after": "3"})
    anew = SDKError("APIError: OpenAIException - no budget", 402, None)
    assert read_error(anew) is None
    assert retry_after(raised_while_handling(anew, answer)) == 3.0


def test_the_error_of_the_last_try_is_found_in_what_tells_of_it() -> None:
    attempt: Future[None] = Future()
    told = Exception("RetryError[<Future at 0x7f state=pending>]")
    told.last_attempt = attempt  # type: ignore[attr-defined]
    assert read_error(told) is None  # it has not ended, and nobody waits for it
    attempt.set_exception(slow_down(4.0))
    assert retry_after(told) == 4.0


def test_an_error_raised_from_none_hides_what_was_handled() -> None:
    assert read_error(raised_while_handling(RuntimeError("no answer"), slow_down(), is_suppressed=True)) is None


def test_an_item_whose_task_group_was_refused_is_sent_again() -> None:
    starts: list[float] = []

    async def ask() -> None:
        starts.append(now())
        if len(starts) <= 2:
            raise slow_down(5.0)

    async def call(item: int) -> int:
        async with asyncio.TaskGroup() as group:
            group.create_task(ask())
            group.create_task(ask())
        return item

    assert run(Batch(call), [1]) == [1]
    assert starts == pytest.approx([0, 0, 5, 5])
