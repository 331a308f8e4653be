#!/usr/bin/env bash
# What the C++ host is built with, on Debian: ./install_tools.sh [FOLDER]
#
# Installs compiler, CMake and libraries by apt (as root, else through sudo). With FOLDER, also fetches into it,
# without installing them, packages of newer Debian releases: ONNX Runtime's headers, which are all that is needed
# of it to build, and utf8proc, whose tables of Unicode are newer than a stable release's.
set -euo pipefail

PACKAGES=(g++ cmake ninja-build nlohmann-json3-dev libstb-dev libutf8proc-dev libssl-dev)
NEWER=(trixie:libonnxruntime-dev forky:libutf8proc-dev)

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# The mirror that this machine itself takes Debian's packages from.
mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -E '/debian/?$' | sort -u | head -n 1
}

# fetch FOLDER RELEASE PACKAGE: unpack a package of another release, with lists of its own, so that apt's stay.
fetch() {
    local folder=$1 release=$2 package=$3 private uri
    uri=$(mirror)
    [ -n "$uri" ] || { echo "error: apt names no Debian mirror to fetch $package from" >&2; return 1; }
    private=$(mktemp -d)
    mkdir -p "$private/lists/partial" "$private/archives/partial"
    echo "deb $uri $release main" > "$private/sources.list"
    local apt=(apt-get -qq -o Dir::Etc::sourcelist="$private/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::lists="$private/lists" -o Dir::Cache="$private" -o Acquire::Languages=none
        -o APT::Sandbox::User= -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update
    (cd "$private" && "${apt[@]}" download "$package/$release")
    dpkg -x "$private/$package"_*.deb "$folder"
    rm -rf "$private"
}

missing() {
    local package
    for package in "${PACKAGES[@]}"; do
        dpkg -s "$package" > /dev/null 2>&1 || echo "$package"
    done
}

mapfile -t wanted < <(missing)
if [ "${#wanted[@]}" -gt 0 ]; then
    as_root apt-get -o DPkg::Lock::Timeout=300 update
    as_root apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${wanted[@]}"
fi
if [ "$#" -gt 0 ]; then
    mkdir -p "$1"
    for entry in "${NEWER[@]}"; do
        fetch "$1" "${entry%%:*}" "${entry#*:}"
    done
fi
