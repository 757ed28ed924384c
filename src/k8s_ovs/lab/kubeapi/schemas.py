"""The fields of every kind that this API serves, as data.

Read by schema.py. Source: the Kubernetes API reference, 1.33. Parts that the lab has no use for (volume sources,
affinity, probes, …) are ANY: taken as they are.
"""

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Map:
    """A JSON object with free keys; all values follow one schema."""

    values: Any


ANY: Final = object()
INT_OR_STRING: Final = "int-or-string"
QUANTITY: Final = "quantity"

Schema = dict[str, Any]
_STRINGS = Map(str)

_META: Schema = {
    "name": str,
    "generateName": str,
    "namespace": str,
    "selfLink": str,
    "uid": str,
    "resourceVersion": str,
    "generation": int,
    "creationTimestamp": str,
    "deletionTimestamp": str,
    "deletionGracePeriodSeconds": int,
    "labels": _STRINGS,
    "annotations": _STRINGS,
    "ownerReferences": [
        {
            "apiVersion": str,
            "kind": str,
            "name": str,
            "uid": str,
            "controller": bool,
            "blockOwnerDeletion": bool,
        }
    ],
    "finalizers": [str],
    "managedFields": ANY,
}
_REFERENCE: Schema = {
    "kind": str,
    "namespace": str,
    "name": str,
    "uid": str,
    "apiVersion": str,
    "resourceVersion": str,
    "fieldPath": str,
}
_CONDITION: Schema = {
    "type": str,
    "status": str,
    "observedGeneration": int,
    "lastProbeTime": str,
    "lastHeartbeatTime": str,
    "lastTransitionTime": str,
    "reason": str,
    "message": str,
}


def _kind(**fields: Any) -> Schema:
    return {"apiVersion": str, "kind": str, "metadata": _META, **fields}


def _fields(schema: Any, names: str) -> Schema:
    return dict.fromkeys(names.split(), schema)


_ENV: Schema = {"name": str, "value": str, "valueFrom": ANY}
_CONTAINER_PORT: Schema = {
    "name": str,
    "hostPort": int,
    "containerPort": int,
    "protocol": str,
    "hostIP": str,
}
_RESOURCES: Schema = {"limits": Map(QUANTITY), "requests": Map(QUANTITY), "claims": ANY}
_CONTAINER: Schema = {
    **_fields(str, "name image workingDir terminationMessagePath terminationMessagePolicy imagePullPolicy"),
    **_fields([str], "command args"),
    **_fields(bool, "stdin stdinOnce tty"),
    **_fields(ANY, "envFrom resizePolicy volumeDevices livenessProbe readinessProbe startupProbe lifecycle"),
    "securityContext": ANY,
    "restartPolicy": str,
    "restartPolicyRules": ANY,
    "ports": [_CONTAINER_PORT],
    "env": [_ENV],
    "resources": _RESOURCES,
    "volumeMounts": [ANY],
}
_POD_SPEC: Schema = {
    **_fields([_CONTAINER], "containers initContainers"),
    **_fields([ANY], "ephemeralContainers volumes tolerations imagePullSecrets hostAliases readinessGates"),
    **_fields([ANY], "topologySpreadConstraints resourceClaims schedulingGates"),
    **_fields(str, "restartPolicy dnsPolicy serviceAccountName serviceAccount nodeName hostname subdomain"),
    **_fields(str, "schedulerName priorityClassName runtimeClassName preemptionPolicy hostnameOverride"),
    **_fields(int, "terminationGracePeriodSeconds activeDeadlineSeconds priority"),
    **_fields(bool, "automountServiceAccountToken hostNetwork hostPID hostIPC shareProcessNamespace"),
    **_fields(bool, "enableServiceLinks setHostnameAsFQDN hostUsers"),
    **_fields(ANY, "securityContext affinity dnsConfig os"),
    "nodeSelector": _STRINGS,
    "overhead": Map(QUANTITY),
    "resources": _RESOURCES,
}
_POD_STATUS: Schema = {
    **_fields(str, "phase message reason nominatedNodeName hostIP podIP startTime qosClass resize"),
    "observedGeneration": int,
    "conditions": [_CONDITION],
    **_fields([{"ip": str}], "podIPs hostIPs"),
    **_fields([ANY], "containerStatuses initContainerStatuses ephemeralContainerStatuses"),
    "resourceClaimStatuses": ANY,
}
_SERVICE_PORT: Schema = {
    **_fields(str, "name protocol appProtocol"),
    "port": int,
    "targetPort": INT_OR_STRING,
    "nodePort": int,
}
_SERVICE_SPEC: Schema = {
    "ports": [_SERVICE_PORT],
    "selector": _STRINGS,
    **_fields(str, "clusterIP type sessionAffinity loadBalancerIP externalName externalTrafficPolicy"),
    **_fields(str, "ipFamilyPolicy loadBalancerClass internalTrafficPolicy trafficDistribution"),
    **_fields([str], "clusterIPs externalIPs loadBalancerSourceRanges ipFamilies"),
    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": int}},
    "healthCheckNodePort": int,
    **_fields(bool, "publishNotReadyAddresses allocateLoadBalancerNodePorts"),
}
_NODE_SPEC: Schema = {
    **_fields(str, "podCIDR providerID externalID"),
    "podCIDRs": [str],
    "unschedulable": bool,
    "taints": [{"key": str, "value": str, "effect": str, "timeAdded": str}],
    "configSource": ANY,
}
_NODE_STATUS: Schema = {
    **_fields(Map(QUANTITY), "capacity allocatable"),
    "phase": str,
    "conditions": [_CONDITION],
    "addresses": [{"type": str, "address": str}],
    "nodeInfo": Map(ANY),
    **_fields(ANY, "daemonEndpoints images volumesInUse volumesAttached config runtimeHandlers features"),
    "declaredFeatures": ANY,
}
_ADDRESS: Schema = {"ip": str, "hostname": str, "nodeName": str, "targetRef": _REFERENCE}
_ENDPOINT: Schema = {
    "addresses": [str],
    "conditions": {"ready": bool, "serving": bool, "terminating": bool},
    **_fields(str, "hostname nodeName zone"),
    "targetRef": _REFERENCE,
    "deprecatedTopology": _STRINGS,
    "hints": ANY,
}
_PORT: Schema = {"name": str, "port": int, "protocol": str, "appProtocol": str}
_SELECTOR: Schema = {"matchLabels": _STRINGS, "matchExpressions": ANY}
_TEMPLATE: Schema = {"metadata": _META, "spec": _POD_SPEC}
_ROLLING: Schema = {
    "type": str,
    "rollingUpdate": {**_fields(INT_OR_STRING, "maxUnavailable maxSurge"), "partition": int},
}
_WORKLOAD: Schema = {
    "selector": _SELECTOR,
    "template": _TEMPLATE,
    **_fields(int, "minReadySeconds revisionHistoryLimit replicas"),
}
_REPLICAS = "replicas readyReplicas availableReplicas unavailableReplicas updatedReplicas currentReplicas"
_SCHEDULED = "currentNumberScheduled desiredNumberScheduled updatedNumberScheduled numberMisscheduled"
_WORKLOAD_STATUS: Schema = {
    **_fields(int, f"observedGeneration collisionCount terminatingReplicas {_REPLICAS}"),
    **_fields(int, f"numberReady numberAvailable numberUnavailable {_SCHEDULED}"),
    **_fields(str, "currentRevision updateRevision"),
    "conditions": [{**_CONDITION, "lastUpdateTime": str}],
}
_RULE: Schema = _fields([str], "verbs apiGroups resources resourceNames nonResourceURLs")
_SUBJECT: Schema = _fields(str, "kind apiGroup name namespace")
_BINDING: Schema = _kind(roleRef=_fields(str, "apiGroup kind name"), subjects=[_SUBJECT])

SCHEMAS: dict[str, Schema] = {
    "apps/daemonsets": _kind(spec={**_WORKLOAD, "updateStrategy": _ROLLING}, status=_WORKLOAD_STATUS),
    "apps/deployments": _kind(
        spec={**_WORKLOAD, "strategy": _ROLLING, "paused": bool, "progressDeadlineSeconds": int},
        status=_WORKLOAD_STATUS,
    ),
    "apps/statefulsets": _kind(
        spec={
            **_WORKLOAD,
            "updateStrategy": _ROLLING,
            **_fields(str, "serviceName podManagementPolicy"),
            **_fields(ANY, "volumeClaimTemplates persistentVolumeClaimRetentionPolicy ordinals"),
        },
        status=_WORKLOAD_STATUS,
    ),
    "rbac.authorization.k8s.io/roles": _kind(rules=[_RULE]),
    "rbac.authorization.k8s.io/clusterroles": _kind(rules=[_RULE], aggregationRule=ANY),
    "rbac.authorization.k8s.io/rolebindings": _BINDING,
    "rbac.authorization.k8s.io/clusterrolebindings": _BINDING,
    "scheduling.k8s.io/priorityclasses": _kind(
        value=int, globalDefault=bool, **_fields(str, "description preemptionPolicy")
    ),
    "policy/poddisruptionbudgets": _kind(
        spec={
            "selector": _SELECTOR,
            **_fields(INT_OR_STRING, "minAvailable maxUnavailable"),
            "unhealthyPodEvictionPolicy": str,
        },
        status=ANY,
    ),
    "persistentvolumes": _kind(spec=ANY, status=ANY),
    "persistentvolumeclaims": _kind(spec=ANY, status=ANY),
    "storage.k8s.io/storageclasses": _kind(
        **_fields(str, "provisioner reclaimPolicy volumeBindingMode"),
        **_fields(ANY, "parameters mountOptions allowedTopologies"),
        allowVolumeExpansion=bool,
    ),
    "namespaces": _kind(spec={"finalizers": [str]}, status={"phase": str, "conditions": [_CONDITION]}),
    "nodes": _kind(spec=_NODE_SPEC, status=_NODE_STATUS),
    "pods": _kind(spec=_POD_SPEC, status=_POD_STATUS),
    "services": _kind(spec=_SERVICE_SPEC, status={"loadBalancer": ANY, "conditions": [_CONDITION]}),
    "endpoints": _kind(
        subsets=[{"addresses": [_ADDRESS], "notReadyAddresses": [_ADDRESS], "ports": [_PORT]}]
    ),
    "events": _kind(
        involvedObject=_REFERENCE,
        related=_REFERENCE,
        source={"component": str, "host": str},
        series=ANY,
        count=int,
        **_fields(str, "reason message type action firstTimestamp lastTimestamp eventTime"),
        **_fields(str, "reportingComponent reportingInstance"),
    ),
    "configmaps": _kind(data=_STRINGS, binaryData=_STRINGS, immutable=bool),
    "secrets": _kind(data=_STRINGS, stringData=_STRINGS, type=str, immutable=bool),
    "serviceaccounts": _kind(
        secrets=[_REFERENCE], imagePullSecrets=[{"name": str}], automountServiceAccountToken=bool
    ),
    "discovery.k8s.io/endpointslices": _kind(addressType=str, endpoints=[_ENDPOINT], ports=[_PORT]),
    "coordination.k8s.io/leases": _kind(
        spec={
            **_fields(str, "holderIdentity acquireTime renewTime strategy preferredHolder"),
            **_fields(int, "leaseDurationSeconds leaseTransitions"),
        }
    ),
}
