"""Where facts come from: the network's records (etcd) and the cluster's objects (Kubernetes).

Used by the agent and the controller. Sources turn what a server says into events of the model; they decide
nothing.
"""
