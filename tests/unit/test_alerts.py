"""deploy/alerts.yaml: every rule is complete, and speaks of metrics and labels that the daemons have."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s_ovs.cli.reference import declared, registries
from k8s_ovs.flows.names import Drop, StageId

ROOT = Path(__file__).parents[2]
DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text())
RULES: list[dict[str, Any]] = [rule for group in DOCUMENT["spec"]["groups"] for rule in group["rules"]]
METRICS = {metric.name: metric for registry in registries().values() for metric in declared(registry)}
SCRAPED = {"instance", "job", "le"}
"""Labels that Prometheus adds, and the one of a histogram's buckets."""


def families(name: str) -> str:
    """The metric that a series of an expression belongs to."""
    base = re.sub(r"_(bucket|count|sum)$", "", name)
    return base if base in METRICS and METRICS[base].kind == "histogram" else name


def test_it_is_a_prometheus_rule() -> None:
    assert (DOCUMENT["apiVersion"], DOCUMENT["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names)) > 15


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_is_complete(rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"K8sOvs([A-Z][a-z]+)+", rule["alert"])
    assert re.fullmatch(r"\d+[mh]", rule.get("for", "0m"))
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    for key in ("summary", "description"):
        assert rule["annotations"][key].endswith("."), key
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert used <= labels_of(rule["expr"]) | SCRAPED


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_expression_uses_what_exists(rule: dict[str, Any]) -> None:
    expr = rule["expr"]
    series = re.findall(r"\bk8s_ovs_\w+", expr)
    assert series
    assert {families(name) for name in series} <= METRICS.keys()
    for name, selector in re.findall(r"\b(k8s_ovs_\w+)\{([^}]*)\}", expr):
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        assert asked <= set(METRICS[families(name)].labels) | SCRAPED
    for kept in re.findall(r"\b(?:by|on|without|ignoring) \(([^)]*)\)", expr):
        assert {label.strip() for label in kept.split(",")} <= labels_of(expr) | SCRAPED
    for name in series:
        counter = METRICS[families(name)].kind in ("counter", "histogram")
        assert counter == bool(re.search(rf"\b(rate|increase)\({name}\b", expr)), (
            "counters by their rate, gauges as they are"
        )
    assert expr.count("(") == expr.count(")")


def test_drops_are_named_as_the_pipeline_names_them() -> None:
    stages, reasons = {stage.label for stage in StageId}, {drop.label for drop in Drop}
    text = " ".join(rule["expr"] for rule in RULES)
    named = re.findall(r'(stage|reason)=~?"([^"]*)"', text)
    assert len(named) == 4
    for label, values in named:
        assert set(values.split("|")) <= (stages if label == "stage" else reasons)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_runbook_leads_to_a_heading(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    text = (ROOT / page).read_text()
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    assert not anchor or anchor in headings


def labels_of(expr: str) -> set[str]:
    """Labels of the metrics in an expression."""
    return {label for name in re.findall(r"\bk8s_ovs_\w+", expr) for label in METRICS[families(name)].labels}
