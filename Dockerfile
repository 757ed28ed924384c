# The images of k8s-ovs. Three targets, which share their layers:
#
#   k8s-ovs      agent, controller, CLI, `install-cni`; what the agent calls (ovs-ofctl, iptables) and openssl
#   openvswitch  the same with Open vSwitch, for nodes that have none of their own
#   etcd         the same with etcd, for clusters that have none for us
#
#   docker buildx build --platform linux/amd64,linux/arm64 --target k8s-ovs -t k8s-ovs/k8s-ovs:VERSION .
#
# Nothing here depends on the architecture: every stage runs on the platform that it is built for, and so the compiler
# of the first one makes the CNI executable for it. What is installed, and how, is tools/install.sh's to know; the tests run
# the same lines without a container engine (tests/functional/image).
ARG BASE=debian:12-slim

# The standard plugins for hosts that have none (kubeadm's packages bring them). Debian 12's know CNI up to 1.0 and need
# glibc 2.34 on the host. Others, such as the CNI project's own static ones, take their place if their folder is given as
#   --build-context plugins=DIR   (with DIR/usr/lib/cni/portmap and loopback)
FROM ${BASE} AS plugins
RUN apt-get update \
    && apt-get install -y --no-install-recommends containernetworking-plugins \
    && rm -rf /var/lib/apt/lists/*

FROM ${BASE} AS builder
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY --from=plugins /usr/lib/cni/portmap /usr/lib/cni/loopback /plugins/
WORKDIR /build
COPY pyproject.toml README.md LICENSE requirements-build.lock requirements-runtime.lock ./
COPY tools/build-shim.sh tools/install.sh tools/swap.py tools/
COPY src src
RUN tools/install.sh --destdir /out --plugins-from /plugins

FROM ${BASE} AS k8s-ovs
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates iptables openssl openvswitch-common python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log
COPY --from=builder /out/ /
LABEL org.opencontainers.image.title="k8s-ovs" \
    org.opencontainers.image.description="A Kubernetes pod network on Open vSwitch in which a Namespace is a tenant" \
    org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["/usr/sbin/k8s-ovs"]

FROM k8s-ovs AS openvswitch
RUN apt-get update \
    && apt-get install -y --no-install-recommends kmod openvswitch-switch \
    && rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log /etc/openvswitch/*
COPY deploy/image/openvswitch.sh /usr/sbin/k8s-ovs-openvswitch
ENTRYPOINT ["/usr/sbin/k8s-ovs-openvswitch"]

FROM k8s-ovs AS etcd
RUN apt-get update \
    && apt-get install -y --no-install-recommends etcd-client etcd-server \
    && rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log
ENTRYPOINT ["/usr/bin/etcd"]
