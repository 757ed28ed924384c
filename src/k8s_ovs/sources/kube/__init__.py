"""The Kubernetes API as a source: credentials, client, list-and-watch, Lease election.

Used by the agent and the controller (and by the CLI for events). It knows nothing of tenants or subnets: it hands out
typed API objects and takes back writes.
"""
