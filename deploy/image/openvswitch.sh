#!/bin/sh
# Open vSwitch in containers, for nodes that have none: one container for each of its two daemons, so that each is
# restarted by itself. Entry point of the image "openvswitch".
#
#   k8s-ovs-openvswitch module         load the kernel's datapath (an init container with /lib/modules; needs SYS_MODULE)
#   k8s-ovs-openvswitch ovsdb-server   the database: /etc/openvswitch (to be kept) and /run/openvswitch
#   k8s-ovs-openvswitch ovs-vswitchd   the switch: /run/openvswitch; needs NET_ADMIN, SYS_NICE and IPC_LOCK on the host's network
#
# When ovs-vswitchd ends, the kernel's datapath goes on forwarding what it knows; nothing is cleaned up here.
set -eu

etc=/etc/openvswitch
run=/run/openvswitch
db=$etc/conf.db
socket=$run/db.sock
logs="-vconsole:info -vsyslog:off -vfile:off"

module() {
    if [ -d /sys/module/openvswitch ]; then
        echo "the kernel has openvswitch already"
    elif ! modprobe openvswitch; then
        echo "k8s-ovs-openvswitch: the kernel module openvswitch cannot be loaded: mount the host's /lib/modules here," \
            "or load it on the host (modprobe openvswitch)" >&2
        exit 1
    fi
}

database() {
    schema=$(find /usr/share/openvswitch -name vswitch.ovsschema)
    mkdir -p "$etc" "$run"
    if [ ! -e "$db" ]; then
        rm -f "$db.new"
        ovsdb-tool create "$db.new" "$schema"
        mv "$db.new" "$db" # never half a database
    elif [ "$(ovsdb-tool needs-conversion "$db" "$schema")" = yes ]; then
        cp -p "$db" "$db.before-upgrade"
        ovsdb-tool convert "$db" "$schema"
    fi
    # shellcheck disable=SC2086 # logs is a list
    exec ovsdb-server "$db" --remote=punix:$socket --pidfile=$run/ovsdb-server.pid $logs
}

switch() {
    vsctl() {
        ovs-vsctl --retry --timeout=60 --no-wait --db=unix:$socket "$@"
    }
    vsctl init # waits for the database
    if [ "$(vsctl --if-exists get Open_vSwitch . external_ids:system-id)" = "" ]; then
        vsctl set Open_vSwitch . external_ids:system-id="$(cat /proc/sys/kernel/random/uuid)"
    fi
    # shellcheck disable=SC2086
    exec ovs-vswitchd unix:$socket --pidfile=$run/ovs-vswitchd.pid --mlockall $logs
}

case ${1-} in
    module) module ;;
    ovsdb-server) database ;;
    ovs-vswitchd) switch ;;
    *)
        echo "usage: k8s-ovs-openvswitch module | ovsdb-server | ovs-vswitchd" >&2
        exit 2
        ;;
esac
