# make demo   the whole study in miniature, and its report
# make test   every test, every library notebook, notebooks and package in step
# make study PROFILE=paper-v2 JOBS=4      make plan PROFILE=paper-v2
# make report PROFILE="demo fast"         make lab     make export     make lock

PROFILE ?= demo
JOBS ?= $(shell n=$$(nproc); [ $$n -gt 4 ] && echo 4 || echo $$n)
export PATH := $(CURDIR)/.venv/bin:$(PATH)

RESULTS := $(or $(KD_RESULTS),results)
LIBRARY := $(wildcard kd_capacity/*.py)
CHAPTERS := $(patsubst %,_build/%,$(wildcard nbs/*.ipynb))
READY := .venv/.ready

.PHONY: demo test study plan report lab export lock FORCE

demo: $(READY)
	@python -m kd_capacity.study run demo --jobs $(JOBS)
	@$(MAKE) --no-print-directory report PROFILE=demo JOBS=$(JOBS)
	@python -m kd_capacity.report headline demo

study: $(READY)
	@python -m kd_capacity.study run $(PROFILE) --jobs $(JOBS)

plan: $(READY)
	@python -m kd_capacity.study plan $(PROFILE)

# --- every test: pytest, the library notebooks in fresh processes, notebooks and package in step
test: $(READY)
	@python -m pytest -n $(JOBS) tests
	@nbdev_test --n_workers $(JOBS)

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

report: $(READY)
	@$(MAKE) --no-print-directory -j$(JOBS) _site/index.html

_build/nbs/%.ipynb: nbs/%.ipynb $(LIBRARY)
	@mkdir -p $(@D)
	@echo "executing nbs/$*.ipynb"
	@$(EXECUTE) --cwd nbs $< $(@D)/.$*.ipynb 2> $(@D)/$*.log || { cat $(@D)/$*.log >&2; exit 1; }
	@mv $(@D)/.$*.ipynb $@

# these two show records: again when a record or the choice of profiles changed
_build/nbs/index.ipynb: _build/records
_build/report/analysis.ipynb: nbs/report/analysis.ipynb $(LIBRARY) _build/records
	@mkdir -p $(@D)
	@echo "executing nbs/report/analysis.ipynb for $(PROFILE)"
	@$(EXECUTE) --cwd nbs/report $< $(@D)/.analysis.ipynb -p profiles "$(PROFILE)" 2> $(@D)/analysis.log || { cat $(@D)/analysis.log >&2; exit 1; }
	@mv $(@D)/.analysis.ipynb $@

_build/records: FORCE
	@mkdir -p $(@D)
	@{ echo "$(PROFILE)"; find $(RESULTS) -name record.json -exec cksum {} + 2>/dev/null | sort; } > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

_site/index.html: $(CHAPTERS) _build/report/analysis.ipynb _quarto.yml $(wildcard theme/*)
	@python -m kd_capacity.report site
	@touch $@
