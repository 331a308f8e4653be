#!/usr/bin/env bash
# Put what tests/test_host_triton.py runs into a folder: install_tools.sh FOLDER
# Triton's server and the stubs of its Python backend come in the wheel of nvidia-pytriton; the model and
# the client run in an environment of their own, of the Python that PYTHON names (default: python3).
set -euo pipefail

folder=${1:?"usage: install_tools.sh FOLDER"}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")/../.." && pwd)
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

if [ -e "$folder/.installed" ]; then
    exit 0
fi
rm -rf "$folder"
mkdir -p "$folder/wheel"
"$python" -m pip download -q --disable-pip-version-check --no-deps -d "$folder/wheel" nvidia-pytriton==0.7.0
"$python" -m zipfile -e "$folder"/wheel/nvidia_pytriton-*.whl "$folder/wheel"
mv "$folder/wheel/pytriton/tritonserver" "$folder/server"
mv "$folder/wheel/nvidia_pytriton.libs" "$folder/libs"
rm -rf "$folder/wheel"
# The backend starts the stub that lies beside it, whatever Python that was built for.
cp "$folder/server/python_backend_stubs/$version/triton_python_backend_stub" "$folder/server/backends/python/"
chmod +x "$folder/server/bin/tritonserver" "$folder/server/backends/python/triton_python_backend_stub"

"$python" -m venv "$folder/environment"
# The stubs of this server read arrays as NumPy 1 laid them out.
"$folder/environment/bin/python" -m pip install -q --disable-pip-version-check \
    -c <(grep -v '^numpy==' "$here/constraints.txt") -e "$here[cpu]" "numpy<2" "tritonclient[http]==2.73.0"
touch "$folder/.installed"
