#!/bin/sh
# Builds the static CNI executable: tools/build-shim.sh FILE. CC and CFLAGS from the environment are honoured, so that
# CC=aarch64-linux-gnu-gcc makes the one for arm64.
#
# Called by the Makefile and by install.sh. FILE is never half written.
set -eu
[ $# = 1 ] || { echo "usage: build-shim.sh FILE" >&2; exit 2; }
source=$(dirname "$0")/../src/k8s_ovs/cni/shim.c
mkdir -p "$(dirname "$1")"
trap 'rm -f "$1.new"' EXIT
trap 'exit 1' INT TERM
# shellcheck disable=SC2086 # CFLAGS is a list
${CC:-cc} -std=c11 ${CFLAGS:--O2} -static -s -Wall -Wextra -Werror -o "$1.new" "$source"
mv -f "$1.new" "$1"
