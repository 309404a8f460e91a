"""The job queue: Celery and kombu, so adapted that no message is lost and none ends a worker.

``broker`` takes messages from Redis without a gap, ``held`` has those that this worker holds and
``deliveries`` keeps them, ``consumer`` buries what is no job, ``doorbell`` puts a job on the queue
again, ``depth`` counts the queue, and ``pulse`` tells that the consumer is alive.
"""
