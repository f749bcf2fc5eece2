# `make` or `make help` lists the targets. Everything built goes to build/ and native/target/.

.DEFAULT_GOAL := help
.PHONY: help up down image qemu qemu-stop test-namespace test-machine test-qemu deps generate build check lint test bench docs clean

node := node_modules/.bin/node
run_tests := $(node) --test --test-reporter=spec --test-reporter-destination=stdout --test-reporter=./test/support/failures.ts --test-reporter-destination=stdout
units := $(run_tests) "packages/*/src/**/*.test.ts" "image/**/*.test.ts"

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed 's/:.*## /\t/' | expand -t 12

up: build ## Start a capsule on this machine (NAME=local STATE=build/state/NAME PORT=first free from 50000)
	@$(node) image/namespace/up.ts

down: ## Stop it and leave nothing behind (NAME=, ALL=1 for every one, PURGE=1 to remove the state)
	@$(node) image/namespace/down.ts

image: build ## Build build/disk.raw, which boots, and build/update.tar (DISK_MIB=8192 SLOT_MIB=768 FIRECRACKER=its program UPDATE_KEY=what signs bundles, UPDATE_TRUST=further public keys)
	@$(node) image/image.ts

qemu: image ## Boot it in QEMU (HEADLESS=1 in the background, PORT=50000, FORWARD=8080,8443:443, EXTRA_DISK=FILE, TPM=1, BIOS=1, MEMORY_MIB=2048, PURGE=1)
	@$(node) image/qemu/up.ts

qemu-stop: ## Press its power button
	@$(node) image/qemu/up.ts stop

deps: ## Install what is missing on this machine
	@scripts/deps.sh

generate: deps
	@$(node) image/containerd-protos.ts >/dev/null
	@$(node) scripts/generate.ts

build: generate ## Build the programs
	@native/build.sh
	@$(node) scripts/bundle.ts

lint: generate ## Style, types and import directions (biome.json)
	@node_modules/.bin/biome check --error-on-warnings .
	@node_modules/.bin/tsc --noEmit -p tsconfig.json
	@cd native && cargo fmt --check
	@$(node) scripts/docs.ts --check

check: lint ## Lint and unit tests, under a minute
	@$(units)

test: check build image ## Everything that must pass (40 to 80 minutes on two cores)
	@# Debian 12 has no clippy for its newer Rust.
	@cd native && if cargo clippy --version >/dev/null 2>&1; then cargo clippy --all-targets --locked --quiet -- -D warnings; else echo "no clippy on this machine: not run"; fi
	@cd native && cargo test --locked --quiet
	@$(MAKE) --no-print-directory test-namespace test-machine

# MicroVMs are emulated where there is no KVM: each keeps one core busy, so two files run at once.
of_microvms := $(wildcard test/guest/*.test.ts test/namespace/*microvm*.test.ts)
of_namespaces := $(filter-out $(of_microvms),$(wildcard test/storage/*.test.ts test/suite/*.test.ts test/namespace/*.test.ts))

test-namespace: build ## The acceptance suite and the runner's own tests, in namespaces of this machine
	@$(run_tests) --test-concurrency=1 $(of_namespaces)
	@$(run_tests) --test-concurrency=2 $(of_microvms)

# Two machines at once: emulated, each takes one core. The machine that the suite goes on from is booted before.
in_machines = CAPSULE_RUNNER=qemu $(run_tests) --test-concurrency=$(1)
in_suite := image install lvm-thin update-power
beside_suite := $(filter-out $(in_suite),$(basename $(basename $(notdir $(wildcard test/qemu/*.test.ts)))))
of_machine = $(patsubst %,test/qemu/%.test.ts,$(1))
failed := build/failed-on-machines

# An emulated machine is slow, and the next slower: a file that fails beside another one is run once more, alone, and both are told.
test-machine: image ## The acceptance suite and the image's own tests, in QEMU (13 to 36 minutes emulated)
	@$(node) test/support/qemu/qemu-host.ts
	@rm -f $(failed)
	@FAILED_FILES=$(failed) $(call in_machines,2) $(call of_machine,$(in_suite)) "test/suite/*.test.ts" || { \
	  [ -s $(failed) ] && echo "Once more, each alone: $$(cat $(failed))" && $(call in_machines,1) $$(cat $(failed)); }

test-qemu: test-machine ## Also boots, disks and power cuts of the machine (17 minutes more; ROUNDS=10 power cuts, ALL=1 cuts at every place)
	@$(call in_machines,2) $(call of_machine,$(beside_suite))

docs: generate ## Write the references from the sources (docs/cli.md, docs/manifest.md)
	@$(node) scripts/docs.ts

bench: build ## Measure against the bare tools; prints a table, writes build/bench.json
	@$(node) bench/bench.ts
	@$(node) image/image.ts && $(node) bench/boot.ts

clean: ## Remove everything built, but no cache
	@rm -rf build/bundle build/layer build/images native/target packages/api/src/gen packages/capsuled/src/gen
