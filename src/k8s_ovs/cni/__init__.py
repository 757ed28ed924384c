"""CNI: the executable (`shim.c`), the wire and the records (`protocol`), and the agent's server."""
