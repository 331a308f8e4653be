# Two commands matter: `make demo` and `make test`. Both install what they need into .venv.
PYTHON ?= python3
VENV   ?= .venv
LATEST ?= .venv-latest
AUDIT  ?= .venv-audit
PHONES ?= .venv-phones
BIN    := $(VENV)/bin
OUT    ?= out
PROMPT ?= a large red circle on the left and a small blue star at the top right on a white background

# Workers take whole files: fixtures of a file are made once. --durations shows what became slow.
# They come in the order of tests/conftest.py, not by how many tests a file has.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=15

.PHONY: demo test test-slow test-hosts test-arm64 test-phones test-all test-latest lint format audit sbom clean
.DEFAULT_GOAL := demo

$(BIN)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; run make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
# Beside the environment, not in it: validation/torchvision_models.py says why.
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps \
		--target $(VENV)/torchvision --upgrade torchvision
	@touch $@

demo: $(BIN)/.installed  ## export the demo checkpoint, quantise it, make pictures, compare all with diffusers
	$(BIN)/python -m exporter $(OUT)/demo --overwrite
	$(BIN)/python -m exporter $(OUT)/demo-openvino --backend openvino --overwrite
	$(BIN)/python -m quantization $(OUT)/demo $(OUT)/demo-int8 --precision int8 --overwrite
	$(BIN)/python -m runtimes $(OUT)/demo "$(PROMPT)" -o $(OUT)/demo.png
	$(BIN)/python -m runtimes $(OUT)/demo-openvino "$(PROMPT)" -o $(OUT)/demo-openvino.png
	rm -rf $(OUT)/report
	$(BIN)/python -m validation $(OUT)/demo $(OUT)/demo-openvino $(OUT)/demo-int8 --report $(OUT)/report --pictures 40
	@echo "the pictures are $(OUT)/demo.png and $(OUT)/demo-openvino.png, the comparison $(OUT)/report/report.html"

test: lint  ## lint, type check, every behaviour once: some 10 minutes on 2 cores
	$(PYTEST) -m "not slow"

test-slow: $(BIN)/.installed  ## what `make test` leaves out; tests/README.md says what that is
	$(PYTEST) -m slow --ignore-glob='tests/test_host_*'

# Compilers, headers, Chromium and npm packages come by the first scripts, which need root or sudo.
test-hosts: $(BIN)/.installed  ## hosts in C++, Node, a page and Kotlin, Triton, the server's page and container, with what they take
	examples/cpp/install_tools.sh examples/cpp/build/tools
	bash examples/web/install_tools.sh
	PYTHON=$(BIN)/python examples/android/install_tools.sh examples/android/build/tools
	PYTHON=$(BIN)/python examples/triton/install_tools.sh examples/triton/build/tools
	HOSTS=required $(PYTEST) tests/test_host_*.py

# By hand and nightly: an emulated CPU is some thirty times slower.
test-arm64: $(BIN)/.installed  ## the host in C++ on an emulated 64-bit ARM CPU (needs root, for its list of cores)
	PYTHON=$(BIN)/python examples/cpp/install_tools.sh examples/cpp/build/tools arm64
	HOSTS=required $(PYTEST) tests/test_arm64_host.py

# An environment for each format. The packages that write LiteRT models want another transformers
# than constraints.txt has, and bring JAX.
$(PHONES)-executorch/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PHONES)-executorch
	$(PHONES)-executorch/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt \
		-e ".[dev,executorch]"
	@touch $@

$(PHONES)-litert/.installed: pyproject.toml
	$(PYTHON) -m venv $(PHONES)-litert
	$(PHONES)-litert/bin/python -m pip install -q --disable-pip-version-check \
		-e ".[cpu,litert-export]" diffusers==0.39.0 filelock "pytest>=8.3"
	@touch $@

test-phones: $(PHONES)-executorch/.installed $(PHONES)-litert/.installed  ## ExecuTorch and LiteRT
	PHONES=required $(PHONES)-executorch/bin/python -m pytest tests/test_executorch.py
	PHONES=required $(PHONES)-litert/bin/python -m pytest tests/test_litert.py

test-all: lint  ## lint, type check, all tests in one run, which shares the bundles of both sizes
	$(PYTEST)

# The next release of any dependency that has no upper bound in pyproject.toml may break us: this
# installs whatever pip picks today, without constraints.txt, in an environment of its own. The
# commands at the end see only what their extra installs; transformers, which is bounded, no longer
# holds tokenizers and huggingface-hub back there (pip warns of that, rightly).
test-latest:  ## the fast tests on the newest versions of everything, and the parts by themselves
	rm -rf $(LATEST) $(OUT)/latest*
	$(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/python -m pip install -q --disable-pip-version-check -e ".[dev]"
	$(LATEST)/bin/python -m pip freeze --exclude-editable
	$(LATEST)/bin/python -m pytest -n auto --dist loadfile -m "not slow"
	$(LATEST)/bin/python -m pytest -n auto tests/test_parts.py
	$(LATEST)/bin/python -m pip install -q --disable-pip-version-check -U tokenizers huggingface-hub
	$(LATEST)/bin/python tests/parts.py export exporter $(OUT)/latest --quiet
	$(LATEST)/bin/python tests/parts.py cpu runtimes $(OUT)/latest "$(PROMPT)" -o $(OUT)/latest.png --quiet
	$(LATEST)/bin/python tests/parts.py quantization,cpu quantization $(OUT)/latest $(OUT)/latest-int8w \
		--precision int8-weights --target-db 0 --quiet

lint: $(BIN)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(BIN)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(AUDIT)/.installed:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install -q --disable-pip-version-check pip-audit cyclonedx-bom
	@touch $@

# Asks the package index's advisories, so it needs the network; --strict fails where none answers.
audit: $(AUDIT)/.installed  ## known holes in the versions of constraints.txt
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

sbom: $(AUDIT)/.installed $(BIN)/.installed  ## out/sbom.json: what .venv holds, as CycloneDX has it
	@mkdir -p $(OUT)
	$(AUDIT)/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml \
		--output-reproducible -o $(OUT)/sbom.json
	@echo "the bill of materials is $(OUT)/sbom.json"

clean:
	rm -rf $(OUT) $(VENV) $(LATEST) $(AUDIT) $(PHONES)-* build *.egg-info .mypy_cache .ruff_cache .pytest_cache
