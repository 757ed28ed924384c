"""The command line: flags and environment in, records of settings out, one file per command group.

The only place that reads the environment. It decides nothing about networks.
"""
