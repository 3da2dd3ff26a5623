#!/usr/bin/env python3
"""packages.py AUDIT SBOM: the list of dependencies in the binary and the bill of materials agree.

AUDIT is the section .dep-v0 of the binary, SBOM the CycloneDX file beside it.
"""

import json
import sys
import zlib


def main() -> None:
    with open(sys.argv[1], "rb") as file:
        audit = json.loads(zlib.decompress(file.read()))
    with open(sys.argv[2], encoding="utf-8") as file:
        sbom = json.load(file)

    # Both also list what only ran during the build: macros, and what build scripts use.
    built = {(it["name"], it["version"]) for it in audit["packages"]}
    linked = [it for it in audit["packages"] if it.get("kind", "runtime") == "runtime"]
    if sbom.get("bomFormat") != "CycloneDX" or not sbom.get("specVersion"):
        sys.exit("the bill of materials is not CycloneDX")
    listed = {
        (it["name"], it["version"])
        for it in [sbom["metadata"]["component"], *sbom["components"]]
    }
    for name in "meterline", "tokio", "rustls", "rusqlite":
        if name not in {it["name"] for it in linked}:
            sys.exit(f"the binary does not list {name}")
    if missing := sorted(built - listed):
        sys.exit(f"in the binary, but not in the bill of materials: {missing}")
    if unknown := sorted(listed - built):
        sys.exit(f"in the bill of materials, but not in the binary: {unknown}")
    unlicensed = [it["name"] for it in sbom["components"] if not it.get("licenses")]
    if unlicensed:
        sys.exit(f"without a licence in the bill of materials: {unlicensed}")
    print(f"{len(built)} packages in the binary's list and in the bill of materials, {len(linked)} of them linked")


main()
