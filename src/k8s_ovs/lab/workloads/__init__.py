"""The workloads of `lab up --from-manifests`: DaemonSets, Deployments and StatefulSets whose pods are real processes.

Called by the lab's supervisor and kubelet. What a manifest says of command, environment, volumes, rights and probes is
what the processes get; the image is the one thing that is not taken from it (each has this checkout's program).
"""
