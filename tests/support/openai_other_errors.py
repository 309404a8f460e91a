"""Error bodies that proxies, local servers and further clouds send, with their sources."""

import json
from typing import Any

from tests.support.openai_errors import CONTEXT, LIMITED, QUOTA, UPSTREAM, error


def nested(code: int, message: str, status: str) -> dict[str, Any]:
    inner = {"error": {"code": code, "message": message, "status": status}}
    return {"error": {"message": json.dumps(inner, indent=2), "code": code}}


OTHER_BODIES: dict[str, Any] = {
    # gemini-cli issue 14811, continue issue 10560: the body of the model's server as a text
    "Google behind a proxy": (
        429,
        nested(429, "Resource has been exhausted (e.g. check quota).", "RESOURCE_EXHAUSTED"),
        LIMITED,
        True,
        "Too Many Requests: Resource has been exhausted",
    ),
    "Google behind a proxy, a limit of a minute": (
        429,
        nested(429, "You exceeded your current quota, please check.", "RESOURCE_EXHAUSTED"),
        LIMITED,
        True,
        "exceeded your current quota",
    ),
    # litellm issue 11696
    "Azure, another body as text": (
        400,
        error(
            '{"detail":[{"type":"extra_forbidden","loc":["body","top_k"],"msg":"Extra '
            'inputs are not permitted"}]}',
            code="Invalid input",
            status=422,
        ),
        UPSTREAM,
        False,
        "body.top_k: Extra inputs are not permitted",
    ),
    "JSON that is no error as text": (
        400,
        error('{"a": 1}'),
        UPSTREAM,
        False,
        '{"a": 1}',
    ),
    # forgecode issue 571
    "OpenRouter, twice": (
        402,
        {"error": {"error": {"message": "More credits are required", "code": 402}, "code": 402}},
        QUOTA,
        False,
        "More credits",
    ),
    # openclaude issue 936: a day's limit passes
    "OpenRouter, free models": (
        429,
        {
            "error": {
                "message": "Rate limit exceeded: free-models-per-day. Add 10 credits to "
                "unlock 1000 free model requests per day",
                "code": 429,
            }
        },
        LIMITED,
        True,
        "free-models-per-day",
    ),
    # lmstudio-bug-tracker issues 546 and 2322
    "LM Studio, context": (
        400,
        {
            "error": "Trying to keep the first 111490 tokens when context the overflows. "
            "However, the model is loaded with context length of only 32768 tokens, not enough."
        },
        CONTEXT,
        False,
        "111490",
    ),
    "LM Studio, long prompt": (
        400,
        {
            "error": "The number of tokens to keep from the initial prompt is greater than the "
            "context length."
        },
        CONTEXT,
        False,
        "",
    ),
    "LM Studio, MLX": (400, {"error": "Context size has been exceeded."}, CONTEXT, False, ""),
    "SGLang, context": (
        400,
        {
            "object": "error",
            "message": "The input (40000 tokens) is longer than the model's "
            "context length (32768 tokens).",
            "type": "BadRequestError",
            "code": 400,
        },
        CONTEXT,
        False,
        "40000",
    ),
    "Mistral, context": (
        400,
        {
            "object": "error",
            "message": "Prompt contains 40007 tokens and 0 draft tokens, too "
            "large for model with 32768 maximum context length",
            "code": "3051",
        },
        CONTEXT,
        False,
        "40007",
    ),
    "Alibaba, context": (
        400,
        error("Range of input length should be [1, 30720]", code="invalid_parameter_error"),
        CONTEXT,
        False,
        "30720",
    ),
    "Alibaba, balance": (
        400,
        error(
            "Access denied, please make sure your account is in good standing.", code="Arrearage"
        ),
        QUOTA,
        False,
        "good standing",
    ),
    "Moonshot, balance": (
        429,
        error(
            "Your account is suspended, please check your plan and billing details",
            "exceeded_current_quota_error",
        ),
        QUOTA,
        False,
        "suspended",
    ),
    "Zhipu, balance": (429, {"error": {"code": "1113", "message": "余额不足"}}, QUOTA, False, ""),
}
