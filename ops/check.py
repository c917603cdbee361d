"""Check alerts, dashboard queries and deployment files without starting any of it. `make ops-check` calls this.

That the names of metrics are those of the table is a test of the crate in `ops/dashboards`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

OPS = Path(__file__).resolve().parent
ALERTS, DEPLOY = OPS / "alerts", OPS / "deploy"
NEWER = ("otlp",)
"""Sections of prometheus.yml that the promtool we fetch (2.53) does not know yet."""


def load(path: Path):
    """A YAML file as plain values."""
    return YAML(typ="safe").load(path)


def run(*command: str | Path) -> Iterator[str]:
    """The output of a command, if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        yield f"{Path(command[0]).name} {command[1]} {command[2]}:\n{done.stdout}{done.stderr}"


def rules(promtool: str) -> Iterator[str]:
    """Syntax, and that each alert fires and keeps silent as the unit tests say."""
    yield from run(
        promtool, "check", "rules", "--lint=all", "--lint-fatal", ALERTS / "recorded.yml", ALERTS / "rules.yml"
    )
    yield from run(promtool, "test", "rules", ALERTS / "rules_test.yml")


def expressions(promtool: str, dashboards: str) -> Iterator[str]:
    """Every query of the dashboard parses."""
    listed = subprocess.run(
        [dashboards, "--expressions"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    records = [{"record": f"query:{number}", "expr": text} for number, text in enumerate(listed)]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "expressions.yml"
        # JSON is YAML.
        path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": records}]}))
        yield from run(promtool, "check", "rules", "--lint=none", path)


def alerts() -> Iterator[str]:
    """Each alert says how bad it is, what it saw and where its runbook is; and has a test with a neighbour."""
    anchors = {heading.lower() for heading in re.findall(r"^#+ (\w+)$", (OPS / "README.md").read_text(), re.MULTILINE)}
    tests = load(ALERTS / "rules_test.yml")["tests"]
    named = set()
    for rule in (rule for group in load(ALERTS / "rules.yml")["groups"] for rule in group["rules"]):
        name, labels, notes = rule["alert"], rule["labels"], rule["annotations"]
        named.add(name.lower())
        if labels["severity"] not in ("page", "ticket"):
            yield f"{name}: severity {labels['severity']} is neither page nor ticket"
        if not notes["summary"] or "$value" not in notes["description"]:
            yield f"{name}: needs a summary, and a description with the value"
        if notes["runbook"] != f"ops/README.md#{name.lower()}" or name.lower() not in anchors:
            yield f"{name}: runbook {notes['runbook']} is not a section of ops/README.md"
        yield from tested(name, labels, " ".join(notes.values()), tests)
    for anchor in sorted(anchor for anchor in anchors if anchor.startswith("gristmill") and anchor not in named):
        yield f"ops/README.md has a section {anchor}, and there is no such alert"


def tested(name: str, labels: dict, notes: str, tests: list) -> Iterator[str]:
    """One alert's tests: it fires for job "fires" only, with labels that its texts can use."""
    mine = [test for test in tests if name in test["name"]]
    given = {
        job for test in mine for series in test["input_series"] for job in re.findall(r'job="(\w+)"', series["series"])
    }
    if not given >= {"fires", "silent"}:
        yield f"{name}: no test in which it fires and a neighbour is silent"
    samples = [sample["labels"] for test in mine for case in test["promql_expr_test"] for sample in case["exp_samples"]]
    fired = [dict(re.findall(r'(\w+)="([^"]*)"', text)) for text in samples if f'alertname="{name}"' in text]
    if not any(labels.items() <= sample.items() for sample in fired):
        yield f"{name}: no test expects it with {labels}"
    if any(sample["job"] != "fires" for sample in fired):
        yield f"{name}: a test expects it of another job than 'fires'"
    # Texts see the labels of the expression, not those that the rule adds: others would be empty.
    usable = set.intersection(*(set(sample) for sample in fired)) - set(labels) if fired else set()
    for label in sorted(set(re.findall(r"\$labels\.(\w+)", notes)) - usable):
        yield f"{name}: its texts use the label {label}, which it does not have"


def prometheus(promtool: str) -> Iterator[str]:
    """The configuration, but for what is newer than promtool."""
    config = {key: value for key, value in load(DEPLOY / "prometheus.yml").items() if key not in NEWER}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "prometheus.yml"
        path.write_text(json.dumps(config))
        (Path(scratch) / "alerts").symlink_to(ALERTS)
        yield from run(promtool, "check", "config", path)


def collector() -> Iterator[str]:
    """Components declared are components used, and memory is limited first."""
    config = load(DEPLOY / "otelcol.yaml")
    pipelines = config["service"]["pipelines"]
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in pipelines.values() for name in pipeline[kind]}
        for name in sorted(used ^ set(config[kind])):
            yield f"otelcol.yaml: {kind[:-1]} {name} is {'not declared' if name in used else 'not used'}"
    if set(config["extensions"]) != set(config["service"]["extensions"]):
        yield "otelcol.yaml: extensions declared and used differ"
    for name, pipeline in pipelines.items():
        if pipeline["processors"][0] != "memory_limiter":
            yield f"otelcol.yaml: pipeline {name} does not begin with memory_limiter"


def compose(bin_dir: Path) -> Iterator[str]:
    """The schema; files that are mounted exist; hosts that files name are services."""
    path = DEPLOY / "compose.yaml"
    yield from run(bin_dir / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)
    services = load(path)["services"]
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith(".") and not (DEPLOY / source).exists():
                yield f"compose.yaml: {name} mounts {source}, which does not exist"
        image = service.get("image", "")
        if not re.search(r":(v?\d+\.\d+\.\d+\S*|local)$", image):
            yield f"compose.yaml: {name}: {image} is not pinned to a version"
    for file in sorted(DEPLOY.rglob("*.y*ml")):
        for host in re.findall(r"(?:http|nats)://(\w+):\d+|endpoint: (\w+):\d+", file.read_text()):
            if (host := "".join(host)) not in {*services, "localhost"} and not host.isdigit():
                yield f"{file.name}: {host} is no service of compose.yaml"


def main() -> None:
    """Run all checks, and end with every fault found."""
    promtool, dashboards = sys.argv[1:]
    faults = [
        *rules(promtool),
        *expressions(promtool, dashboards),
        *alerts(),
        *prometheus(promtool),
        *collector(),
        *compose(Path(sys.executable).parent),
    ]
    if faults:
        sys.exit("\n".join(faults))
    print("ops: rules and their tests, dashboard queries, Prometheus, collector and compose files are in order")


if __name__ == "__main__":
    main()
