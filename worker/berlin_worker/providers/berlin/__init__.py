"""The Berlin chat service."""

from berlin_worker.providers.berlin.provider import Berlin, BerlinProvider

__all__ = ["Berlin", "BerlinProvider"]
