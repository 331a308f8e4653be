#!/usr/bin/env bash
# What the Kotlin host is compiled and tested with away from Android: ./install_tools.sh FOLDER
#
# Into FOLDER: the Kotlin compiler (an npm package), and ONNX Runtime's Java interface with its JNI library, which
# a Python package carries inside a jar of its own. Nothing of it is installed. From Debian, where they are missing:
# a JDK, npm, unzip, a C compiler. An Android build takes none of this: Gradle fetches what it needs.
set -euo pipefail

KOTLIN=kotlin-compiler@2.4.20
JAVA_INTERFACE=pyserini==0.40.0  # its jar has ONNX Runtime 1.17.0's classes

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?give the folder to put the tools into}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

missing=()
for tool in javac:default-jdk-headless npm:npm unzip:unzip cc:gcc; do
    command -v "${tool%%:*}" > /dev/null || missing+=("${tool##*:}")
done
if [ "${#missing[@]}" -gt 0 ]; then
    as_root apt-get -o DPkg::Lock::Timeout=300 update
    as_root apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
fi

private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT

if [ ! -e "$folder/kotlin/lib/kotlin-compiler.jar" ]; then
    (cd "$private" && npm pack --silent "$KOTLIN" > /dev/null && tar xzf kotlin-compiler-*.tgz)
    rm -rf "$folder/kotlin"
    mv "$private/package" "$folder/kotlin"
    chmod +x "$folder"/kotlin/bin/*
fi

native=ai/onnxruntime/native/linux-x64
if [ ! -e "$folder/onnxruntime/$native/libonnxruntime4j_jni.so" ]; then
    "${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --dest "$private" "$JAVA_INTERFACE"
    unzip -q -o "$private"/*.whl '*/resources/jars/*' -d "$private"
    rm -rf "$folder/onnxruntime"
    unzip -q -o "$(find "$private" -name '*fatjar.jar')" 'ai/onnxruntime/*' -d "$private/classes" \
        -x '*/native/osx*' '*/native/win*' '*/native/linux-aarch64*'
    mkdir "$folder/onnxruntime"
    mv "$private/classes/ai" "$folder/onnxruntime/ai"
fi

echo 'VERS_1.17.0 { global: Ort*; local: *; };' > "$private/versions"
cc -shared -fPIC -O2 -Wall -Wextra -Werror -Wl,-soname,libonnxruntime.so.1.17.0 \
    -Wl,--version-script="$private/versions" -o "$folder/libonnxruntime.so" "$here/tools/forward.c" -ldl
echo "all is there: $(javac -version 2>&1), $KOTLIN"
