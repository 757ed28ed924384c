"""The matrix as text: one row for each source, one narrow column for each destination. Pure."""

from collections.abc import Callable

from k8s_ovs.config import Mode
from k8s_ovs.lab.matrix import End, Finding, Matrix
from k8s_ovs.lab.probes import Protocol
from k8s_ovs.model.tenancy import Kind
from k8s_ovs.model.types import GLOBAL_VNI

_LETTER = {Protocol.TCP: "T", Protocol.UDP: "U", Protocol.ICMP: "I"}
_WIDTH = 5
_MOST_DIFFERENCES = 20

Paint = Callable[[str, str], str]
"""Text and a colour name ("green", "bright_black", "red") to text."""


def plain(text: str, _: str) -> str:
    """No colour."""
    return text


def render(matrix: Matrix, paint: Paint = plain) -> str:
    """The table, its legend, and the differences in words."""
    cells: dict[tuple[str, str], list[Finding]] = {}
    for finding in matrix.findings:
        cells.setdefault((finding.source, finding.destination), []).append(finding)
    labels = [_label(end, matrix.mode) for end in matrix.ends]
    width = max([len("from \\ to"), *(len(label) + 4 for label in labels)])
    head = "".join(f"{index:^{_WIDTH}}" for index in range(1, len(labels) + 1))
    lines = ["from \\ to".ljust(width) + head]
    for index, (end, label) in enumerate(zip(matrix.ends, labels, strict=True), start=1):
        row = [_cell(cells.get((end.title, other.title)), paint) for other in matrix.ends]
        lines.append(f"{index:>2}  {label}".ljust(width) + "".join(row))
    return "\n".join([*(line.rstrip() for line in lines), "", *_summary(matrix, paint)])


def _label(end: End, mode: Mode) -> str:
    if end.party.kind not in (Kind.POD, Kind.SERVICE):
        return end.title
    vni = end.party.vni
    tenant = "global" if vni == GLOBAL_VNI else "no tenant" if vni is None else f"VNI {vni}"
    if end.party.kind is Kind.SERVICE:
        tenant = "open to all" if end.party.open_to_all else tenant
        return end.title if mode is Mode.SUBNET else f"{end.title} ({tenant})"
    return f"{end.title} ({end.node})" if mode is Mode.SUBNET else f"{end.title} ({end.node}, {tenant})"


def _cell(findings: list[Finding] | None, paint: Paint) -> str:
    if findings is None:
        return ".".center(_WIDTH)
    text = "".join(_LETTER[finding.protocol] if finding.reached else "-" for finding in findings)
    wrong = any(not finding.right for finding in findings)
    colour = "red" if wrong else "green" if findings[0].expected else "bright_black"
    return paint((text + "!" if wrong else text + " ").rjust(_WIDTH), colour)


def _summary(matrix: Matrix, paint: Paint) -> list[str]:
    total, wrong = len(matrix.findings), matrix.differences
    passed = sum(finding.reached for finding in matrix.findings)
    lines = [
        "T TCP, U UDP, I ICMP passed; - did not; . not probed; ! not as the oracle says",
        f"{matrix.mode.value}: {total} probes, {passed} passed, {total - passed} did not; "
        + (paint(f"{len(wrong)} NOT as expected", "red") if wrong else paint("all as expected", "green")),
    ]
    lines += [paint(f"  {finding}", "red") for finding in wrong[:_MOST_DIFFERENCES]]
    if len(wrong) > _MOST_DIFFERENCES:
        lines.append(f"  … and {len(wrong) - _MOST_DIFFERENCES} more (-o json lists all)")
    return lines
