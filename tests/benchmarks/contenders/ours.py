"""Ours: the producer alone, a bare Celery app that uses only the contract.

The worker is ``celery -A berlin_worker worker -c <streams>``, the ordinary command.
"""

from celery import Celery
from shared import REDIS_URL, orders

app = Celery(broker=REDIS_URL)

if __name__ == "__main__":
    with app.producer_or_acquire() as producer:
        for job_id, prompt in orders():
            job = {"messages": [{"role": "user", "content": prompt}]}
            app.send_task(
                "worker.generate", args=[job], queue="prompts", task_id=job_id, producer=producer
            )
