"""Write the pictures of the README from a real run: ``python -m tests.recordings``.

It starts a Redis, the stand-in upstream and two workers, runs the commands, and exports what they
print as SVG by rich. Everything that it starts ends with it.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from berlin_worker.client import Client
from berlin_worker.embedded.redis_server import any_redis
from berlin_worker.embedded.upstream import upstream_in_thread
from tests.support.workers import ROOT

TARGET: Final = ROOT / "deploy/recordings"
BERLIN: Final = str(Path(sys.executable).with_name("berlin"))
WIDTH: Final = 96
LOAD_S: Final = 9.0
"""`berlin top` shows rates of the last ten seconds."""
PROMPT: Final = "Explain how a stream survives its worker. [[cut:9*1]]"
REPLY: Final = (
    "Every chunk has a number. The log in Redis keeps them all, so a reader that comes late, or "
    "comes back, gets the rest. When a worker dies, its lease expires and another one takes over."
)
_TIMEOUT_S: Final = 60.0


@contextlib.contextmanager
def worker(environ: Mapping[str, str], name: str) -> Iterator[None]:
    """Run a worker until the block ends."""
    command = [BERLIN, "worker", "-c", "200", "--hostname", f"{name}@%h"]
    command += ["--without-mingle", "--without-gossip"]
    process = subprocess.Popen(
        command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(_TIMEOUT_S)


def output_of(environ: Mapping[str, str], *command: str) -> str:
    """Return what a command prints, with its colours; raises an error if it fails."""
    done = subprocess.run(
        [BERLIN, *command],
        env={**environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        timeout=_TIMEOUT_S,
    )
    return done.stdout


def picture(title: str, *runs: tuple[str, str]) -> str:
    """Return an SVG of a terminal: each command, as typed, and its output."""
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    for command, output in runs:
        console.print(Text.assemble(("$ ", "green"), (command, "bold")))
        console.print(Text.from_ansi(output.rstrip()))
        console.print()
    svg = console.export_svg(title=title, theme=MONOKAI, unique_id=title.replace(" ", "-"))
    # No font from another server: the viewer's own will do.
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return "\n".join(map(str.rstrip, svg.splitlines())) + "\n"


def top_with(environ: Mapping[str, str], text: str) -> str:
    """Return the output of ``berlin top --once`` when ``text`` is in it."""
    give_up = time.monotonic() + _TIMEOUT_S
    while text not in Text.from_ansi(shown := output_of(environ, "top", "--once")).plain:
        if time.monotonic() > give_up:
            raise TimeoutError(f"{text!r} is not in:\n{shown}")
        time.sleep(0.5)
    return shown


def main() -> None:
    """Record both pictures."""
    TARGET.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        url, _ = stack.enter_context(any_redis())
        upstream = stack.enter_context(upstream_in_thread(reply=REPLY, chunk_delay_s=0.1))
        environ = {**os.environ, **upstream.environ, "REDIS_URL": url}
        for name in ("one", "two"):
            stack.enter_context(worker(environ, name))
        top_with(environ, "workers  2")
        submitted = output_of(environ, "submit", "--no-stdin", PROMPT)
        found = re.search(r"[0-9a-f-]{36}", submitted)
        assert found
        lines = output_of(environ, "tail", "--json", found[0]).splitlines()
        runs = (
            (f'berlin submit "{PROMPT}"', submitted),
            (f"berlin tail --json {found[0]} | tail -n 3", "\n".join(lines[-3:])),
        )
        (TARGET / "stream.svg").write_text(picture("berlin submit", *runs), encoding="utf-8")
        with Client(environ["REDIS_URL"]) as client:
            ends = time.monotonic() + LOAD_S
            while time.monotonic() < ends:
                client.submit("Hello", tenant="acme")
                time.sleep(0.03)
            top = top_with(environ, " in flight")
        (TARGET / "top.svg").write_text(picture("berlin top", ("berlin top", top)), "utf-8")
    print(f"written: {TARGET}/stream.svg, top.svg")


if __name__ == "__main__":
    main()
