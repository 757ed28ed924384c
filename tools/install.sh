#!/bin/sh
# Installs k8s-ovs below a root: tools/install.sh --destdir DIR. The image, the Debian package and the RPM are made with it.
#
#   DIR/usr/lib/k8s-ovs/python     our package and what it needs, at the versions and hashes of requirements-runtime.lock
#   DIR/usr/lib/k8s-ovs/bin        the launcher
#   DIR/usr/lib/k8s-ovs/cni        the static CNI executable (with --plugins-from: portmap and loopback too)
#   DIR/usr/sbin/k8s-ovs, DIR/usr/bin/kubectl-ovs    links to the launcher
#
# Everything is made and tried beside its place; then one rename puts it there. A run that fails or is killed before
# leaves what was installed as it was.
#
# It needs the interpreter with its venv module, a C compiler with a static libc, and a package index (pip's own
# settings, PIP_INDEX_URL and so on, are honoured). It never touches anything outside DIR but a temporary directory.
set -eu

usage() {
    cat <<'END'
usage: tools/install.sh --destdir DIR [options]
  --destdir DIR        the root to install into; / for this machine
  --python FILE        the interpreter, the same here and below DIR: 3.11 or newer [/usr/bin/python3]
  --cni-executable FILE  take this CNI executable instead of compiling one
  --plugins-from DIR   take the standard CNI plugins portmap and loopback from there too
  --no-bytecode        leave out compiled modules: a distribution's package makes them where it is installed
END
}

fail() {
    echo "install: $*" >&2
    exit 1
}

destdir='' python=/usr/bin/python3 executable='' plugins='' bytecode=yes
while [ $# -gt 0 ]; do
    case $1 in
        --destdir | --python | --cni-executable | --plugins-from)
            [ $# -ge 2 ] || { usage >&2; exit 2; }
            case $1 in
                --destdir) destdir=$2 ;;
                --python) python=$2 ;;
                --cni-executable) executable=$2 ;;
                --plugins-from) plugins=$2 ;;
            esac
            shift 2 ;;
        --no-bytecode) bytecode=no; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
[ -n "$destdir" ] || { usage >&2; exit 2; }
source=$(cd "$(dirname "$0")/.." && pwd)
case $python in
    /*) ;;
    *) fail "--python $python is no absolute path: give the one that the launcher shall start, like /usr/bin/python3" ;;
esac
[ -x "$python" ] || fail "no interpreter at $python: install python3 or name another one with --python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is $("$python" --version 2>&1): k8s-ovs needs 3.11 or newer, name one with --python"

lib=$destdir/usr/lib
mkdir -p "$lib" "$destdir/usr/sbin" "$destdir/usr/bin"
destdir=$(cd "$destdir" && pwd)
lib=${destdir%/}/usr/lib
work=$(mktemp -d)
new=$(mktemp -d "$lib/.k8s-ovs.XXXXXX")
trap 'rm -rf "$work" "$new"' EXIT
trap 'exit 1' INT TERM HUP
chmod 755 "$new"
umask 022

# What builds is kept apart from what runs, and of both only what the locks name is taken.
"$python" -I -m venv "$work/venv" || fail "$python has no venv module: on Debian install python3-venv"
pip() {
    "$work/venv/bin/python" -I -m pip --disable-pip-version-check --quiet "$@"
}
pip install --require-hashes --no-deps -r "$source/requirements-build.lock"
pip install --require-hashes --no-deps --no-build-isolation --no-compile --target "$new/python" \
    -r "$source/requirements-runtime.lock"
mkdir "$work/source"
(cd "$source" && cp -R pyproject.toml README.md LICENSE "$work/source/" && mkdir "$work/source/src" &&
    cp -R src/k8s_ovs "$work/source/src/")
pip install --no-deps --no-build-isolation --no-compile --target "$work/own" "$work/source"
rm -rf "$work/own/bin"
find "$work/own" -name direct_url.json -delete # names the temporary directory
cp -R "$work/own/." "$new/python/"
# Scripts of the dependencies, which nobody asked for, and modules that were compiled in the tree.
rm -rf "$new/python/bin"
find "$new/python" -name __pycache__ -prune -exec rm -rf {} +

mkdir "$new/bin"
cat >"$new/bin/k8s-ovs" <<END
#!$python -IBS
# Isolated: neither the environment nor the system's own packages decide what is imported.
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "python"))
from k8s_ovs.cli.main import main

main()
END
chmod 755 "$new/bin/k8s-ovs"

mkdir "$new/cni"
if [ -n "$executable" ]; then
    install -m 755 "$executable" "$new/cni/k8s-ovs"
else
    "$source/tools/build-shim.sh" "$new/cni/k8s-ovs"
    chmod 755 "$new/cni/k8s-ovs"
fi
for plugin in portmap loopback; do
    [ -z "$plugins" ] || install -m 755 "$plugins/$plugin" "$new/cni/$plugin"
done

if [ "$bytecode" = yes ]; then
    # Trusted without a look at the source's time: packages and image layers change that. Not for pygments' hundreds of
    # lexers, which nothing here loads.
    "$python" -I -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$new" -p /usr/lib/k8s-ovs \
        -x "/pygments/(lexers|styles|formatters)/" "$new/python" ||
        fail "$python cannot compile what was installed"
fi
chmod -R u=rwX,go=rX "$new"

# Try it where it is.
"$new/bin/k8s-ovs" --version >/dev/null || fail "the new installation does not run: nothing was changed"
for plugin in "$new"/cni/*; do
    CNI_COMMAND=VERSION "$plugin" </dev/null >/dev/null 2>&1 || echo '{"cniVersion":"1.0.0"}' |
        CNI_COMMAND=VERSION "$plugin" >/dev/null ||
        fail "$plugin does not run here: was it built for another architecture? nothing was changed"
done

"$python" -I "$source/tools/swap.py" "$new" "$lib/k8s-ovs"
link() {
    ln -s "$1" "$destdir/$2.new.$$"
    mv -fT "$destdir/$2.new.$$" "$destdir/$2"
}
link ../lib/k8s-ovs/bin/k8s-ovs usr/sbin/k8s-ovs
link ../lib/k8s-ovs/bin/k8s-ovs usr/bin/kubectl-ovs
