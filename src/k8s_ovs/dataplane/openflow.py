"""The bridge's flows, groups and meters: `OfctlFlowTable` implements `bridge.FlowTable`.

For the task that owns the bridge. Every change is one atomic bundle (OpenFlow 1.5.1, 6.9) through ovs-ofctl: the switch
takes all of it or nothing, and no packet meets half of it. OpenFlow has no bundle for meters; they come before it and go
after it. It computes no flows. See ovs-ofctl(8).
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from k8s_ovs.dataplane import openflow_wire, process
from k8s_ovs.dataplane.bridge import FlowStats, SyncResult
from k8s_ovs.dataplane.conntrack import forget_endpoints
from k8s_ovs.dataplane.openflow_compare import Held, compare
from k8s_ovs.dataplane.openflow_settle import settle
from k8s_ovs.dataplane.openflow_text import bundle_lines, explain, parse_flow
from k8s_ovs.dataplane.openflow_wire import REMEDY
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.diff import Item, Mod, Op
from k8s_ovs.flows.fields import CT_ZONES
from k8s_ovs.flows.flow import Flow
from k8s_ovs.flows.group import Meter, MeterId

DEADLINE = 30.0
"""Seconds for one operation: 100,000 flows take about 2."""
PROGRAM = ("ovs-ofctl", "-O", "OpenFlow15", "--no-names")

_log = logging.getLogger(__name__)
