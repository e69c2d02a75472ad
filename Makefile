# The book's commands. `make` alone lists them.
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STORE := _build/store
# certificates of the machine, as pip and git take them: behind a proxy there may be one more
export UV_SYSTEM_CERTS ?= 1
# what was compiled once is kept in .venv; where this is set, every kernel would compile all that it imports
export PYTHONDONTWRITEBYTECODE :=
# glibc gives the memory of a freed tensor back to the system, which zeroes every page of the next one; kept instead, a
# tenth of LowKey's time at 64 pixels goes (of Fawkes v0.3's, hardly any). Other libraries' allocators ignore it.
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 8000000000
export MALLOC_TOP_PAD_ ?= 67108864
CODE := lib studies tests benchmarks notebooks
# Tests run in two processes of one thread each where there are two cores: busy threads would wait for one another. A
# GPU is for one at a time, as in the press.
WORKERS ?= $(shell command -v nvidia-smi > /dev/null && echo 1 || \
	{ test $$(env -u OMP_NUM_THREADS nproc 2> /dev/null || getconf _NPROCESSORS_ONLN) -ge 2 && echo 2; } || echo 1)
PYTEST = $(if $(filter-out 0 1,$(WORKERS)),OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} MKL_NUM_THREADS=$${MKL_NUM_THREADS:-1}) \
	$(BIN)/pytest $(if $(filter-out 0 1,$(WORKERS)),-n $(WORKERS) --dist loadfile)
# the long chapters first, so that none is left to the end; then whatever else there is
LONG := $(foreach number,03 06 05 04,$(wildcard notebooks/$(number)_*.ipynb))
NOTEBOOKS := $(LONG) $(filter-out $(LONG),$(wildcard notebooks/*.ipynb))

PARAMETERS := PROFILE DATASET SEED EXTRACTORS SET
KNOWN := $(PARAMETERS) EXECUTED FRESH PORT PYTHON WORKERS BROWSER CHROMIUM
GIVEN := $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
UNKNOWN := $(filter-out $(KNOWN) MAKEFLAGS MAKEOVERRIDES -%,$(GIVEN))
ifneq ($(strip $(UNKNOWN)),)
$(error $(firstword $(UNKNOWN))= is unknown: use $(KNOWN))
endif
OPTIONS = $(if $(PROFILE),--profile '$(PROFILE)') $(if $(DATASET),--dataset '$(DATASET)') $(if $(SEED),--seed '$(SEED)') \
	$(if $(EXTRACTORS),--extractors '$(EXTRACTORS)') $(foreach item,$(SET),--set '$(item)')
PRESS = @$(BIN)/bookpress $(OPTIONS)

.DEFAULT_GOAL := help
.PHONY: help venv book execute site check test lint types unit nbval results register shipped strip serve lab lock bench soak clean
.NOTPARALLEL:

help: ## list these commands
	@echo "make COMMAND, perhaps with PROFILE=fast|full DATASET=procedural|FOLDER SEED=1 EXTRACTORS=FOLDER SET=name=value"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'

venv: $(STAMP) ## install the locked dependencies into .venv

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) > /dev/null && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON): not there or older than 3.11: install Python 3.11 or later, or name one with PYTHON="; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@awk '/^[a-z]/ { on = /^uv==/ } on' requirements.lock > $(VENV)/uv.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt
	@$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/facepoison fetch lpips > /dev/null || echo "LPIPS is not here, which LowKey needs: get it with $(BIN)/facepoison fetch lpips"
	@touch $(STAMP)

book: $(STAMP) ## run what changed, build and check the site
	$(PRESS) book

execute: $(STAMP) ## only run the chapters that changed
	$(PRESS) execute

site: $(STAMP) ## only build and check the site; EXECUTED=FOLDER takes chapters run on another machine
	$(PRESS) site $(if $(EXECUTED),--executed '$(EXECUTED)')

check: $(STAMP) ## check the site as it stands
	$(PRESS) check

test: lint types unit nbval results book check ## everything that is checked; FRESH=1 computes all of it anew
	@$(BIN)/pytest tests/site

lint: $(STAMP) ## style of code and notebooks
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)

types: $(STAMP) ## types of the library
	@$(BIN)/mypy

unit: $(STAMP) ## unit tests
	@$(PYTEST) tests/bookpress tests/facepoison tests/test_*.py

# With FRESH=1 nothing of an old store is seen, and what was computed becomes the store.
nbval: $(STAMP) ## run the chapters at their defaults and compare what their checked cells say
	@$(BIN)/pytest tests/notebooks
	$(if $(FRESH),@rm -rf $(STORE)-fresh)
	@$(if $(FRESH),FACEPOISON_STORE=$(CURDIR)/$(STORE)-fresh) $(PYTEST) $(if $(filter-out 0 1,$(WORKERS)),--no-loadscope-reorder) -v --nbval-lax --nbval-current-env \
		--nbval-sanitize-with tests/notebooks/sanitise.cfg -p no:cacheprovider --durations 5 $(NOTEBOOKS)
	$(if $(FRESH),@rm -rf $(STORE) && if test -d $(STORE)-fresh; then mv $(STORE)-fresh $(STORE); fi)

results: $(STAMP) ## make a sample of what comes with the book anew, and see that spoilt pictures and labels turn claims red
	@$(PYTEST) -rP tests/results

register: $(STAMP) ## run the chapters at the registered setting and commit to what their checked cells say
	$(PRESS) register

shipped: $(STAMP) ## make the results that come with the book anew, into data/shipped
	@$(BIN)/facepoison ship

strip: $(STAMP) ## bring the notebooks into the form in which they are committed
	$(PRESS) strip notebooks/*.ipynb

serve: ## show the site on http://localhost:8000 (PORT=)
	@test -d _build/html || { echo "_build/html: there is no site yet: run make book"; exit 1; }
	@$(PYTHON) -m http.server --directory _build/html --bind 127.0.0.1 $(PORT)

lab: $(STAMP) ## open the chapters in JupyterLab
	@$(BIN)/jupyter lab notebooks

lock: $(STAMP) ## resolve requirements.txt into requirements.lock
	@echo 'soupsieve<4.1.2' > $(VENV)/constraints.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --constraint $(VENV)/constraints.txt \
		--custom-compile-command 'make lock' requirements.txt --output-file requirements.lock

bench: $(STAMP) ## what the attacks cost beside bare network passes: ratios, on one core and on two; no test
	@$(BIN)/python benchmarks/bench.py --threads 1 2 --out _build/bench.json

soak: $(STAMP) ## a study on two workers of which one is killed every ten seconds, beside the same study without any
	@$(BIN)/python tests/soak/cluster.py

clean: ## remove all that was built (the installed .venv stays)
	@rm -rf _build .mypy_cache .ruff_cache .pytest_cache .hypothesis
