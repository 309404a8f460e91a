"""Providers of every server that speaks OpenAI's chat completions."""

from berlin_worker.providers.openai.provider import OpenAIProvider

__all__ = ["OpenAIProvider"]
