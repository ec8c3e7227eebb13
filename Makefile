# Two commands are all the set-up there is: `make run` and `make test`.
.DEFAULT_GOAL := help
python := .venv/bin/python
templates := radiology documents
more_templates := signals genomics research
# Files of tests in the order of their names: whole portals first, small tests last, so that no worker ends alone.
pytest := $(python) -m pytest --dist loadfile --no-loadscope-reorder --reruns 1 --rerun-show-tracebacks

.PHONY: help setup setup-test run templates test test-viewers test-peers lint bench conformance vectors demo-data doctor lock clean

help:            ## show this list
	@grep -E '^[a-z-]+: .*##|^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 16

setup:
	@.ci/setup

setup-test:
	@.ci/setup --test

run: setup       ## install what is missing, build the viewers once, start everything
	@$(python) -m myphr init >/dev/null
	@$(python) -m myphr template build $(templates)
	@exec $(python) -m myphr up

templates: setup  ## build the other viewers too (genes, signals, research images) and add them to a running portal
	@nice $(python) -m myphr template build $(more_templates)
	@$(python) -m myphr template publish

test: setup-test ## lint and all tests but those in the large viewer templates
	@$(MAKE) --no-print-directory lint
	@$(pytest) -n 3 -m "not viewers and not qemu and not browser and not peers"  # three: many wait for a process
	@$(pytest) -n 2 -m "(qemu or browser) and not viewers and not peers"

test-viewers: setup-test ## the whole journey with the radiology template and a real study
	@$(python) -m pytest -m viewers

test-peers: setup-test ## foreign programs against the portal: dcmtk, Orthanc, dicomweb-client, tus-js-client, Medplum
	@$(python) -m pytest -v tests/integration/providers tests/integration/uploads tests/integration/hospitals
	@$(python) -m pytest -v -m peers

lint: setup-test ## style, types, page templates and import rules
	@$(python) -m ruff check .
	@$(python) -m mypy --no-error-summary
	@$(python) -m djlint templates --lint --quiet
	@mkdir -p build; .venv/bin/lint-imports --no-logo >build/lint-imports.log 2>&1 || { cat build/lint-imports.log; exit 1; }

bench: setup-test ## figures against named peers, measured in one run
	@$(python) -m bench

conformance: setup ## replay recorded answers of a real Proxmox node against localpve
	@$(python) -m myphr.localpve.conformance

vectors: setup-test ## all published and frozen vectors, with the product and with a second implementation
	@$(python) -m tests.vectors.check

demo-data: setup ## load sample studies: make demo-data EMAIL=you@example.org
	@$(python) -m myphr demo-data $(EMAIL)

doctor: setup    ## check the installation and the hypervisor
	@$(python) -m myphr doctor

compile := $(python) -m piptools compile -q --strip-extras --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --no-header
lock: setup-test ## pin .ci/requirements-test.txt and, out of the same set, requirements.txt again
	@$(compile) --allow-unsafe -o .ci/requirements-test.txt .ci/requirements.in .ci/requirements-test.in
	@$(compile) -c .ci/requirements-test.txt -o requirements.txt .ci/requirements.in

clean:           ## remove the environment and build results; never the data in var/
	rm -rf .venv build .mypy_cache .ruff_cache
