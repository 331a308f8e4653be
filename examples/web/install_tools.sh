#!/usr/bin/env bash
# Installs what the Node and web hosts are run and tested with: Chromium, Node and npm from Debian,
# then the packages of both package.json. Only what is missing; whatever cannot be installed ends it.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"

missing=()
for tool in chromium:chromium node:nodejs npm:npm; do
  command -v "${tool%%:*}" > /dev/null || missing+=("${tool##*:}")
done
if (( ${#missing[@]} )); then
  echo "installing ${missing[*]}"
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo > /dev/null || { echo "error: neither root nor sudo; install ${missing[*]}" >&2; exit 1; }
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300 update
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
fi

# parseArgs, WebCrypto and \p{L} as this code uses them.
node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' ||
  { echo "error: Node $(node --version) is older than 20" >&2; exit 1; }

install() {  # folder, then a file that only a whole installation has
  if [ -e "$here/$1/node_modules/$2" ]; then
    echo "$1: the packages are there"
  else
    # The CPU's library is in the package; its script would fetch CUDA's.
    (cd "$here/$1" && ONNXRUNTIME_NODE_INSTALL=skip npm install --no-package-lock --no-audit --no-fund)
  fi
}
install ../node onnxruntime-node/package.json
install . onnxruntime-web/package.json
install . playwright-core/package.json
(cd "$here" && npm run --silent vendor)
echo "all is there: node $(node --version), $(chromium --version)"
