#!/usr/bin/env bash
# image/tools.sh DIR: installs into DIR/bin the tools that image/assemble.sh needs and cargo does not include.
# It does not build again what exists. It pins the versions, for the image and for CI.
set -euo pipefail

dir="${1:?usage: image/tools.sh DIR}"

tool() { # crate, version
    [ -x "$dir/bin/$1" ] && grep -qF "\"$1 $2 " "$dir/.crates.toml" 2>/dev/null && return
    echo "building $1 $2 (a minute, once)" >&2
    cargo install "$1" --version "=$2" --locked --quiet --force --root "$dir" --target-dir "$dir/target"
}

# Writes the list of dependencies into the binary, where scanners read it.
tool cargo-auditable 0.7.7
# Writes the software bill of materials.
tool cargo-cyclonedx 0.5.9
rm -rf "$dir/target"
