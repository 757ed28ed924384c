#!/bin/sh
# Lays out below a root what the Debian package and the RPM contain: tools/package-tree.sh --destdir DIR --python FILE
#
# What install.sh installs, without compiled modules; units, settings file, licence. Called by build-deb.sh and by the RPM's
# spec. What install.sh has made is kept in --cache (build/packages) as long as nothing that goes into it changes, so that
# both packages need the network once, and a repeated build not at all.
set -eu

destdir='' python='' cache='' units=/usr/lib/systemd/system doc=/usr/share/doc/k8s-ovs licenses=''
while [ $# -ge 2 ]; do
    case $1 in
        --destdir) destdir=$2 ;;
        --python) python=$2 ;;
        --cache) cache=$2 ;;
        --units) units=$2 ;;
        --doc) doc=$2 ;;
        --licenses) licenses=$2 ;;
        *) break ;;
    esac
    shift 2
done
if [ $# -gt 0 ] || [ -z "$destdir" ] || [ -z "$python" ]; then
    echo "usage: package-tree.sh --destdir DIR --python FILE [--cache DIR] [--units DIR] [--doc DIR] [--licenses DIR]" >&2
    exit 2
fi
source=$(cd "$(dirname "$0")/.." && pwd)
cache=${cache:-$source/build/packages}
umask 022

# By content, path by path: a copy of the tree (rpmbuild's) has the same.
key=$( (
    cd "$source"
    uname -m
    echo "$python"
    "$python" -I -VV
    find src/k8s_ovs tools/package-tree.sh tools/install.sh tools/swap.py tools/build-shim.sh pyproject.toml README.md LICENSE \
        requirements-runtime.lock requirements-build.lock -name __pycache__ -prune -o -type f -print |
        LC_ALL=C sort | xargs sha256sum
) | sha256sum | cut -c 1-16)
if [ ! -d "$cache/$key" ]; then
    mkdir -p "$cache"
    new=$(mktemp -d "$cache/.new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    trap 'exit 1' INT TERM HUP
    chmod 755 "$new"
    "$source/tools/install.sh" --destdir "$new" --python "$python" --no-bytecode
    # Wheels come with symbols for debuggers, the larger half of them.
    find "$new" -name '*.so' -exec strip --strip-unneeded {} +
    chmod -R a-x+X "$new/usr/lib/k8s-ovs/python"
    # Modules are imported; the interpreter that some name is not there.
    find "$new/usr/lib/k8s-ovs/python" -name '*.py' -exec sed -i '1{/^#!/d}' {} +
    find "$cache" -mindepth 1 -maxdepth 1 -mtime +0 -exec rm -rf {} + # of older sources; not what another build copies just now
    mv -T "$new" "$cache/$key" 2>/dev/null || [ -d "$cache/$key" ] # a build beside this one was faster
fi

mkdir -p "$destdir"
cp -a "$cache/$key/." "$destdir/"
install -d "$destdir$units" "$destdir$doc" "$destdir/etc/k8s-ovs"
install -m 644 "$source"/packaging/systemd/*.service "$destdir$units/"
install -m 640 "$source/packaging/k8s-ovs.env" "$destdir/etc/k8s-ovs/k8s-ovs.env"
install -m 644 "$source/README.md" "$source/CHANGELOG.md" "$destdir$doc/"
if [ -n "$licenses" ]; then
    install -d "$destdir$licenses"
    install -m 644 "$source/LICENSE" "$destdir$licenses/LICENSE"
fi
