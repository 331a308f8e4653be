#!/usr/bin/env bash
# What the C++ host is built with, on Debian: ./install_tools.sh [FOLDER [arm64]]
#
# Installs compiler, CMake and libraries by apt (as root, else through sudo). With FOLDER, also fetches into it,
# without installing them, packages of newer Debian releases: ONNX Runtime's headers, which are all that is needed
# of it to build, and utf8proc, whose tables of Unicode are newer than a stable release's.
#
# With arm64, also a cross compiler and an emulator, and in FOLDER/arm64 the libraries of that architecture and
# ONNX Runtime's wheel in the version of PYTHON's (python3): arm64/toolchain.cmake and arm64/emulate.sh use them.
set -euo pipefail

PACKAGES=(g++ cmake ninja-build nlohmann-json3-dev libstb-dev libutf8proc-dev libssl-dev)
NEWER=(trixie:libonnxruntime-dev forky:libutf8proc-dev)
CROSS=(g++-aarch64-linux-gnu qemu-user)
PYTHON=${PYTHON:-python3}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# The mirror that this machine itself takes Debian's packages from.
mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -E '/debian/?$' | sort -u | head -n 1
}

# fetch FOLDER RELEASE PACKAGE [ARCHITECTURE]: unpack a package of another release, with lists of its own, so that
# apt's stay.
fetch() {
    local folder=$1 release=$2 package=$3 architecture=${4:-$(dpkg --print-architecture)} private uri
    uri=$(mirror)
    [ -n "$uri" ] || { echo "error: apt names no Debian mirror to fetch $package from" >&2; return 1; }
    private=$(mktemp -d)
    mkdir -p "$private/lists/partial" "$private/archives/partial"
    echo "deb $uri $release main" > "$private/sources.list"
    local apt=(apt-get -qq -o APT::Architecture="$architecture" -o Dir::Etc::sourcelist="$private/sources.list" -o Dir::Etc::sourceparts=/dev/null
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

# arm64 FOLDER: libraries of this release, which the cross compiler's C library is of, and the engine.
arm64() {
    local release wheel
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    fetch "$1" "$release" libssl-dev arm64
    fetch "$1" forky libutf8proc-dev arm64
    wheel=$(mktemp -d)
    "$PYTHON" -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: --dest "$wheel" \
        --platform manylinux_2_28_aarch64 \
        "onnxruntime==$("$PYTHON" -c 'from importlib.metadata import version; print(version("onnxruntime"))')"
    "$PYTHON" -m zipfile -e "$wheel"/onnxruntime-*.whl "$1/wheel"
    rm -rf "$wheel"
}

[ "${2:-}" = arm64 ] && PACKAGES+=("${CROSS[@]}")
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
if [ "${2:-}" = arm64 ]; then
    arm64 "$1/arm64"
fi
