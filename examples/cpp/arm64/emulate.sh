#!/usr/bin/env bash
# Run a program of 64-bit ARM on another Linux: ./emulate.sh PROGRAM [ARGUMENT ...]
#
# qemu-user is a Cortex-A76, a phone's core of 2018 with fp16 and int8 dot products. ONNX Runtime's cpuinfo library
# reads the kernel's list of cores besides, and gives up at an x86 one: where the kernel allows it (as root), the
# program sees the list beside this script instead.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export QEMU_LD_PREFIX=${QEMU_LD_PREFIX:-/usr/aarch64-linux-gnu} QEMU_CPU=${QEMU_CPU:-cortex-a76}
exec unshare --mount bash -c 'mount --bind "$0" /proc/cpuinfo && exec qemu-aarch64 "$@"' "$here/cpuinfo" "$@"
