"""What both daemons share: HTTP endpoint, service manager notification, logs, signals, backoff.

Used by the agent, the controller and the CLI. It knows nothing of networks.
"""
