"""Error bodies that OpenAI-compatible servers really send. Each body names its source."""

from typing import Any

from berlin_schemas import ErrorCode

QUOTA = ErrorCode.QUOTA_EXCEEDED
CONTEXT = ErrorCode.CONTEXT_LENGTH_EXCEEDED
UPSTREAM = ErrorCode.UPSTREAM_ERROR
LIMITED = ErrorCode.RATE_LIMITED
AUTH = ErrorCode.AUTH_FAILED


def error(message: str, kind: Any = None, code: Any = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **more}}


# (status, body, code, retryable, a part of the message)
BODIES: dict[str, tuple[int, Any, ErrorCode, bool, str]] = {
    # https://platform.openai.com/docs/guides/error-codes, and langchainjs issue 1929
    "OpenAI, quota": (
        429,
        error("You exceeded your current quota, please check your plan and billing details.",
              "insufficient_quota", "insufficient_quota"),
        QUOTA, False, "check your plan",
    ),
    # ChatGPTAPIFree issue 16: the code was null in 2023
    "OpenAI, quota without a code": (
        429, error("You exceeded your current quota.", "insufficient_quota"), QUOTA, False, "",
    ),
    "OpenAI, rate": (
        429,
        error("Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit "
              "30000, Used 29000, Requested 2000. Please try again in 2s.", "tokens",
              "rate_limit_exceeded"),
        LIMITED, True, "Rate limit reached",
    ),
    "OpenAI, context": (
        400,
        error("This model's maximum context length is 4097 tokens. However, your messages "
              "resulted in 5000 tokens. Please reduce the length of the messages.",
              "invalid_request_error", "context_length_exceeded"),
        CONTEXT, False, "maximum context length",
    ),
    "OpenAI, key": (
        401,
        error("Incorrect API key provided: sk-12345*****wxyz. You can find your API key at "
              "https://platform.openai.com/account/api-keys.", "invalid_request_error",
              "invalid_api_key"),
        AUTH, False, "You can find your API key",
    ),
    "OpenAI, region": (
        403, error("Country, region, or territory not supported", "request_forbidden",
                   "unsupported_country_region_territory"), AUTH, False, "territory",
    ),
    "OpenAI, model": (
        404, error("The model `gpt-9` does not exist or you do not have access to it.",
                   "invalid_request_error", "model_not_found"), UPSTREAM, False, "gpt-9",
    ),
    "OpenAI, busy": (
        503, error("The engine is currently overloaded, please try again later", "server_error"),
        UPSTREAM, True, "overloaded",
    ),
    # https://learn.microsoft.com/azure/ai-services/openai: quotas, content filter
    "Azure, rate": (
        429,
        {"error": {"code": "429", "message": "Requests to the ChatCompletions_Create Operation "
                   "have exceeded token rate limit. Please retry after 7 seconds."}},
        LIMITED, True, "retry after 7",
    ),
    "Azure, key": (
        401,
        {"statusCode": 401, "message": "Access denied due to invalid subscription key."},
        AUTH, False, "Access denied",
    ),
    "Azure, content filter": (
        400,
        error("The response was filtered due to the prompt triggering Azure OpenAI's content "
              "management policy.", None, "content_filter", status=400,
              innererror={"code": "ResponsibleAIPolicyViolation"}),
        UPSTREAM, False, "content management policy",
    ),
    "Azure, deployment": (
        404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this "
                        "resource does not exist."}}, UPSTREAM, False, "deployment",
    ),
    # vLLM issues 4667 and 20409; the error stands alone in versions before 0.10
    "vLLM, context": (
        400,
        {"object": "error", "message": "This model's maximum context length is 6048 tokens. "
         "However, you requested 6616 tokens (568 in the messages, 6048 in the completion). "
         "Please reduce the length of the messages or completion.", "type": "BadRequestError",
         "param": None, "code": 400},
        CONTEXT, False, "6616 tokens",
    ),
    "vLLM, long prompt": (
        400, error("The decoder prompt (length 9000) is longer than the maximum model length of "
                   "8192. Make sure that `max_model_len` is no smaller.", "BadRequestError", 400),
        CONTEXT, False, "decoder prompt",
    ),
    "vLLM, value": (
        400,
        {"object": "error", "message": "max_tokens must be at least 1, got -186.",
         "type": "BadRequestError", "param": None, "code": 400},
        UPSTREAM, False, "max_tokens must be at least 1",
    ),
    "vLLM, model": (
        404, error("The model `x` does not exist.", "NotFoundError", 404), UPSTREAM, False, "`x`",
    ),
    # llama.cpp pull request 15780, issue 19774
    "llama.cpp, context": (
        400,
        {"error": {"code": 400, "message": "request (4390 tokens) exceeds the available context "
                   "size (4096 tokens), try increasing it", "type": "exceed_context_size_error",
                   "n_prompt_tokens": 4390, "n_ctx": 4096}},
        CONTEXT, False, "4390 tokens",
    ),
    "llama.cpp, context as 500": (
        500, {"error": {"code": 500, "message": "Context size has been exceeded.",
                        "type": "server_error"}}, CONTEXT, False, "",
    ),
    "llama.cpp, loading": (
        503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
        UPSTREAM, True, "Loading model",
    ),
    # llama_cpp/server/errors.py
    "llama-cpp-python, context": (
        400, error("This model's maximum context length is 2048 tokens. However, you requested "
                   "2285 tokens.", "invalid_request_error", "context_length_exceeded"),
        CONTEXT, False, "",
    ),
    # Ollama: server/routes.go, openai/openai.go
    "Ollama, model": (
        404, error('model "llama9" not found, try pulling it first', "api_error"),
        UPSTREAM, False, "try pulling it first",
    ),
    "Ollama, native": (500, {"error": "llama runner process has terminated"}, UPSTREAM, True,
                       "llama runner"),
    # https://openrouter.ai/docs/api/reference/errors-and-debugging
    "OpenRouter, credits": (
        402, {"error": {"code": 402, "message": "Insufficient credits. Add more using the page."}},
        QUOTA, False, "Insufficient credits",
    ),
    "OpenRouter, provider": (
        429,
        {"error": {"code": 429, "message": "Provider returned error", "metadata": {
            "raw": "x is temporarily rate-limited upstream.", "provider_name": "Chutes"}},
         "user_id": "user_1"},
        LIMITED, True, "temporarily rate-limited",
    ),
    "OpenRouter, none": (
        503, {"error": {"code": 503, "message": "No instances available"}}, UPSTREAM, True, "",
    ),
    # LiteLLM: docs.litellm.ai/docs/exception_mapping, issue 37599; its codes are strings
    "LiteLLM, context": (
        400,
        error("litellm.ContextWindowExceededError: litellm.BadRequestError: OpenAIException - too "
              "long. Received Model Group=x\nAvailable Model Group Fallbacks=None", None, "400"),
        CONTEXT, False, "too long",
    ),
    "LiteLLM, quota": (
        429,
        error("litellm.RateLimitError: RateLimitError: OpenAIException - You exceeded your "
              "current quota, please check your plan.", "throttling_error", "429"),
        QUOTA, False, "",
    ),
    "LiteLLM, budget": (
        400,
        error("Budget has been exceeded! Current cost: 1.2, Max budget: 1.0", "budget_exceeded",
              "400"),
        QUOTA, False, "",
    ),
    "LiteLLM, key": (
        401,
        error("Authentication Error, Invalid proxy server token passed. Received API Key = "
              "sk-...wxyz, Key Hash (Token) =HASH. Unable to find token in cache", "auth_error",
              "401"),
        AUTH, False, "Authentication Error",
    ),
    "LiteLLM, limit of Anthropic": (
        400,
        error("litellm.BadRequestError: AnthropicException - b'You have reached your specified "
              "API usage limits. You will regain access on 2026-09-01.'", None, "400"),
        QUOTA, False, "",
    ),
    # ai.google.dev, compatible endpoint: a list; its quota passes within a minute
    "Google": (
        429,
        [{"error": {"code": 429, "message": "You exceeded your current quota, please check your "
                    "plan and billing details.", "status": "RESOURCE_EXHAUSTED"}}],
        LIMITED, True, "",
    ),
    # docs.mistral.ai, FastAPI's validation
    "Mistral": (
        422,
        {"object": "error", "message": {"detail": [
            {"type": "extra_forbidden", "loc": ["body", "best_of"], "msg": "Extra inputs are not "
             "permitted", "input": 3}]}, "type": "invalid_request_error"},
        UPSTREAM, False, "body.best_of: Extra inputs",
    ),
    "FastAPI": (
        422, {"detail": [{"loc": ["body", "messages"], "msg": "Field required", "input": {}}]},
        UPSTREAM, False, "body.messages: Field required",
    ),
    "FastAPI, text": (404, {"detail": "Not Found"}, UPSTREAM, False, "Not Found"),
    # console.groq.com/docs/errors
    "Groq, size": (
        413, error("Request too large for model on tokens per minute (TPM): Limit 6000", "tokens",
                   "rate_limit_exceeded"), UPSTREAM, False, "too large",
    ),
    # docs.anthropic.com, by its compatible endpoint
    "Anthropic, busy": (
        529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        UPSTREAM, True, "Overloaded",
    ),
    "Anthropic, context": (
        400, error("prompt is too long: 210000 tokens > 200000 maximum", "invalid_request_error"),
        CONTEXT, False, "",
    ),
    "Anthropic, balance": (
        400, {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit "
              "balance is too low to access the Anthropic API. Please go to Plans & Billing."}},
        QUOTA, False, "Plans & Billing",
    ),
    # docs.x.ai; OpenRouter: a limit that its user has set for a key
    "xAI, credits": (
        429, {"code": "The caller does not have permission", "error": "Your team has either used "
              "all available credits or reached its monthly spending limit."}, QUOTA, False, "",
    ),
    "OpenRouter, key": (
        403, {"error": {"code": 403, "message": "Key limit exceeded (total limit). Manage it by "
                        "the page of your keys."}}, QUOTA, False, "Key limit exceeded",
    ),
    "Azure, content filter with its results": (
        400,
        {"error": {"code": "content_filter", "message": "The prompt was filtered.", "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"hate": {"filtered": True, "severity": "high"}}}}},
        UPSTREAM, False, "The prompt was filtered",
    ),
    "DeepSeek, balance": (402, error("Insufficient Balance", "unknown_error",
                                     "invalid_request_error"), QUOTA, False, ""),
    "page": (502, "<html><h1>502 Bad Gateway</h1><hr>nginx</html>", UPSTREAM, True, "nginx"),
    "nothing": (500, "", UPSTREAM, True, "500 Internal Server Error"),
    "timeout": (408, "", UPSTREAM, True, "408"),
    "conflict": (409, error("please retry"), UPSTREAM, True, ""),
    "too large": (413, "", UPSTREAM, False, ""),
    "moved": (308, "", UPSTREAM, False, "redirect"),
    "odd": (418, {"error": {}}, UPSTREAM, False, ""),
    "odd too": (400, {"error": [1, {"message": None}]}, UPSTREAM, False, ""),
}  # fmt: skip
