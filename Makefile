# make run: the main job.  make test: the tests.  Both make their own environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: run test test-all check bench bench-explainers docs clean bench-harness bench-site gate golden

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,vocode,vocoders,train,hf,shap,xcheck,dask,docs,browser]'
	touch $@

run: $(VENV)/.installed
	$(BIN)/xaibench run --explainer specsegdiff

test: $(VENV)/.installed-dev
	$(BIN)/pytest -n 2 --dist worksteal

test-all: $(VENV)/.installed-dev
	$(BIN)/pytest -m "not gpu"

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	$(BIN)/python -m xaibench.benchmark.bench_metrics

bench-explainers: $(VENV)/.installed
	$(BIN)/python -m xaibench.explainers.bench

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -W ignore -m mkdocs build --strict --quiet

bench-harness: $(VENV)/.installed
	$(BIN)/python -m xaibench.benchmark.bench_harness

bench-site: $(VENV)/.installed
	$(BIN)/python -m xaibench.leaderboard.bench_site

gate: $(VENV)/.installed
	$(BIN)/python .ci/golden/golden.py run build/golden
	$(BIN)/xaibench gate build/golden --baseline .ci/golden/golden.json --rules .ci/golden/gate.toml --junit build/gate.xml

golden: $(VENV)/.installed
	$(BIN)/python .ci/golden/golden.py freeze

clean:
	rm -rf $(VENV) build dist *.egg-info
