# `make` and `make help` print the targets below with what follows their ##.

# studies of real images that have records here come first
SHOWN = $(foreach p,capacity small,$(if $(wildcard $(RESULTS)/$p/*),$p)) demo
PROFILE ?= $(if $(filter report,$(MAKECMDGOALS)),$(SHOWN),demo)
RUNS ?= ours
$(if $(filter-out ours authors,$(RUNS)),$(error RUNS = $(RUNS) is not valid; allowed: ours, authors))
JOBS ?= $(shell n=$$(nproc); [ $$n -gt 4 ] && echo 4 || echo $$n)
THREADS = $(shell echo $$(( $$(nproc) > $(JOBS) ? $$(nproc)/$(JOBS) : 1 )))
# where kernels are warm, papermill is too, and PATH has it first (nbs/study/05_kernels.ipynb)
export PATH := $(if $(KD_KERNELS),,$(CURDIR)/.venv/bin:)$(PATH)

RESULTS := $(or $(KD_RESULTS),results)
LIBRARY := $(wildcard kd_capacity/*.py)
PAGES := $(patsubst %,_build/%,$(filter-out nbs/experiments/%,$(wildcard nbs/index.ipynb nbs/*/*.ipynb)))
READY := .venv/.ready

.PHONY: help demo test study pack unpack plan slurm-test mutants gpu scale bench report serve quarto picture runs-ours runs-authors lab export hooks lock FORCE
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'Options: PROFILE=a profile in workflow/profiles, JOBS=runs at a time. Each command behind them has --help:'
	@echo '. .venv/bin/activate, then for instance python -m kd_capacity.study --help'

demo: $(READY) ## the whole study in miniature, and its report, _site/index.html
	@python -m kd_capacity.study run demo --jobs $(JOBS)
	@$(MAKE) --no-print-directory report PROFILE="$(SHOWN)" JOBS=$(JOBS)
	@python -m kd_capacity.site_build headline demo

study: $(READY) ## all runs of a profile: make study PROFILE=paper-v2 JOBS=4, for a limited time: FOR=2h
	@python -m kd_capacity.study run $(PROFILE) --jobs $(JOBS) $(if $(FOR),--limit $(FOR)) $(if $(EXECUTOR),--executor $(EXECUTOR)) $(if $(TFLOPS),--tflops $(TFLOPS)) $(if $(SNAKEMAKE_ARGS),--snakemake_args="$(SNAKEMAKE_ARGS)")

pack: $(READY) ## what a study needs to go on elsewhere, in one file: make pack PROFILE=paper-v2 FILE=study.zip
	@python -m kd_capacity.bundle pack $(PROFILE) $(or $(FILE),$(PROFILE).zip)

unpack: $(READY) ## a file of make pack into results/: make unpack FILE=study.zip
	@python -m kd_capacity.bundle unpack "$(FILE)"

plan: $(READY) ## what a profile would cost, and show: make plan PROFILE=paper-v2 GPU_HOURS=100
	@python -m kd_capacity.study plan $(PROFILE)
	@$(if $(GPU_HOURS),echo && python -m kd_capacity.budget $(PROFILE) $(GPU_HOURS) $(if $(TFLOPS),--tflops $(TFLOPS)),:)

# --- every test: pytest, the library notebooks in fresh processes, notebooks and package in step
test: $(READY) ## every test, every library notebook, notebooks and package in step
	@sh workflow/browser.sh
	@python -m pytest -n $$(( $(JOBS) + 1 )) --dist loadfile --no-loadscope-reorder tests # one is often waiting for others' processes
	@OMP_NUM_THREADS=$(THREADS) nbdev_test --n_workers $(JOBS)

slurm-test: $(READY) ## the demo through a real Slurm on this machine, against the same study without (minutes)
	@KD_SLURM=1 python -m pytest -n0 -rs -s tests/study/test_cluster.py

mutants: $(READY) ## small faults put into method, study and statistics, and how many a test notices (hours): make mutants MODULES="losses clipping"
	@python -c 'import mutmut' 2>/dev/null || uv pip install --quiet --python .venv/bin/python --no-build-isolation --editable '.[mutants]'
	@python workflow/mutants.py $(MODULES) --jobs $(JOBS)

# --- what the engine is worth on this machine, kept in results/benchmarks/
gpu: $(READY) ## everything that a GPU would show first, in minutes, kept in results/benchmarks/smoke/
	@python -m kd_capacity.smoke

scale: $(READY) ## what studies of 1,000 to 5,000 runs cost before their first run
	@python -m kd_capacity.scale

bench: $(READY) ## the engine measured on this machine beside a plain loop
	papermill nbs/report/benchmark.ipynb out/benchmark.ipynb --cwd nbs/report -k python3 --no-progress-bar --log-output -p measure True $(BENCH_ARGS)

# --- environment: exactly requirements.lock, then the project itself, editable
$(READY): requirements.lock pyproject.toml workflow/setup.sh
	@sh workflow/setup.sh
	@touch $@

lock: ## newest versions of all dependencies, into requirements.lock
	uv pip compile --universal --python-version 3.11 --upgrade --no-header --no-annotate --extra dev pyproject.toml -o requirements.lock

# --- notebooks
lab: $(READY) ## the notebooks in JupyterLab
	jupyter lab nbs $(LAB_ARGS)

export: $(READY) ## the package from the notebooks, and the notebooks as they are committed
	nbdev_export
	@python -I -S workflow/clean_notebook.py nbs/*.ipynb nbs/*/*.ipynb

hooks: ## saving a notebook in JupyterLab makes no diff of outputs: git filters them (setting up does this too)
	@git config --local --replace-all include.path ../workflow/gitconfig '^\.\./workflow/gitconfig$$'
	@echo "git now commits notebooks without outputs (workflow/gitconfig)."

# --- report: what changed is executed again, then Quarto or pandoc makes the site of it
# a notebook is written once, at its end or at its first error, not after each of its cells
EXECUTE = papermill --no-progress-bar --no-request-save-on-cell-execute --log-level ERROR -k python3

# not called MAKE, so that `make -n report` starts nothing
AGAIN = $(MAKE) --no-print-directory

report: $(READY) runs-$(RUNS) ## the site of one or more profiles: make report PROFILE="demo fast", or RUNS=authors AUTHORS_ZIP=…
	@OMP_NUM_THREADS=$(THREADS) python -m kd_capacity.study warm $(AGAIN) -j$(JOBS) _site/index.html PROFILE="$(if $(filter authors,$(RUNS)),authors,$(PROFILE))"

serve: ## the site at http://localhost:8000, where its search works
	@test -e _site/index.html || { echo "There is no _site/: make report builds it." >&2; exit 1; }
	@python3 -m http.server --bind 127.0.0.1 --directory _site 8000

quarto: $(READY) ## Quarto into .venv, from PyPI and GitHub; make report then uses it
	uv pip install --python .venv/bin/python quarto-cli

# RUNS: ours, or the authors' own, imported from the archive that they publish
runs-ours:
runs-authors: $(READY)
	@test -n "$(AUTHORS_ZIP)" || { echo "RUNS=authors needs AUTHORS_ZIP=…/raw_results_json.zip, the archive of their runs that the authors publish." >&2; exit 1; }
	@python -m kd_capacity.records import "$(AUTHORS_ZIP)"

_build/nbs/%.ipynb: nbs/%.ipynb $(LIBRARY)
	@mkdir -p $(@D)
	@echo "executing nbs/$*.ipynb $(GIVEN)"
	@$(EXECUTE) --cwd $(<D) $< $(@D)/.$(@F) $(GIVEN) 2> $(@:.ipynb=.log) || { cat $(@:.ipynb=.log) >&2; exit 1; }
	@mv $(@D)/.$(@F) $@

# these show records: again when a record or the choice of profiles changed
SHOWING := _build/nbs/index.ipynb $(filter-out %/index.ipynb %/benchmark.ipynb,$(filter _build/nbs/report/%,$(PAGES)))
$(SHOWING): _build/records
$(SHOWING): GIVEN = -p profiles "$(PROFILE)"
_build/nbs/report/benchmark.ipynb: $(wildcard $(RESULTS)/benchmarks/*.json $(RESULTS)/benchmarks/scale/scale.json)
_build/nbs/report/explorer.ipynb: theme/explorer.js theme/explorer.css
_build/nbs/report/runs.ipynb: theme/runs.js

_build/records: FORCE
	@mkdir -p $(@D)
	@{ echo "$(PROFILE)"; find $(RESULTS) -name record.json -exec cksum {} + 2>/dev/null | sort; } > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

# a page for each run; the file changes only when a page does
_build/runs/.made: FORCE
	@python -m kd_capacity.run_pages $(PROFILE) --results "$(RESULTS)" --into $(@D)

_site/index.html: _build/runs/.made $(PAGES) _quarto.yml $(wildcard theme/*)
	@python -m kd_capacity.site_build site
	@touch $@

# --- the README's picture: the front page of the site as it is
picture: $(READY) ## the README's picture, from the site as it is
	@python -m kd_capacity.site_build picture
