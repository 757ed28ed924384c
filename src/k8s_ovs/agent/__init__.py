"""The per-node daemon: attaches pods and keeps the bridge as the cluster's state asks."""
