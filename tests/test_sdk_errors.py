"""Every SDK's exceptions, with the attributes and the texts that it gives them, are read for what they say.

Those of openai, anthropic, httpx and httpx2 are made by the SDKs; those of the others are doubles, shaped as theirs are.
"""

import json
import math
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pocketflow_throttled.headers import lowered
from pocketflow_throttled.signals import headers_of, read_error, retry_after

Body = Any
Headers = dict[str, str] | None


def response(http: Any, status: int, body: Body = None, headers: Headers = None) -> Any:
    request = http.Request("POST", "https://api.example/v1")
    return http.Response(status, headers=headers or {}, json={} if body is None else body, request=request)


def by_openai(status: int, body: Body = None, headers: Headers = None) -> Exception:
    return openai.OpenAI(api_key="test")._make_status_error_from_response(response(httpx2, status, body, headers))


def by_anthropic(status: int, body: Body = None, headers: Headers = None) -> Exception:
    return anthropic.Anthropic(api_key="test")._make_status_error_from_response(response(httpx2, status, body, headers))


def in_openais_stream(code: str) -> Exception:
    """Return what openai raises for an error in mid-stream, which has no status."""
    return openai.APIError("The server had an error", httpx2.Request("POST", "https://x"), body={"code": code, "message": "x"})


def in_anthropics_stream(body: Body) -> Exception:
    return anthropic.APIStatusError("Overloaded", response=response(httpx2, 200), body=body)


def by_http(http: Any, status: int, body: Body = None, headers: Headers = None) -> Exception:
    with pytest.raises(http.HTTPStatusError) as caught:
        response(http, status, body, headers).raise_for_status()
    return caught.value


class ClientError(Exception):
    """google-genai's: `code` is the status, and there may be no response."""

    def __init__(self, code: int, body: Body, response: Any = None) -> None:
        first = body[0] if isinstance(body, list) else body
        error = first.get("error", {})
        self.code, self.status, self.message = code, error.get("status"), error.get("message")
        self.details, self.response = body, response
        super().__init__(f"{code} {self.status}. {body}")


class SDKError(Exception):
    """mistralai's: no `response`, and the body is text."""

    def __init__(self, raw: Any) -> None:
        self.status_code, self.headers, self.body, self.raw_response = raw.status_code, raw.headers, raw.text, raw
        self.message = f"API error occurred: Status {raw.status_code}. Body: {raw.text}"
        super().__init__(self.message)


class ApiError(Exception):
    """cohere's: no `response`, and perhaps no headers."""

    def __init__(self, status_code: int, headers: Headers, body: Body) -> None:
        super().__init__()
        self.status_code, self.headers, self.body = status_code, headers, body

    def __str__(self) -> str:
        return f"headers: {self.headers}, status_code: {self.status_code}, body: {self.body}"


class TooManyRequestsError(ApiError):
    def __init__(self, body: Body, headers: Headers = None) -> None:
        super().__init__(429, headers, body)


class GroqError(Exception):
    """groq's is made like openai's, on httpx."""

    def __init__(self, status: int, body: Body, headers: Headers = None) -> None:
        super().__init__(f"Error code: {status} - {body}")
        self.response, self.status_code, self.body = response(httpx, status, body, headers), status, body.get("error", body)


class LiteLLMError(Exception):
    """litellm's: the provider's text, on a response that it may have made up."""

    def __init__(self, message: str, status: int, headers: Headers = None, *, keeps_response: bool = True) -> None:
        super().__init__(message)
        self.status_code, self.message, self.llm_provider = status, message, "anthropic"
        self.response = response(httpx, status, headers=headers if keeps_response else None)
        self.litellm_response_headers = httpx.Headers(headers or {})
        self.body = None


class HfHubHTTPError(httpx2.HTTPError):
    """huggingface_hub's."""

    def __init__(self, message: str, response: Any) -> None:
        super().__init__(message)
        self.response = response


class BotoError(Exception):
    """botocore's ClientError: the answer is a dict, and the status and the headers are in it."""

    def __init__(self, code: str, message: str, status: int = 400, headers: Headers = None) -> None:
        super().__init__(f"An error occurred ({code}) when calling the InvokeModel operation: {message}")
        about = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}, "RetryAttempts": 0}
        self.response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": about}


class EventStreamError(BotoError):
    """botocore's of a stream that has begun: no status tells of it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        del self.response["ResponseMetadata"]


class ReplicateError(Exception):
    """replicate's: only the status and the text."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"ReplicateError Details:\nstatus: {status}\ndetail: {detail}")
        self.status, self.detail = status, detail


class ClientResponseError(Exception):
    """aiohttp's: no body."""

    def __init__(self, status: int, message: str, headers: Headers = None) -> None:
        super().__init__(f"{status}, message={message!r}, url='https://x'")
        self.status, self.message, self.headers = status, message, headers


def gemini(delay: str | None = None, quota: str = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier", text: str = "") -> Body:
    violation = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]}
    info = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}] if delay else []
    message = f"You exceeded your current quota, please check your plan and billing details. {text}"
    return {"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": [violation, *info]}}


def error(**fields: Any) -> Body:
    return {"error": {"message": "m", "type": "t", **fields}}


WAIT = {"retry-after": "3"}
GROQ_TEXT = "Rate limit reached for model `m` on tokens per minute (TPM): Limit 6000, Used 5800. Please try again in 7.66s."
ANTHROPIC_TEXT = 'litellm.InternalServerError: AnthropicException - {"type":"error","error":{"type":"overloaded_error"}}'
QUOTA_TEXT = (
    'litellm.RateLimitError: OpenAIException - {"error":{"code":"insufficient_quota","message":"You exceeded your quota"}}'
)
OPENAI_429 = {
    "x-ratelimit-limit-requests": "500",
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "120ms",
}


# What was raised, and the seconds that it asks to wait; None: it does not say.
class AioRpcError(Exception):
    """grpc.aio's, with what a server sent behind its answer; its methods are no data."""

    def __init__(self, metadata: Any, text: str = "status = StatusCode.RESOURCE_EXHAUSTED") -> None:
        super().__init__(f"<AioRpcError of RPC that terminated with:\n\t{text}\n>")
        self._metadata = metadata

    def code(self) -> object:
        return object()

    def details(self) -> str:
        return "too many requests"

    def trailing_metadata(self) -> Any:
        if isinstance(self._metadata, Exception):
            raise self._metadata
        return self._metadata


class ResourceExhausted(Exception):  # noqa: N818
    """google.api_core's, which keeps gRPC's as its response."""

    def __init__(self, response: Exception) -> None:
        super().__init__("429 Resource has been exhausted")
        self.code, self.response, self.details = 429, response, [object()]


class RetryError(Exception):
    """google.api_core's, of a call that was given up."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("Timeout of 60.0s exceeded")
        self.cause = cause


# As google.rpc's own classes write it: 300.25 s, alone, and in a status with the failure of a quota before it.
RETRY_INFO = bytes.fromhex("0a0808ac021080e59a77")
RICH_STATUS = (
    b"\x08\x08\x12\x01m\x1a7\n+type.googleapis.com/google.rpc.QuotaFailure\x12\x08\n\x06\n\x01x\x12\x01y"
    b"\x1a6\n(type.googleapis.com/google.rpc.RetryInfo\x12\n" + RETRY_INFO
)
RICH = [("grpc-status-details-bin", RICH_STATUS)]

REFUSED: dict[str, tuple[Exception, float | None]] = {
    "openai": (by_openai(429, error(code="rate_limit_exceeded"), WAIT), 3.0),
    "openai, milliseconds": (by_openai(429, error(), {**WAIT, "retry-after-ms": "2500"}), 2.5),
    "openai, resets": (by_openai(429, error(), OPENAI_429), 0.12),
    "openai, in mid-stream": (in_openais_stream("rate_limit_exceeded"), None),
    "openai, slow_down": (by_openai(429, error(code="slow_down")), None),
    "openai, 503 slow_down": (by_openai(503, error(code="slow_down")), None),
    "openai, 503": (by_openai(503, error(), WAIT), 3.0),
    "openrouter, 402": (by_openai(402, error(code="in_flight_budget_exhausted"), WAIT), 3.0),
    "openrouter, 402 in metadata": (
        by_openai(402, error(code=402, metadata={"reason": "in_flight_budget_exhausted"}), WAIT),
        3.0,
    ),
    "anthropic": (by_anthropic(429, error(type="rate_limit_error"), WAIT), 3.0),
    "anthropic, ramp": (by_anthropic(429, error(type="rate_limit_error", error_code="ramp_limit_exceeded")), None),
    "anthropic, 529": (by_anthropic(529, error(type="overloaded_error")), None),
    "anthropic, 503": (by_anthropic(503, error(type="api_error"), WAIT), 3.0),
    "anthropic, refused in mid-stream": (in_anthropics_stream({"type": "error", **error(type="rate_limit_error")}), None),
    "anthropic, in mid-stream": (in_anthropics_stream({"type": "error", **error(type="overloaded_error")}), None),
    "google-genai": (ClientError(429, gemini("57.238747106s"), response(httpx2, 429)), 57.238747106),
    "google-genai, no response": (ClientError(429, gemini("53s")), 53.0),
    "google-genai, a list": (ClientError(429, [gemini("53s")]), 53.0),
    "google-genai, no hint": (ClientError(429, gemini()), None),
    "mistralai": (SDKError(response(httpx2, 429, {"type": "rate_limited"}, WAIT)), 3.0),
    "mistralai, a limit": (SDKError(response(httpx2, 429, {}, {"x-ratelimit-limit-req-minute": "60"})), None),
    "mistralai, 503": (SDKError(response(httpx2, 503, {}, WAIT)), 3.0),
    "cohere": (TooManyRequestsError({"message": "You are using a Trial key, which is limited to 20 API calls / minute"}), None),
    "cohere, headers": (TooManyRequestsError("x", {"Retry-After": "3"}), 3.0),
    "cohere, 503": (ApiError(503, WAIT, "x"), 3.0),
    "groq": (GroqError(429, error(message=GROQ_TEXT, code="rate_limit_exceeded")), 7.66),
    "litellm": (LiteLLMError("litellm.RateLimitError: m", 429, WAIT), 3.0),
    "litellm, other headers": (LiteLLMError("litellm.RateLimitError: m", 429, WAIT, keeps_response=False), 3.0),
    "litellm, 529 as 500": (LiteLLMError(ANTHROPIC_TEXT, 500), None),
    "huggingface_hub": (HfHubHTTPError("429", response(httpx2, 429, {}, {"RateLimit": '"api";r=0;t=55'})), 55.0),
    "groq, no room in flex": (GroqError(498, error(message="Flex tier capacity exceeded", code="capacity_exceeded")), None),
    "groq, more tokens to be had": (GroqError(429, error(message=f"{GROQ_TEXT} Upgrade at https://x/settings/billing")), 7.66),
    "openai, free": (
        by_openai(429, error(message="Rate limit reached: 3 / min. Please try again in 20s. Add a payment method to raise it.")),
        20.0,
    ),
    "azure": (by_openai(429, error(code="429", message="exceeded token rate limit. Please retry after 26 seconds.")), 26.0),
    "openrouter, a minute": (
        by_openai(429, error(code=429, metadata={"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "7"}})),
        7.0,
    ),
    "openrouter, seconds": (by_openai(429, error(code=429, metadata={"retry_after_seconds": 12.5})), 12.5),
    "together, 0.1 a second": (
        by_openai(429, error(), {"x-ratelimit-limit": "0.1", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "7"}),
        7.0,
    ),
    "together, 503": (by_openai(503, error(type="overloaded_error")), None),
    "xai, a dashed name": (by_openai(429, error(), {"x-rate-limit-remaining": "0", "x-rate-limit-reset": "9"}), 9.0),
    "huggingface_hub, loading": (
        HfHubHTTPError("503", response(httpx2, 503, {"error": "Model x is currently loading", "estimated_time": 20.0})),
        20.0,
    ),
    "replicate": (ReplicateError(429, "Request was throttled. Your rate limit resets in ~6s."), 6.0),
    "replicate, in a second": (ReplicateError(429, "Request was throttled. Expected available in 1 second."), 1.0),
    "botocore": (BotoError("ThrottlingException", "Too many requests, please wait before trying again.", 429), None),
    "botocore, 400": (BotoError("ThrottlingException", "Rate exceeded"), None),
    "botocore, headers": (BotoError("TooManyRequestsException", "x", 429, {"retry-after": "3"}), 3.0),
    "botocore, a code": (BotoError("ProvisionedThroughputExceededException", "x"), None),
    "botocore, 503": (BotoError("SlowDown", "Please reduce your request rate.", 503), None),
    "botocore, not ready": (BotoError("ModelNotReadyException", "x", 429), None),
    "botocore, in mid-stream": (EventStreamError("throttlingException", "Too many tokens"), None),
    "google-api-core": (Exception("429 Quota exceeded. [retry_delay {\n  seconds: 12\n}\n]"), 12.0),
    "google-api-core, nanoseconds": (Exception("429 x [retry_delay {\n  seconds: 12\n  nanos: 500000000\n}\n]"), 12.5),
    "litellm, of Gemini": (LiteLLMError(f"litellm.RateLimitError: GeminiException - {json.dumps(gemini('53.5s'))}", 429), 53.5),
    "google-genai, quoted": (RuntimeError(f"429 RESOURCE_EXHAUSTED. {gemini('7s')}"), 7.0),
    "aiohttp": (ClientResponseError(429, "Too Many Requests", {"Retry-After": "3"}), 3.0),
    "aiohttp, 503": (ClientResponseError(503, "x", {"Retry-After": "3"}), 3.0),
    "urllib3": (Exception("Max retries exceeded (Caused by ResponseError('too many 429 error responses'))"), None),
    "httpx": (by_http(httpx, 429, headers=WAIT), 3.0),
    "httpx, a text in its body": (by_http(httpx, 429, error(message=GROQ_TEXT)), 7.66),
    "httpx2": (by_http(httpx2, 529), None),
    "httpx2, 503": (by_http(httpx2, 503, headers=WAIT), 3.0),
    "grpc": (Exception('<AioRpcError of RPC that terminated with: status = StatusCode.RESOURCE_EXHAUSTED, details = "x">'), None),
    "grpc, a status": (AioRpcError(RICH), 300.25),
    "grpc, a retry info": (AioRpcError([("google.rpc.retryinfo-bin", RETRY_INFO)]), 300.25),
    "grpc, text": (AioRpcError([("retry-after", "3")]), 3.0),
    "grpc, no metadata": (AioRpcError(None), None),
    "grpc, metadata that raises": (AioRpcError(RuntimeError()), None),
    "google-api-core, of gRPC": (ResourceExhausted(AioRpcError(RICH)), 300.25),
    "google-api-core, given up": (RetryError(ResourceExhausted(AioRpcError(RICH))), 300.25),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_read_from_what_an_sdk_raises(case: str) -> None:
    raised, wait = REFUSED[case]
    refusal = read_error(raised)
    assert refusal is not None
    assert not refusal.final
    assert refusal.retry_after == wait


FINAL: dict[str, tuple[Exception, str]] = {
    **{
        f"openai, {code}": (by_openai(429, error(code=code), WAIT), code)
        for code in (
            "insufficient_quota",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
        )
    },
    "openai, in mid-stream": (in_openais_stream("insufficient_quota"), "insufficient_quota"),
    "openai, the type": (by_openai(429, error(type="insufficient_quota")), "insufficient_quota"),
    "openai, too large": (by_openai(429, error(message="Request too large for m on tokens per min (TPM)")), "never fit"),
    "openai, more than the limit": (
        by_openai(429, error(message="Rate limit reached for m on tokens per min (TPM): Limit 9000, Used 0, Requested 9001.")),
        "never fit",
    ),
    "anthropic": (by_anthropic(429, error(error_code="enforced_spend_limit_reached"), WAIT), "enforced_spend_limit_reached"),
    "google-genai, a day": (ClientError(429, gemini("53s", "GenerateRequestsPerDayPerProjectPerModel-FreeTier")), "per day"),
    "google-genai, 0": (ClientError(429, gemini(text="* Quota exceeded for metric: x, limit: 0")), "limit is 0"),
    "mistralai": (SDKError(response(httpx2, 429, {}, {"x-ratelimit-limit-req-minute": "0"})), "limit is 0"),
    "groq": (GroqError(413, error(code="rate_limit_exceeded", message="Request too large for model")), "never fit"),
    "groq, without a code": (
        GroqError(413, error(message="Request too large for model m on tokens per minute (TPM): Limit 6000, Requested 9000.")),
        "never fit",
    ),
    "litellm": (LiteLLMError(QUOTA_TEXT, 429), "insufficient_quota"),
    "httpx": (by_http(httpx, 429, error(code="insufficient_quota")), "insufficient_quota"),
    "openai, billing": (by_openai(429, error(code="billing_not_active")), "billing_not_active"),
    "moonshot": (by_openai(429, error(type="exceeded_current_quota_error")), "exceeded_current_quota_error"),
    "google-genai, credits": (
        ClientError(429, {"error": {"message": "Your prepayment credits are depleted. Go to AI Studio.", "status": "x"}}),
        "no credit",
    ),
    "google-genai, spend": (
        ClientError(429, {"error": {"message": "Your project has exceeded its monthly spending cap.", "status": "x"}}),
        "spending limit",
    ),
    "xai": (
        by_openai(
            429, {"error": "Your team has either used all available credits or reached its monthly spending limit.", "code": "x"}
        ),
        "no credit",
    ),
    "cohere, a month": (TooManyRequestsError({"message": "Your Trial key is limited to 1000 API calls / month."}), "per month"),
    "botocore, a day": (BotoError("ThrottlingException", "Too many tokens per day, please wait.", 429), "per day"),
    "grpc, a size": (
        Exception("status = StatusCode.RESOURCE_EXHAUSTED, details = Received message larger than max (5 vs. 4)"),
        "never fit",
    ),
}


@pytest.mark.parametrize("case", FINAL)
def test_a_refusal_for_good_is_read_from_what_an_sdk_raises_with_its_reason(case: str) -> None:
    raised, reason = FINAL[case]
    refusal = read_error(raised)
    assert refusal is not None
    assert refusal.final
    assert reason in refusal.reason


NEITHER: dict[str, Exception] = {
    "openai, 400": by_openai(400, error(message="rate limit must be a number")),
    "openai, 401": by_openai(401, error(message="too many requests with this key")),
    "openai, 402": by_openai(402, error(message="Insufficient credits")),
    "openai, 500": by_openai(500, error(message="rate limit service down")),
    "openai, 503": by_openai(503, error()),
    "openai, 413": by_openai(413, error(message="payload too large")),
    "openai, another error in mid-stream": in_openais_stream("server_error"),
    "openai, no connection": openai.APIConnectionError(request=httpx2.Request("POST", "https://x")),
    "anthropic, 400": by_anthropic(400, error(type="invalid_request_error", message="429 items are too many")),
    "google-genai, 503": ClientError(503, {"error": {"status": "UNAVAILABLE", "message": "The model is overloaded"}}),
    "cohere, 503": ApiError(503, None, "x"),
    "litellm, 500": LiteLLMError("litellm.InternalServerError: m", 500),
    "httpx, 404": by_http(httpx, 404),
    "botocore, 400": BotoError("ValidationException", "rate limit must be a number"),
    "botocore, 503": BotoError("ServiceUnavailableException", "Bedrock is unable to process your request.", 503),
    "botocore, a quota of things": BotoError("ServiceQuotaExceededException", "Your request exceeds the service quota."),
    "groq, 498": GroqError(498, error(message="Invalid token")),
    "aiohttp, 503": ClientResponseError(503, "x"),
    "replicate, 402": ReplicateError(402, "Insufficient credit"),
}


@pytest.mark.parametrize("case", NEITHER)
def test_what_is_no_refusal_is_left_to_the_user(case: str) -> None:
    assert read_error(NEITHER[case]) is None


@pytest.mark.parametrize("name", ["grpc-status-details-bin", "google.rpc.retryinfo-bin"])
@given(
    message=st.binary(max_size=40)
    | st.tuples(st.integers(0, len(RICH_STATUS)), st.binary(max_size=3)).map(lambda at: RICH_STATUS[: at[0]] + at[1])
    | st.tuples(st.integers(0, len(RETRY_INFO)), st.binary(max_size=12)).map(lambda at: RETRY_INFO[: at[0]] + at[1])
    | st.just(b"\xff" * 10**6)
)
@example(message=b"\x1a\x02\x08\x01")  # a number, where a type should stand
def test_no_binary_metadata_makes_reading_it_raise(name: str, message: bytes) -> None:
    wait = retry_after(AioRpcError([(name, message)]))
    assert wait is None or 0 <= wait < math.inf


@pytest.mark.parametrize("seconds", [1, 43, ord(","), 127])
def test_a_byte_of_binary_metadata_that_looks_like_a_comma_is_one_of_a_number(seconds: int) -> None:
    assert retry_after(AioRpcError([("google.rpc.retryinfo-bin", bytes([0x0A, 2, 8, seconds]))])) == seconds
    assert lowered({"Some-Bin": "7,7", "Some": "7,7"}) == {"some-bin": "7,7", "some": "7"}


def test_metadata_that_must_be_awaited_says_nothing() -> None:
    raised = AioRpcError(None)

    async def trailing_metadata() -> list[Any]:
        raise AssertionError

    raised.trailing_metadata = trailing_metadata  # type: ignore[method-assign]
    assert retry_after(raised) is None


def test_headers_are_found_where_every_sdk_keeps_them() -> None:
    for raised in (REFUSED[case][0] for case in ("openai", "mistralai", "cohere, headers", "litellm", "litellm, other headers")):
        assert headers_of(raised)["retry-after"] == "3"
    assert headers_of(REFUSED["google-genai, no response"][0]) == {}


def test_a_body_that_is_text_is_read_as_data() -> None:
    raised = SDKError(response(httpx2, 429, error(code="insufficient_quota")))
    assert json.loads(raised.body)["error"]["code"] == "insufficient_quota"
    raised.args = ("API error occurred",)
    refusal = read_error(raised)
    assert refusal is not None
    assert refusal.reason == "insufficient_quota"
