#!/bin/sh
# Builds the Debian package from this tree into dist/ (or $1) and prints its path. `make deb`.
#
# With dpkg's own tools (dpkg-dev) rather than debhelper: there is nothing to configure, and what the wheels bring is laid
# out already. The package is for the architecture and the Python of the machine that builds it.
set -eu

source=$(cd "$(dirname "$0")/.." && pwd)
dist=${1:-$source/dist}
# With its minor version, as in the RPM: the compiled modules are for that one.
python=${K8S_OVS_PACKAGE_PYTHON:-/usr/bin/python3}
minor=$("$python" -I -c 'import sys; print(sys.version_info.minor)')
python=/usr/bin/python3.$minor
for tool in dpkg-deb dpkg-shlibdeps strip; do
    command -v "$tool" >/dev/null || { echo "build-deb: no $tool: install dpkg-dev and binutils" >&2; exit 1; }
done
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$source/pyproject.toml")-1
architecture=$(dpkg --print-architecture)
# The time of the last commit, so that the same tree gives the same package.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$source" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP
umask 022
root=$work/root
doc=$root/usr/share/doc/k8s-ovs
"$source/tools/package-tree.sh" --destdir "$root" --python "$python" --units /lib/systemd/system

# Debian's place and form of documents.
gzip -9nc "$doc/CHANGELOG.md" >"$doc/changelog.gz"
rm "$doc/CHANGELOG.md"
sed -e "s/@VERSION@/$version/" -e "s/@DATE@/$(date -uRd "@$SOURCE_DATE_EPOCH")/" \
    "$source/packaging/debian/changelog.in" | gzip -9n >"$doc/changelog.Debian.gz"
install -m 644 "$source/packaging/debian/copyright" "$doc/copyright"
install -D -m 644 "$source/packaging/debian/lintian-overrides" "$root/usr/share/lintian/overrides/k8s-ovs"

# What the compiled modules link with. The tool wants to be in a source package.
mkdir "$work/debian"
sed -n 1,/^$/p "$source/packaging/debian/control.in" >"$work/debian/control"
libraries=$(cd "$work" && find root -name '*.so' -exec dpkg-shlibdeps -O {} + 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
[ -n "$libraries" ] || { echo "build-deb: dpkg-shlibdeps finds no library that the modules need" >&2; exit 1; }

control=$root/DEBIAN
mkdir "$control"
size=$(du -sk --apparent-size --exclude=DEBIAN "$root" | cut -f 1)
sed -e 1,/^$/d -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@SIZE@/$size/" \
    -e "s/@LIBRARIES@/$libraries/" -e "s/@PYTHON@/python3 (>= 3.$minor~), python3 (<< 3.$((minor + 1)))/" \
    "$source/packaging/debian/control.in" >"$control/control"
(cd "$root" && find . -path ./DEBIAN -prune -o -path ./etc -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z |
    xargs -0 md5sum) >"$control/md5sums"
install -m 644 "$source/packaging/debian/conffiles" "$control/"
install -m 755 "$source/packaging/debian/postinst" "$source/packaging/debian/prerm" "$source/packaging/debian/postrm" "$control/"

mkdir -p "$dist"
package=k8s-ovs_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz -z1 --build "$root" "$work/$package" >/dev/null
mv -f "$work/$package" "$dist/$package"
echo "$dist/$package"
