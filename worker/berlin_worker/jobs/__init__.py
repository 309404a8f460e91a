"""Run one job from its claim to its end: no Redis, no HTTP and no Celery."""
