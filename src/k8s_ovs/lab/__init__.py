"""The lab: a whole cluster in network namespaces of one machine, to try the product and to test it.

    cluster      what a lab consists of: names, addresses, paths                                   pure
    commands     the command line of every process                                                 pure
    namespaces   network namespaces, by path          fabric     the wires and addresses between them
    processes    start, watch, start again            forward    loopback ports of the host into the lab
    ovsnode      a node's own Open vSwitch            supervisor the daemon that holds all of it together
    kubelet      pods: scheduling, CNI, status        podserver  what answers inside a pod
    probes       who reaches whom, measured           matrix     expected against observed
    lifecycle    up and down                          demo…      the whole story in a minute

Called by `cli.lab` only. Starts the agent and the controller as processes, as a DaemonSet would, and never imports
them.
"""
