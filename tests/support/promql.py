"""Find the metrics and labels that a PromQL expression names, and whether a worker has them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.manifests import DEPLOY

_GIVEN_BY_PROMETHEUS = {"instance", "job"}
_KEYWORDS = {
    "and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right",
    "offset", "bool",
}  # fmt: skip
_VARIABLES = {"$__rate_interval": "5m", "$instance": ".*", "$provider": ".*"}


@dataclass(frozen=True)
class Expression:
    """One expression, and its place. Variables of Grafana have a value."""

    where: str
    text: str


@dataclass
class Samples:
    """The output of `/metrics` of some workers: the labels of each sample, by its name."""

    samples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def add(self, metrics: str) -> None:
        """Read one more output."""
        for family in text_string_to_metric_families(metrics):
            for sample in family.samples:
                self.samples.setdefault(sample.name, []).append(sample.labels)

    def missing(self, text: str) -> Iterator[str]:
        """Yield the series that an expression names and no sample has."""
        selectors = list(selectors_of(text))
        labels: set[str] = set()
        for name, matchers in selectors:
            if name == "up":  # Prometheus' own, for each target
                continue
            known = self.samples.get(name)
            if known is None:
                yield name
                continue
            labels |= {label for each in known for label in each}
            wanted = [m for m in matchers if m[0] not in _GIVEN_BY_PROMETHEUS]
            if not any(all(_fits(each, *matcher) for matcher in wanted) for each in known):
                yield f"{name} with {wanted}"
        for label in grouped_by(text):
            if label not in labels | _GIVEN_BY_PROMETHEUS:
                yield f"the label {label} in {[name for name, _ in selectors]}"


def _fits(labels: dict[str, str], label: str, operator: str, value: str) -> bool:
    if label not in labels:
        return False
    if operator == "=":
        return labels[label] == value
    if operator == "=~":
        return re.fullmatch(value, labels[label]) is not None
    # Some series appear only after a fault.
    return True


def selectors_of(text: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Yield each metric of an expression with its matchers: label, operator, value."""
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    for match in re.finditer(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\}|\()?", re.sub(r"\[.*?\]", "", bare)):
        name, rest = match.groups()
        if rest == "(" or name in _KEYWORDS or re.search(r"\d$", bare[: match.start()]):
            continue  # a function, a word of the language, the unit of a duration
        yield name, re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', rest or "")


def grouped_by(text: str) -> set[str]:
    """Return the labels by which an expression groups or matches."""
    clauses = re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", text)
    return {label.strip() for clause in clauses for label in clause.split(",") if label.strip()}


def expressions() -> list[Expression]:
    """Return every expression of the alerts and of the dashboard, its variables' queries too."""
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "berlin.json").read_text())
    found = [
        Expression(f"alert {rule['alert']}", rule["expr"])
        for group in rules["groups"]
        for rule in group["rules"]
    ]
    found += [
        Expression(f"panel {panel['title']}", target["expr"])
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]
    for variable in board["templating"]["list"]:
        if variable["type"] == "datasource":
            continue
        asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        assert asked, variable
        found.append(
            Expression(f"variable {variable['name']}", f"sum by ({asked[2]}) ({asked[1]})")
        )
    return [Expression(each.where, _plain(each.text)) for each in found]


def _plain(text: str) -> str:
    for variable, value in _VARIABLES.items():
        text = text.replace(variable, value)
    assert "$" not in text, f"an unknown variable: {text}"
    return text
