"""``python -m tests.benchmarks``: all contenders, side by side, in turns. See ``make bench``."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from berlin_worker.embedded.redis_server import find_server
from tests.benchmarks import capacity, envs, report
from tests.benchmarks.fleet import CONTENDERS, ENVS, ROOT, Contender
from tests.benchmarks.processes import Bench, Failed
from tests.benchmarks.run import Run
from tests.benchmarks.scenarios import EVERYBODY, Scenario, scenarios
from tests.benchmarks.stats import percentile

OUT = ROOT / ".bench"


def as_lines(figures: dict[str, Any]) -> str:
    """Return the figures as JSON with a line for each run."""
    head = json.dumps({name: value for name, value in figures.items() if name != "runs"})
    runs = ",\n".join(json.dumps(run) for run in figures["runs"])
    return f'{head[:-1]},\n"runs": [\n{runs}\n]}}\n'


def main() -> int:
    """Measure, print the tables, write the JSON; 1 if anything was lost or failed."""
    options = _options()
    OUT.mkdir(exist_ok=True)
    binary = find_server()
    if binary is None:
        print("no redis-server and no valkey-server found", file=sys.stderr)
        return 1
    contenders = [CONTENDERS[name] for name in EVERYBODY if name in options.only]
    for name in sorted({contender.env for contender in contenders} - {""}):
        envs.install(name)
    wanted = [s for s in scenarios(options.size) if s.name in options.scenarios]
    figures: dict[str, Any] = {
        "begun": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "size": options.size,
        "rounds": options.rounds,
        "machine": _machine(binary),
        "load_average": os.getloadavg()[0],
        "runs": [],
    }
    with Bench.started(binary) as bench:
        own = bench.upstream_ms()
        figures["upstream_first_chunk_ms"] = {
            "p50": percentile(own, 50),
            "p99": percentile(own, 99),
        }
        for number in range(options.rounds):
            for scenario in wanted:
                if number < scenario.rounds_at_most:
                    # Another order in each round: no contender always follows the same one.
                    turn = number % len(contenders)
                    for contender in contenders[turn:] + contenders[:turn]:
                        if contender.name in scenario.contenders:
                            figures["runs"].append(_run(bench, contender, scenario, number))
                            # These figures are kept, even if a later run never ends.
                            options.json.write_text(as_lines(figures))
    figures["runs"] = report.with_memory(figures["runs"])
    figures["titles"] = {contender.name: contender.title for contender in contenders}
    options.json.write_text(as_lines(figures))
    print(report.markdown(figures))
    if options.publish:
        _publish(figures)
    return 0 if all(run.get("sound") for run in figures["runs"]) else 1


def _publish(figures: dict[str, Any]) -> None:
    """Write JSON, tables and plot beside this file, the targets and the capacity into documents."""
    here = Path(__file__).parent
    (here / "figures.json").write_text(as_lines(figures))
    (here / "FIGURES.md").write_text(f"# Figures\n\n{report.markdown(figures)}\n")
    envs.install("plot")
    paths = (here / "plot.py", here / "figures.json", here / "figures.svg")
    subprocess.run([ENVS / "plot" / "bin" / "python", *paths], check=True)
    readme = ROOT / "tests/README.md"
    readme.write_text(report.filled(readme.read_text(), figures))
    readme = capacity.README
    readme.write_text(capacity.filled(readme.read_text(), capacity.costs_of(figures)))


def _run(bench: Bench, contender: Contender, scenario: Scenario, number: int) -> dict[str, Any]:
    log = OUT / f"{contender.name}.log"
    head = {"scenario": scenario.name, "contender": contender.name, "round": number + 1}
    begun = time.monotonic()
    try:
        with Run(bench, contender, scenario.held_by(contender.max_streams), log) as run:
            figures = run.figures()
    except Failed as error:
        figures = {"sound": False, "error": str(error)}
    detail = {key: value for key, value in figures.items() if key not in {"lag_ms", "jobs", "lost"}}
    print(f"{time.monotonic() - begun:5.1f} s {head} {detail}", file=sys.stderr)
    return head | figures


def _machine(binary: Path) -> str:
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    server = next((w for w in version.stdout.split() if w.startswith("v=")), "")
    python = platform.python_version()
    return f"{os.cpu_count()} cores, Python {python}, {binary.name} {server.removeprefix('v=')}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    names = [scenario.name for scenario in scenarios("full")]
    parser.add_argument("--size", choices=("tiny", "quick", "full"), default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=_list_of(EVERYBODY), default=EVERYBODY, metavar="NAMES")
    parser.add_argument("--scenarios", type=_list_of(names), default=names, metavar="NAMES")
    parser.add_argument("--json", type=Path, default=OUT / "figures.json")
    parser.add_argument("--publish", action="store_true", help="write documents, tables and plot")
    return parser.parse_args()


def _list_of(known: Any) -> Any:
    def names(text: str) -> list[str]:
        given = text.split(",")
        if unknown := set(given) - set(known):
            detail = f"{', '.join(sorted(unknown))}; known: {', '.join(known)}"
            raise argparse.ArgumentTypeError(detail)
        return given

    return names


if __name__ == "__main__":
    sys.exit(main())
