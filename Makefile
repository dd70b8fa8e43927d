# The commands of this project. Each does its whole set-up; a second run builds nothing.
PYTHON ?= python3
RUN = $(PYTHON) tests/run.py

.PHONY: help check test test-matrix demo bench domain packages image rack format proto parity clean

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

check:           ## format, lint, types, layers, unit and service tests; no root, no cluster
	@$(RUN) check

test:            ## everything: check, the simulated hardware, the real cluster
	@$(RUN) test

test-matrix:     ## the deb under every systemd: install, upgrade, downgrade, remove, purge, with live claims
	@$(RUN) test-matrix

demo:            ## a pod on a real Kubernetes gets a (simulated) GPU, with a timeline
	@$(RUN) demo

bench:           ## start, prepare, throughput, memory; pods with and without GPUs
	@$(RUN) bench

domain:          ## a job over 18 nodes, with a ComputeDomain and without: timeline, API writes, ratio
	@$(RUN) domain

packages:        ## deb and rpm for x86-64 and aarch64, into out/packages
	@$(RUN) packages

image:           ## the controller's container image for x86-64 and aarch64, into out/image
	@$(RUN) image

rack:            ## Ansible on a rack of 18 simulated hosts: install, upgrade under load, break, go back, uninstall
	@$(RUN) rack

format:          ## format the code
	@$(RUN) format

proto:           ## make the committed protobuf code anew
	@$(RUN) proto

parity:          ## generate docs/parity.md from docs/parity/*.yaml
	@$(RUN) parity

clean:           ## forget the tools' caches in this checkout (the build cache stays)
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build out
