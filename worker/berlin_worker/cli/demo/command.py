"""`berlin demo`: its options."""

import click

_PROMPT = "Why is the sky blue?"


@click.command()
@click.argument("prompt", default=_PROMPT)
@click.option(
    "--provider",
    type=click.Choice(["berlin", "openai"]),
    default="berlin",
    show_default=True,
    help="The protocol of the stand-in.",
)
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C.")
@click.option(
    "--topology",
    type=click.Choice(["single", "sentinel", "cluster"]),
    default="single",
    show_default=True,
    help="The servers to start; all but single ignore REDIS_URL.",
)
def demo(prompt: str, provider: str, keep: bool, topology: str) -> None:
    """Stream a prompt through a whole setup, nothing to install.

    Starts a Redis (or uses an idle one at REDIS_URL), a stand-in for the upstream and a real
    worker. Sends PROMPT through the queue, streams the text, and cleans up.

    \b
      berlin demo
      berlin demo "Tell me a story"
      berlin demo "Hello [[cut:20*1]]"     the upstream breaks off once
      berlin demo --provider openai "Hello [[reasoning:5]][[tool_calls:1]]"
      berlin demo --topology sentinel      a primary, a replica, Sentinels
      berlin demo --keep                   prints what to export in a second terminal
    """
    from berlin_worker.cli.demo import run as work

    raise SystemExit(work.run(prompt, provider=provider, keep=keep, topology=topology))
