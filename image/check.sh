#!/usr/bin/env bash
# image/check.sh ROOTFS: inspects the root filesystem of the image that image/assemble.sh created, and runs
# it as the image is run: as 65532:65532, in a chroot with a read-only root and without a network.
#
# UPDATE_FILES=1 writes the list of files, image/files.txt, instead of comparing with it.
# Needs root, or user namespaces; and python3, openssl, objcopy and util-linux.
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
user=65532
limit=25000000

say() { echo "image: $*"; }
fail() { echo "image/check.sh: $*" >&2; exit 1; }

# ---- Contents -----------------------------------------------------------------------------------

inspect() {
    local rootfs="$1" work="$2" faults size packed listed

    for tool in python3 openssl objcopy unshare setpriv; do
        command -v "$tool" >/dev/null || fail "$tool is not installed"
    done

    # The list is the same for every architecture, and for every release of Debian.
    find "$rootfs" -mindepth 1 -printf '%y %m %U:%G %P\n' |
        if [ "$(id -u)" = 0 ]; then cat; else sed -E 's#^(. [0-7]+) [0-9]+:[0-9]+#\1 0:0#'; fi |
        sed -E -e 's#(x86_64|aarch64)-linux-gnu#ARCH-linux-gnu#' \
            -e '/^d [0-7]+ [0-9:]+ lib64$/d' \
            -e 's#lib(64)?/ld-linux-(x86-64|aarch64)\.so\.[12]$#lib/ld-linux-ARCH.so#' |
        LC_ALL=C sort -k 4 > "$work/files.txt"
    [ "$(id -u)" = 0 ] || sed -i -E 's#0:0 (var/lib/meterline)$#65532:65532 \1#' "$work/files.txt"
    if [ -n "${UPDATE_FILES:-}" ]; then
        cp "$work/files.txt" "$here/files.txt"
    fi
    diff -u "$here/files.txt" "$work/files.txt" >&2 ||
        fail "the files are not those of image/files.txt; UPDATE_FILES=1 writes it"
    listed="$(wc -l < "$work/files.txt")"

    faults="$(find "$rootfs" -perm /6000 -printf 'setuid or setgid: %P\n'
        find "$rootfs" ! -type l -perm /0022 ! -path "$rootfs/tmp" -printf 'writable for others: %P\n'
        find "$rootfs" ! -type d ! -type f -printf 'neither file nor folder: %P\n'
        find "$rootfs" -type f ! -size +0 -printf 'empty: %P\n'
        [ "$(id -u)" != 0 ] ||
            find "$rootfs" \( ! -uid 0 -o ! -gid 0 \) ! -path "$rootfs/var/lib/meterline" -printf 'not of root: %P\n'
        find "$rootfs" -type f ! -perm -004 -printf 'not readable for the user: %P\n')"
    [ -z "$faults" ] || fail "$faults"

    size="$(find "$rootfs" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')"
    packed="$(tar -C "$rootfs" -c . | gzip -9 | wc -c)"
    say "$listed entries, $size bytes, $packed in a packed layer"
    [ "$size" -lt "$limit" ] || fail "the image has $size bytes, more than $limit"

    [ "$(grep -c 'BEGIN CERTIFICATE' "$rootfs/etc/ssl/certs/ca-certificates.crt")" -gt 100 ] ||
        fail "the CA bundle is no list of certificates"

    # objcopy only prints a warning if a section is missing.
    objcopy --dump-section ".dep-v0=$work/audit" "$rootfs/usr/bin/meterline" /dev/null 2>/dev/null || true
    [ -s "$work/audit" ] ||
        fail "the binary has no list of its dependencies; was it built by cargo auditable?"
    python3 "$here/packages.py" "$work/audit" "$rootfs/usr/share/meterline/sbom.cdx.json" > "$work/packages"
    say "$(cat "$work/packages")"
    for file in "$here"/../presets/*.yaml "$here"/../schemas/*.json; do
        cmp -s "$file" "$rootfs/etc/meterline/presets/$(basename "$file")" || fail "$file is not in the image"
    done
}

# ---- Runs ---------------------------------------------------------------------------------------

# Runs in its own namespaces (see below). Mounts what a container runtime mounts over a copy of the image.
enter() {
    local rootfs="$1" work="$2" file
    root="$work/root"
    mkdir "$root"
    mount -t tmpfs tmpfs "$root"
    cp -a "$rootfs/." "$root/"
    # A runtime creates its mount points in a layer above the image.
    mkdir "$root/proc" "$root/dev"
    touch "$root/dev/null" "$root/etc/hosts" "$root/etc/resolv.conf"
    printf '127.0.0.1 localhost hosts-only.test\n' > "$work/hosts"
    printf 'nameserver 127.0.0.1\n' > "$work/resolv.conf"
    mount --rbind /proc "$root/proc"
    mount --bind /dev/null "$root/dev/null"
    mount --bind "$work/hosts" "$root/etc/hosts"
    mount --bind "$work/resolv.conf" "$root/etc/resolv.conf"
    # The volumes of a pod.
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mount -t tmpfs -o mode=1777 tmpfs "$root/var/lib/meterline"
    mount -o remount,ro,bind "$root"
    if touch "$root/written" 2>/dev/null; then fail "the root is not read-only"; fi
}

# Replaces this shell by the program, as the image's user in its working directory, with only the given
# environment. In the background, $! is the program.
become() {
    local as=(--setuid="$user" --setgid="$user")
    if [ -n "${MAPPED:-}" ]; then
        # In a user namespace of an ordinary user only that user can be mapped. A nested namespace therefore
        # maps it to the image's user, which has no rights of root once the program is started.
        as=(--user --map-user="$user" --map-group="$user")
    fi
    exec env -i "${environment[@]}" setpriv --no-new-privs \
        unshare "${as[@]}" --root="$root" --wd=/etc/meterline /usr/bin/meterline "$@"
}
inside() { (become "$@"); }

# Waits until a command succeeds.
until_holds() { # seconds, what is waited for, command…
    local end=$((SECONDS + $1)) what="$2"
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "$what: not within the time
$(tail -n 5 "$work"/{untrusted,sent,collector,demo.err} 2>/dev/null)"
        sleep 0.2
    done
}

events() { # host, type, how many at least
    [ "$(grep -c "^event $1 $2 " "$log")" -ge "$3" ]
}

# Creates one event inside, keeps it in an SQLite file on the state's volume, and sends it to that host.
one_event_to() { # host
    cat > "$root/tmp/config.yaml" <<END
http: {enabled: false}
input: {generate: {mapping: 'root = #{ n: 1 }', count: 1}}
buffer: {sqlite: {path: /var/lib/meterline/$1.sqlite}}
pipeline:
  processors:
    - mapping: |
        root = #{ id: event_id(), specversion: "1.0", source: "check", type: "check",
          subject: "s", time: now(), data: #{ n: this.n } };
output: {openmeter: {url: "https://$1"}}
END
    chmod 644 "$root/tmp/config.yaml"
}

try() {
    local rootfs="$1" work="$2" kubeconfig collector demo
    log="$work/log"
    environment=(PATH=/usr/bin)
    enter "$rootfs" "$work"
    if [ -n "${MAPPED:-}" ]; then say "no root here: tried in a user namespace"; fi

    # The commands run without any file outside the image.
    inside --help > "$work/help"
    grep -q 'Usage: meterline' "$work/help" || fail "--help says: $(cat "$work/help")"
    version="$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' "$here/../Cargo.toml")"
    [ "$(inside --version)" = "meterline $version" ] || fail "--version says: $(inside --version)"
    [ "$(inside version)" = "meterline $version" ] || fail "version says: $(inside version)"
    for preset in "$root"/etc/meterline/presets/*.yaml; do
        inside lint "/etc/meterline/presets/$(basename "$preset")"
    done
    # The program reads the schema in the folder of the preset: in a copy of both, that file is not a schema.
    mkdir "$root/tmp/presets"
    cp "$root"/etc/meterline/presets/*.yaml "$root/tmp/presets/"
    echo '{' > "$root/tmp/presets/cloudevents.spec.json"
    chmod -R a+rX "$root/tmp/presets"
    if inside lint /tmp/presets/kubernetes-pod-exec-time.yaml > "$work/lint"; then
        fail "the schema beside a preset is not read"
    fi
    # The image contains no time zones, so all times are UTC whatever TZ is.
    environment+=(TZ=America/New_York)
    inside map 'root = now()' < <(echo '{}') | grep -q 'Z"\?$' || fail "time is not UTC"

    # Names are resolved by DNS and /etc/hosts, and the CA bundle decides which servers are trusted.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=check \
        -addext keyUsage=critical,keyCertSign,digitalSignature -addext basicConstraints=critical,CA:true \
        -keyout "$work/ca.key" -out "$work/ca.crt" 2>/dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=ingest \
        -keyout "$work/key" -out "$work/csr" 2>/dev/null
    openssl x509 -req -in "$work/csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
        -extfile <(echo 'subjectAltName=DNS:ingest.test,DNS:hosts-only.test,DNS:localhost
extendedKeyUsage=serverAuth') -out "$work/crt" 2>/dev/null
    python3 "$here/servers.py" "$work/crt" "$work/key" "$log" &
    until_holds 10 "the servers of the check" grep -qs '^listening' "$log"

    # A server that the bundle does not include is not trusted.
    one_event_to ingest.test
    become --config /tmp/config.yaml 2> "$work/untrusted" & collector=$!
    until_holds 20 "an untrusted certificate is refused" grep -q '^refused .*[Uu]nknown[ _][Cc][Aa]' "$log"
    kill -KILL "$collector"
    wait "$collector" 2>/dev/null || true
    grep -q '^dns ingest.test 1$' "$log" || fail "the name server was not asked"
    if grep -q '^event' "$log"; then fail "an event went to whom the CA bundle does not name"; fi
    # A server that the bundle includes is trusted.
    cat "$root/etc/ssl/certs/ca-certificates.crt" "$work/ca.crt" > "$work/bundle"
    mount --bind "$work/bundle" "$root/etc/ssl/certs/ca-certificates.crt"
    rm -f "$root"/var/lib/meterline/*
    for host in ingest.test hosts-only.test localhost; do
        one_event_to "$host"
        become --config /tmp/config.yaml 2> "$work/sent" & collector=$!
        until_holds 20 "an event over TLS to $host" events "$host" check 1
        wait "$collector" || fail "sending to $host ended with $?: $(cat "$work/sent")"
        [ -s "$root/var/lib/meterline/$host.sqlite" ] || fail "nothing is on the state's volume"
    done
    if grep -q '^dns hosts-only.test' "$log"; then fail "/etc/hosts is not read before DNS is asked"; fi
    say "TLS by the CA bundle, names by DNS and /etc/hosts, a buffer on a volume"

    # Runs the preset: the demo's own collector, and another one as in a pod, with a state file, on the same
    # simulated API server.
    become demo --for 15s --json > "$work/demo.json" 2> "$work/demo.err" & demo=$!
    until_holds 10 "the demo's API server" compgen -G "$root/tmp/.tmp*/kubeconfig" > /dev/null
    kubeconfig="$(compgen -G "$root/tmp/.tmp*/kubeconfig")"
    environment+=(KUBECONFIG="${kubeconfig#"$root"}" OPENMETER_URL=https://ingest.test SCRAPE_NAMESPACE=
        SCRAPE_INTERVAL=2s BATCH_PERIOD=1s STATE_PATH=/var/lib/meterline/state.sqlite)
    # The preset as a path relative to the working directory, as a user may type it.
    become --config presets/kubernetes-pod-exec-time.yaml 2> "$work/collector" & collector=$!
    until_holds 30 "events of the preset" events ingest.test kube-pod-exec-time 20
    # The user, groups and capabilities that the kernel reports for the process.
    status="$(grep -E '^(Uid|Gid|Groups|CapEff|NoNewPrivs):' "/proc/$collector/status" | tr -s '\t\n ' ' ')"
    [ -n "${MAPPED:-}" ] || grep -q "^ *Uid: $user $user $user $user Gid: $user $user $user $user " <<< "$status" ||
        fail "the collector runs as $status"
    grep -q 'CapEff: 0000000000000000' <<< "$status" || fail "the collector has capabilities: $status"
    kill -TERM "$collector"
    wait "$collector" || fail "the collector ended with $?: $(tail "$work/collector")"
    [ -s "$root/var/lib/meterline/state.sqlite" ] || fail "there is no state file"
    wait "$demo" || fail "the demo ended with $?: $(cat "$work/demo.err" "$work/demo.json")"
    grep -Eq '"difference": ?0[,}]' "$work/demo.json" || fail "the demo's bill differs: $(cat "$work/demo.json")"
    say "the preset billed on a read-only root ($status); the demo's bill is exact"
}

if [ "${1:-}" = --try ]; then
    try "$2" "$3"
    exit
fi

rootfs="$(realpath "${1:?usage: image/check.sh ROOTFS}")"
[ -x "$rootfs/usr/bin/meterline" ] || fail "$rootfs is no root filesystem of image/assemble.sh"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
# The program inside accesses this folder as another user.
chmod 755 "$work"

inspect "$rootfs" "$work"

namespaces=(--mount --net --pid --fork --kill-child --mount-proc)
if [ "$(id -u)" != 0 ]; then
    namespaces+=(--user --map-root-user)
    export MAPPED=1
fi
if ! unshare "${namespaces[@]}" true 2> "$work/unshare"; then
    # A check that did not run must not look as if it had passed.
    [ -z "${CI:-}" ] || fail "cannot create namespaces to run the image in: $(cat "$work/unshare")"
    say "NOT TRIED: the image was inspected, but not run: $(cat "$work/unshare")"
    exit 0
fi
timeout 240 unshare "${namespaces[@]}" "$here/check.sh" --try "$rootfs" "$work"
say "all of it holds"
