#!/usr/bin/env bash
# Builds kube-apiserver, etcd and kwok with Go into a cache folder outside the checkout and prints
# that folder, so that tests find them by the usual convention:
#
#   export KUBEBUILDER_ASSETS="$(tests/envtest/build.sh)"
#
# What is there already is not built again. Needs Go and the Go module proxy.
set -euo pipefail
cd "$(dirname "$0")"

kubernetes=v1.35.4
cache="${METERLINE_ENVTEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/meterline/envtest}"
key="$(cat go.mod go.sum kwok/go.mod kwok/go.sum build.sh | sha256sum | cut -c1-16)"
assets="$cache/$key"
mkdir -p "$assets"
assets="$(cd "$assets" && pwd)"

# Clients read the minor version, and a build outside Kubernetes' own tree has none.
version="-X k8s.io/component-base/version.gitVersion=$kubernetes \
    -X k8s.io/component-base/version.gitMajor=1 \
    -X k8s.io/component-base/version.gitMinor=35 \
    -X k8s.io/component-base/version.gitTreeState=clean"

# Neither a workspace nor the state of the checkout around us may change what is built.
export GOWORK=off CGO_ENABLED=0

build() { # name, module folder, package, linker flags
    [ -x "$assets/$1" ] && return
    echo "building $1 (minutes, once)" >&2
    (cd "$2" && nice go build -trimpath -buildvcs=false -ldflags "-s -w $4" -o "$assets/.$1.$$" "$3") >&2
    mv "$assets/.$1.$$" "$assets/$1"
}

command -v go >/dev/null || {
    echo "tests/envtest/build.sh: no Go toolchain found; install Go 1.24 or newer (it fetches the one it needs)" >&2
    exit 1
}

build etcd . go.etcd.io/etcd/server/v3 ""
build kwok kwok sigs.k8s.io/kwok/cmd/kwok ""
build kube-apiserver . k8s.io/kubernetes/cmd/kube-apiserver "$version"
echo "$assets"
