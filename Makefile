# `make quickstart` turns the sample dump into a trained model; `make test` runs every check; `make bench CORPORA=DIR`
# measures beside other tools and rewrites benchmarks/RESULTS.md (QUICK=1: small texts, to see that all of it runs);
# `make lock` renews requirements.lock after a change of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
TRAIN_PEERS := .venv-train-peers
LOCKER := .venv-lock

.PHONY: quickstart test bench bench-train install lock clean

quickstart: $(VENV)/.installed
	$(BIN)/gristmill run configs/quickstart.yaml

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2

bench: $(VENV)/.installed $(PEERS)/.installed
	$(BIN)/python -m benchmarks $(or $(CORPORA),$(error CORPORA is missing: a folder of english, chinese, multi, code and \
	neardup_truth)) --peer-python $(PEERS)/bin/python $(if $(QUICK),--quick --out runs/quick-results.md)

bench-train: $(VENV)/.installed $(TRAIN_PEERS)/.installed
	$(BIN)/python -m benchmarks.train --peer-python $(TRAIN_PEERS)/bin/python

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "pip>=23.3"  # older ones miss lxml[html_clean]
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0 -c constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	touch $@

$(PEERS)/.installed: benchmarks/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	touch $@

$(TRAIN_PEERS)/.installed: benchmarks/train-peers.txt constraints.txt
	test -x $(TRAIN_PEERS)/bin/python || $(PYTHON) -m venv $(TRAIN_PEERS)
	$(TRAIN_PEERS)/bin/pip install --quiet --disable-pip-version-check -r benchmarks/train-peers.txt -c constraints.txt
	$(TRAIN_PEERS)/bin/pip install --quiet --disable-pip-version-check --no-deps litgpt==0.5.13
	touch $@

lock: $(LOCKER)/.installed
	grep '^#' requirements.lock > $(LOCKER)/lock
	$(LOCKER)/bin/uv pip compile constraints.txt --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-header --no-config --quiet >> $(LOCKER)/lock
	mv $(LOCKER)/lock requirements.lock

$(LOCKER)/.installed:
	$(PYTHON) -m venv $(LOCKER)
	$(LOCKER)/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(TRAIN_PEERS) $(LOCKER) runs
