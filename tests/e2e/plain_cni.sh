#!/bin/sh
# A CNI plugin for labs without agents: a Linux bridge per node, addresses by counter. Each call is written to a log,
# so that a test can see what the kubelet asked. A file FAIL beside it makes ADD fail.
set -eu
here=$(dirname "$(readlink -f "$0")")
conf=$(cat)
printf '%s %s %s %s\n' "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_ARGS" "$(printf %s "$conf" | tr -d '\n')" >>"$here/calls"
port=p$(printf %s "$CNI_CONTAINERID" | cut -c1-10)
case $CNI_COMMAND in
ADD)
    if [ -e "$here/FAIL" ]; then
        echo '{"cniVersion":"1.0.0","code":11,"msg":"told to fail","details":"by the test"}'
        exit 1
    fi
    ip link show plain >/dev/null 2>&1 || { ip link add plain type bridge; ip link set plain up; } || true
    number=0
    until mkdir "$here/address$number" 2>/dev/null; do number=$((number + 1)); done
    address=172.29.$((number / 200)).$((number % 200 + 10))
    ip link add "$port" type veth peer name "$CNI_IFNAME" netns "$CNI_NETNS"
    ip link set "$port" master plain up
    nsenter --net="$CNI_NETNS" sh -c "ip addr add $address/16 dev $CNI_IFNAME; ip link set $CNI_IFNAME up"
    printf '{"cniVersion":"1.0.0","interfaces":[{"name":"%s","sandbox":"%s"}],"ips":[{"address":"%s/16","interface":0}]}\n' \
        "$CNI_IFNAME" "$CNI_NETNS" "$address"
    ;;
DEL)
    ip link del "$port" 2>/dev/null || true
    ;;
esac
