#!/bin/sh
# Builds the RPM from this tree into dist/ (or $1) and prints its path. `make rpm`.
#
# On any distribution that has rpmbuild, Debian included. The package is for the architecture and the Python of the machine
# that builds it; K8S_OVS_PACKAGE_PYTHON names another interpreter than python3.
set -eu

source=$(cd "$(dirname "$0")/.." && pwd)
dist=${1:-$source/dist}
command -v rpmbuild >/dev/null || { echo "build-rpm: no rpmbuild: install rpm (Debian) or rpm-build" >&2; exit 1; }
# With its minor version: the compiled modules are for that one, and both worlds have a package with such a file.
python=${K8S_OVS_PACKAGE_PYTHON:-/usr/bin/python3}
python=/usr/bin/python$("$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$source/pyproject.toml")
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$source" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP
umask 022
mkdir "$work/SOURCES" "$work/rpms"
(cd "$source" && tar -cz --exclude=__pycache__ --transform "s,^,k8s-ovs-$version/," -f "$work/SOURCES/k8s-ovs-$version.tar.gz" \
    src tools packaging README.md CHANGELOG.md LICENSE pyproject.toml requirements-runtime.lock requirements-build.lock)
{
    cat "$source/packaging/rpm/k8s-ovs.spec"
    # The form of the date is rpm's; what has changed is in CHANGELOG.md.
    echo "* $(LC_ALL=C date -ud "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y') k8s-ovs maintainers <maintainers@k8s-ovs.invalid> - $version-1"
    echo "- Built from the tree; see CHANGELOG.md"
} >"$work/k8s-ovs.spec"

if ! rpmbuild -bb --quiet --define "_topdir $work" --define "_rpmdir $work/rpms" --define "version $version" \
    --define "k8s_ovs_python $python" --define "k8s_ovs_cache $source/build/packages" \
    --define "_binary_payload w3.zstdio" --define "source_date_epoch_from_changelog 0" \
    --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
    "$work/k8s-ovs.spec" >"$work/log" 2>&1; then
    cat "$work/log" >&2
    exit 1
fi
mkdir -p "$dist"
package=$(find "$work/rpms" -name '*.rpm')
mv -f "$package" "$dist/"
echo "$dist/${package##*/}"
