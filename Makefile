# make demo   the whole study in miniature, and its report
# make test   every test, every library notebook, notebooks and package in step
# make study PROFILE=paper-v2 JOBS=4      make plan PROFILE=paper-v2 GPU_HOURS=100
# make report     make report PROFILE="demo fast"     make report RUNS=authors AUTHORS_ZIP=raw_results_json.zip
# make bench     make lab     make export     make lock     make picture

SHOWN = thin demo
PROFILE ?= $(if $(filter report,$(MAKECMDGOALS)),$(SHOWN),demo)
RUNS ?= ours
$(if $(filter-out ours authors,$(RUNS)),$(error RUNS = $(RUNS) is not valid; allowed: ours, authors))
JOBS ?= $(shell n=$$(nproc); [ $$n -gt 4 ] && echo 4 || echo $$n)
THREADS = $(shell echo $$(( $$(nproc) > $(JOBS) ? $$(nproc)/$(JOBS) : 1 )))
export PATH := $(CURDIR)/.venv/bin:$(PATH)

RESULTS := $(or $(KD_RESULTS),results)
LIBRARY := $(wildcard kd_capacity/*.py)
CHAPTERS := $(patsubst %,_build/%,$(wildcard nbs/index.ipynb nbs/*/[0-9]*.ipynb))
REPORTS := $(patsubst nbs/%,_build/%,$(wildcard nbs/report/*.ipynb))
READY := .venv/.ready

.PHONY: demo test study plan bench report picture runs-ours runs-authors lab export lock FORCE

demo: $(READY)
	@python -m kd_capacity.study run demo --jobs $(JOBS)
	@$(MAKE) --no-print-directory report PROFILE="$(SHOWN)" JOBS=$(JOBS)
	@python -m kd_capacity.site_build headline demo

study: $(READY)
	@python -m kd_capacity.study run $(PROFILE) --jobs $(JOBS)

plan: $(READY)
	@python -m kd_capacity.study plan $(PROFILE)
	@$(if $(GPU_HOURS),echo && python -m kd_capacity.claims plan $(PROFILE) --gpu-hours $(GPU_HOURS) $(if $(TFLOPS),--tflops $(TFLOPS)),:)

# --- every test: pytest, the library notebooks in fresh processes, notebooks and package in step
test: $(READY)
	@python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder tests
	@OMP_NUM_THREADS=$(THREADS) nbdev_test --n_workers $(JOBS)

# --- what the engine is worth on this machine, kept in results/benchmarks/
bench: $(READY)
	papermill nbs/report/benchmark.ipynb out/benchmark.ipynb --cwd nbs/report -k python3 --no-progress-bar --log-output -p measure True $(BENCH_ARGS)

# --- environment: exactly requirements.lock, then the project itself, editable
$(READY): requirements.lock pyproject.toml workflow/setup.sh
	@sh workflow/setup.sh
	@touch $@

lock:
	uv pip compile --universal --python-version 3.11 --upgrade --no-header --no-annotate --extra dev pyproject.toml -o requirements.lock

# --- notebooks
lab: $(READY)
	jupyter lab nbs $(LAB_ARGS)

export: $(READY)
	nbdev_export
	@jupyter nbconvert --log-level WARN --clear-output --inplace nbs/*.ipynb nbs/*/*.ipynb
	nbdev_clean

# --- report: what changed is executed again, then Quarto or nbconvert makes the site of it
EXECUTE = papermill --no-progress-bar --log-level ERROR -k python3

report: $(READY) runs-$(RUNS)
	@OMP_NUM_THREADS=$(THREADS) python -m kd_capacity.study warm $(MAKE) --no-print-directory -j$(JOBS) _site/index.html PROFILE="$(if $(filter authors,$(RUNS)),authors,$(PROFILE))"

# RUNS: ours, or the authors' own, imported from the archive that they publish
runs-ours:
runs-authors: $(READY)
	@test -n "$(AUTHORS_ZIP)" || { echo "RUNS=authors needs AUTHORS_ZIP=…/raw_results_json.zip, the archive of their runs that the authors publish." >&2; exit 1; }
	@python -m kd_capacity.records import "$(AUTHORS_ZIP)"

_build/nbs/%.ipynb: nbs/%.ipynb $(LIBRARY)
	@mkdir -p $(@D)
	@echo "executing nbs/$*.ipynb"
	@$(EXECUTE) --cwd nbs $< $(@D)/.$*.ipynb $(GIVEN) 2> $(@D)/$*.log || { cat $(@D)/$*.log >&2; exit 1; }
	@mv $(@D)/.$*.ipynb $@

# these show records: again when a record or the choice of profiles changed
_build/nbs/index.ipynb: _build/records
_build/nbs/index.ipynb _build/report/%.ipynb: GIVEN = -p profiles "$(PROFILE)"
_build/report/benchmark.ipynb: GIVEN =
_build/report/benchmark.ipynb: $(wildcard $(RESULTS)/benchmarks/*.json)
_build/report/explorer.ipynb: theme/explorer.js theme/explorer.css
_build/report/%.ipynb: nbs/report/%.ipynb $(LIBRARY) _build/records
	@mkdir -p $(@D)
	@echo "executing nbs/report/$*.ipynb for $(PROFILE)"
	@$(EXECUTE) --cwd nbs/report $< $(@D)/.$*.ipynb $(GIVEN) 2> $(@D)/$*.log || { cat $(@D)/$*.log >&2; exit 1; }
	@mv $(@D)/.$*.ipynb $@

_build/records: FORCE
	@mkdir -p $(@D)
	@{ echo "$(PROFILE)"; find $(RESULTS) -name record.json -exec cksum {} + 2>/dev/null | sort; } > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

# a page for each run; the file changes only when a page does
_build/runs/.made: FORCE
	@python -m kd_capacity.run_pages $(PROFILE) --results "$(RESULTS)" --into $(@D)

_site/index.html: _build/runs/.made $(CHAPTERS) $(REPORTS) _quarto.yml $(wildcard theme/*)
	@python -m kd_capacity.site_build site
	@touch $@

# --- the README's picture: the front page of the site as it is
picture: $(READY)
	@python -m kd_capacity.site_build picture
