"""A task that is a class, as Celery had them before functions."""

from celery import Task, current_app


class RetryInAClass(Task):  # type: ignore[misc]  # celery has no type information
    """A task class without any code for this pool."""

    name = "tests.sample_app.pool_app.retry_in_a_class"
    autoretry_for = (ValueError,)
    retry_kwargs = {"max_retries": 1, "countdown": 0}  # noqa: RUF012  # as Celery has it

    def run(self) -> str:
        if not self.request.retries:
            raise ValueError("once more")
        return f"{self.request.retries} in {current_app.main}"
