"""Celery's consumer and kombu's Redis transport, adapted so that no message is lost."""
