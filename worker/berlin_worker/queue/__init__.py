"""The job queue: Celery and kombu, so adapted that no message is lost and none ends a worker.

``broker`` takes messages from Redis without a gap, ``priority_waits`` waits for those of other
priorities, ``guard`` and ``envelope`` read them, ``held`` has those that this worker holds and
``deliveries`` keeps them. ``consumer`` buries what is no job, ``remote_control`` drops what is no
command, ``doorbell`` puts a job on the queue again, ``depth`` counts the queue, and ``pulse`` tells
that the consumer is alive.
"""
