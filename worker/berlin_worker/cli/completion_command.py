"""`berlin completion`: the script by which a shell completes by TAB."""

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Complete commands, options and job IDs by TAB.

    Prints a script for your shell. Add one line to the start-up file of the shell:

    \b
      eval "$(berlin completion bash)"       in ~/.bashrc
      eval "$(berlin completion zsh)"        in ~/.zshrc, after compinit
      berlin completion fish | source        in ~/.config/fish/config.fish

    TAB then completes commands, options, files, providers and models, and the IDs of recent jobs
    if the Redis at REDIS_URL answers within 0.3 s.
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root().command
    found = get_completion_class(shell)
    assert found is not None, "click supports these three shells"
    click.echo(found(root, {}, "berlin", "_BERLIN_COMPLETE").source())
