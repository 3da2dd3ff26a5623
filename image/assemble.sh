#!/usr/bin/env bash
# image/assemble.sh OUT: builds the program and assembles the root filesystem of the image in OUT.
#
# The Dockerfile's build stage and CI both run this script, so CI tests what the image contains. It needs
# Debian (or a derived system), ca-certificates, python3, and the tools of image/tools.sh in the PATH.
set -euo pipefail

out="$(realpath -m "${1:?usage: image/assemble.sh OUT}")"
cd "$(dirname "$0")/.."

fail() { echo "image/assemble.sh: $*" >&2; exit 1; }

# Does not delete a folder that this script did not create.
[ ! -e "$out" ] || [ -e "$out/usr/bin/meterline" ] || [ -z "$(ls -A "$out")" ] ||
    fail "$out is there and is no root filesystem of this script's"

target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
# Since 2.34 the resolver for files and DNS is part of libc. Earlier versions load it from libraries that
# ldd does not list.
glibc="$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)"
printf '2.34\n%s\n' "$glibc" | sort -V -C || fail "glibc $glibc is older than 2.34"

cargo auditable build --profile dist --locked --bin meterline
program="$target/dist/meterline"

# The files contain no current time, so the same sources result in the same files. It is set after the
# build, because otherwise all C code would be built again for every commit.
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH="$(git log -1 --format=%ct 2>/dev/null || echo 0)"
fi
export SOURCE_DATE_EPOCH

rm -rf "$out"
# The permissions in the image must not depend on the caller's umask.
umask 022
mkdir -p "$out"/{etc/ssl/certs,etc/meterline/presets,usr/bin,usr/share/meterline,usr/share/doc/meterline}
mkdir -p "$out/var/lib/dpkg/status.d"

install -m 755 "$program" "$out/usr/bin/meterline"

# Libraries are placed where the loader looks for them. Each has the entry of its Debian package, from
# which scanners read its version, and its licence.
packaged() { # file
    local package
    # /lib is a link to /usr/lib, and the package database may contain either name.
    package="$({ dpkg-query -S "$1" || dpkg-query -S "/usr$1" || dpkg-query -S "${1#/usr}"; } 2>/dev/null |
        sed -n 's/:.*//p' | head -n 1)"
    [ -n "$package" ] || fail "$1 belongs to no Debian package"
    recorded "$package"
}
recorded() { # package
    dpkg-query --status "$1" > "$out/var/lib/dpkg/status.d/$1"
    # Some packages share the folder of another.
    install -D -m 644 "$(realpath "/usr/share/doc/$1/copyright")" "$out/usr/share/doc/$1/copyright"
}
libraries="$(ldd "$program")"
grep -q 'not found' <<< "$libraries" && fail "a library is missing: $libraries"
awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' <<< "$libraries" | sort -u |
    while read -r library; do
        install -D -m 755 "$(realpath "$library")" "$out$library"
        packaged "$library"
    done

# Mozilla's list from Debian, without what this machine trusts in addition, such as a company's proxy.
cat /usr/share/ca-certificates/mozilla/*.crt > "$out/etc/ssl/certs/ca-certificates.crt" ||
    fail "install ca-certificates"
recorded ca-certificates
install -m 644 "$(realpath /etc/os-release)" "$out/etc/os-release"

cat > "$out/etc/passwd" <<'END'
root:x:0:0:root:/root:/sbin/nologin
nonroot:x:65532:65532:nonroot:/nonexistent:/sbin/nologin
END
cat > "$out/etc/group" <<'END'
root:x:0:
nonroot:x:65532:
END
# Without it glibc would ask DNS for localhost.
echo 'hosts: files dns' > "$out/etc/nsswitch.conf"

# The schemas are in the folder of the presets, which refer to them as file://./…
install -m 644 presets/*.yaml schemas/*.json "$out/etc/meterline/presets/"
install -m 644 LICENSE "$out/usr/share/doc/meterline/copyright"

# cargo-cyclonedx writes a file next to every Cargo.toml of the workspace, so it runs on a copy.
copy="$(mktemp -d)"
trap 'rm -rf "$copy"' EXIT
cp -R Cargo.toml Cargo.lock crates benches tests "$copy/"
(cd "$copy" && cargo cyclonedx --quiet --format json --spec-version 1.5 \
    --target "$(rustc -vV | sed -n 's/^host: //p')" --override-filename sbom.cdx)
# Removes the path of the copy from the bill of materials.
sed "s#$copy#/meterline#g" "$copy/sbom.cdx.json" |
    python3 -c 'import json, sys; json.dump(json.load(sys.stdin), sys.stdout, separators=(",", ":"))' \
    > "$out/usr/share/meterline/sbom.cdx.json"

# /tmp is for containers without mounts. The folder of the state belongs to the user, so that a volume that
# a runtime initialises from the image does too.
mkdir -m 1777 "$out/tmp"
mkdir -m 700 "$out/var/lib/meterline"
if [ "$(id -u)" = 0 ]; then
    chown -R 0:0 "$out"
    chown 65532:65532 "$out/var/lib/meterline"
fi
find "$out" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
