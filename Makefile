# Two commands matter: `make demo` and `make test`. Both install what they need into .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= out
PROMPT ?= a large red circle on the left and a small blue star at the top right on a white background

# Workers take whole files: fixtures of a file are made once. --durations shows what became slow.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --durations=15

.PHONY: demo test test-slow test-all lint format clean
.DEFAULT_GOAL := demo

$(BIN)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; run make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(BIN)/.installed  ## export the demo checkpoint, quantise it, make pictures, compare all with diffusers
	$(BIN)/python -m exporter $(OUT)/demo --overwrite
	$(BIN)/python -m exporter $(OUT)/demo-openvino --backend openvino --overwrite
	$(BIN)/python -m quantization $(OUT)/demo $(OUT)/demo-int8w --precision int8-weights --overwrite
	$(BIN)/python -m runtimes $(OUT)/demo "$(PROMPT)" -o $(OUT)/demo.png
	$(BIN)/python -m runtimes $(OUT)/demo-openvino "$(PROMPT)" -o $(OUT)/demo-openvino.png
	rm -rf $(OUT)/report
	$(BIN)/python -m validation $(OUT)/demo $(OUT)/demo-openvino $(OUT)/demo-int8w --report $(OUT)/report --pictures 40
	@echo "the pictures are $(OUT)/demo.png and $(OUT)/demo-openvino.png, the comparison $(OUT)/report/report.html"

test: lint  ## lint, type check, every behaviour once: within 6 minutes on 2 cores
	$(PYTEST) -m "not slow"

test-slow: $(BIN)/.installed  ## what `make test` leaves out; tests/README.md says what that is
	$(PYTEST) -m slow

test-all: lint  ## lint, type check, all tests in one run, which shares the bundles of both sizes
	$(PYTEST)

lint: $(BIN)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(BIN)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(OUT) $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
