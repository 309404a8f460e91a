"""Berlin Worker: prompt jobs in by Celery, token streams out over Redis."""
