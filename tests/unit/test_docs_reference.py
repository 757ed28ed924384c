"""The generated pages about metrics and configuration, and the naming rules that every metric keeps.

Rules: https://prometheus.io/docs/practices/naming/ and /docs/practices/instrumentation/.
"""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from k8s_ovs.cli import reference
from k8s_ovs.cli.main import COMMANDS
from k8s_ovs.cli.reference import Declared, declared, registries

DOCS = Path(__file__).parents[2] / "docs"
OTHER_UNITS = re.compile(
    r"_(ms|millis\w*|micros\w*|us|ns|minutes?|hours?|days?|kb|mb|kib|mib|kilobytes|bits|percent)(_|$)"
)
FEW = {"command", "code", "kind", "result", "source", "stage", "reason", "table", "version"}
"""Labels whose values are few and known beforehand: none is a pod, a Namespace, a node or an address."""
METRICS = [metric for registry in registries().values() for metric in declared(registry)]


@pytest.mark.parametrize("page", reference.PAGES)
def test_the_committed_page_is_current(page: str) -> None:
    assert (DOCS / f"{page}.md").read_text() == reference.PAGES[page](), (
        f"docs/{page}.md is stale: run `make docs` and look at the difference"
    )


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metrics_keep_the_naming_rules(metric: Declared) -> None:
    assert re.fullmatch(r"k8s_ovs(_[a-z][a-z0-9]*)+", metric.name)
    assert metric.kind in ("counter", "gauge", "histogram")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.kind != "histogram" or metric.name.endswith(("_seconds", "_bytes"))
    assert (
        not re.search(r"_(count|sum|bucket|created|info)$", metric.name)
        or metric.name == "k8s_ovs_build_info"
    )
    assert not OTHER_UNITS.search(metric.name), "base units: seconds and bytes"
    assert set(metric.labels) <= FEW
    assert not any(label in metric.name.split("_") for label in metric.labels)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metrics_say_what_they_are_in_a_sentence(metric: Declared) -> None:
    assert re.fullmatch(r"[A-Z0-9].{15,}\.", metric.meaning), metric.meaning


def test_no_name_is_used_twice_as_both_daemons_may_run_in_one_process() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names)) > 40


@pytest.mark.parametrize("name", registries())
def test_what_a_scrape_shows_can_be_parsed_and_has_help(name: str) -> None:
    registry: CollectorRegistry = registries()[name]
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    shown = {family.name for family in families if not family.name.endswith("_created")}
    assert {metric.name.removesuffix("_total") for metric in declared(registry)} == {
        family.removesuffix("_total") for family in shown
    }
    assert all(family.documentation for family in families)


def test_every_command_of_an_installation_is_in_the_configuration() -> None:
    page = reference.configuration_page()
    for command in COMMANDS.keys() - {"lab"}:
        assert f"\n## k8s-ovs {command}\n" in page
    assert "## k8s-ovs subnet assign\n" in page
    row = "| `--mtu` | `K8S_OVS_MTU` |  | MTU of pods. [default: the underlay's less 50] |"
    assert row in page
    assert "| `--etcd-endpoints` | `K8S_OVS_ETCD_ENDPOINTS` | `http://127.0.0.1:2379` |" in page
    assert "Sentinel" not in page
    assert "--help`" not in page.replace("`--help` of", "")


def test_options_have_a_help_text_each() -> None:
    rows = [line for line in reference.configuration_page().splitlines() if line.startswith("| `-")]
    assert len(rows) > 50
    bare = [row for row in rows if re.search(r"\|\s*\|$", row)]
    assert not bare
