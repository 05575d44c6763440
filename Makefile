# Commands for developers and CI. `make` alone lists the targets.
#
# Set the variables on the command line or in the environment, e.g. `make run PORT=9000`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test crowds bench bench-log simulate torture fuzz screenshots check build clean binary need-tools say-missing
# Cargo commands that run at the same time only wait for each other's lock.
.NOTPARALLEL:

CARGO ?= cargo
# Without this, Cargo reports at each build that a future Rust will reject two dependencies of rouille (see deny.toml).
# `make run` does not set it, because the server's pipelines would inherit it.
$(filter-out run,$(or $(MAKECMDGOALS),help)) binary: export CARGO_FUTURE_INCOMPAT_REPORT_FREQUENCY ?= never
BINARY := $(or $(CARGO_TARGET_DIR),target)/release/autoappdev
# Panic messages contain the paths of dependencies' source files. Without this option, these are absolute paths on the builder's
# machine, including the builder's home directory. Cargo's own option for this, `trim-paths`, is not stable. If several prefixes
# match, the last one applies.
CARGO_DIR := $(or $(CARGO_HOME),$(HOME)/.cargo)
REMAP := --config 'build.rustflags=["--remap-path-prefix=$(HOME)=/home", "--remap-path-prefix=$(CARGO_DIR)=/cargo", "--remap-path-prefix=$(CURDIR)=/src"]'
# Tests that need the features `faults` (kill the program at named points, set its clocks) and `fuzzing` (access to the parsers).
FAULTY_TESTS := --test kill_points --test clock_steps --test corpora --test differential
SCRIPTS := .ci/run tests/fuzz/run.sh $(wildcard examples/*.sh)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# PORT and every AUTOAPPDEV_ variable given to make reach the server through the environment. The server does not pass them on to a
# pipeline, nor the variables that make adds (MAKEFLAGS, its job server). `exec` leaves no shell between make and the server. On
# Ctrl-C, which both receive, the server exits with 0 and make with 130.
run: export AUTOAPPDEV_PIPELINE_CWD ?= examples
run: export AUTOAPPDEV_PIPELINE_SCRIPT ?= demo.sh
run: export AUTOAPPDEV_RUNTIME_DIR ?= ./runtime
run: binary ## Build, and serve the demo pipeline on http://127.0.0.1:8788/ (another port: PORT=9000)
	@exec $(BINARY) serve

# cargo-nextest runs each test in a separate process and retries a failed test once (.config/nextest.toml). The end of the output
# lists the tests that passed only when retried, from nextest's report. Four tests run at a time, because tests mostly wait.
test: export RUST_TEST_THREADS ?= 4
test: need-tools say-missing ## Run every test
	@target="$${CARGO_TARGET_DIR:-target}"; mkdir -p -- "$$target"; target=$$(CDPATH= cd -- "$$target" && pwd); \
	export AUTOAPPDEV_NOT_RUN_LIST="$$target/not-run.txt"; : > "$$AUTOAPPDEV_NOT_RUN_LIST"; failed=0; \
	flaky="$$target/flaky.txt"; report="$$target/nextest/default/junit.xml"; : > "$$flaky"; rm -f -- "$$report"; \
	if $(CARGO) nextest --version >/dev/null 2>&1; then run=(nextest run); else run=(test --no-fail-fast); fi; \
	run_tests() { \
	  $(CARGO) "$${run[@]}" --locked "$$@" || failed=1; \
	  [ ! -f "$$report" ] || awk "$$LIST_FLAKY" "$$report" >> "$$flaky"; rm -f -- "$$report"; \
	}; \
	run_tests; \
	run_tests --features faults,fuzzing $(FAULTY_TESTS); \
	awk "$$GROUP_NOT_RUN" "$$AUTOAPPDEV_NOT_RUN_LIST"; cat "$$flaky"; exit $$failed
# Prints one line for each reason why tests did not run.
test: export GROUP_NOT_RUN = !seen[$$0]++ && sub(/^NOT RUN: /, "") { at = index($$0, ": "); why = substr($$0, at + 2); \
    if (!count[why]++) { reasons[++n] = why; first[why] = substr($$0, 1, at - 1) } } \
  END { for (i = 1; i <= n; i++) { why = reasons[i]; others = count[why] - 1; \
      print "NOT RUN: " first[why] (others ? " and " others " more" : "") ": " why } \
    if (n) print "(all names are in " FILENAME ")" }
# Prints the test cases of nextest's report that failed before they passed.
test: export LIST_FLAKY = /<testcase / { match($$0, / name="[^"]*"/); name = substr($$0, RSTART + 7, RLENGTH - 8) } \
  /<flakyFailure/ { print "FLAKY: " name " failed, and passed when it was tried again" }

# The tests of `make test`, on the release build and with more new clients. Prints how long these waited, what resources the server
# used, and how long it took to stop. The tests run one at a time, because they are measured.
crowds: export AUTOAPPDEV_CROWDS_QUESTIONS := $(or $(QUESTIONS),500)
crowds: need-tools ## Open thousands of idle, slow and hostile connections to the release build; print waits of new clients and memory
	$(CARGO) test --release --locked $(REMAP) --test crowds -- --nocapture --test-threads=1

# Measures the release binary together with lower bounds and other servers, in the same run. Uses nginx and strace if they are installed.
bench: need-tools ## Measure speed and memory in ROUNDS=20 rounds, and print the tables of docs/performance.md
	BENCH_ROUNDS=$(or $(ROUNDS),20) $(CARGO) bench --locked $(REMAP) --bench bench

bench-log: need-tools ## Measure how fast output is captured and searched in ROUNDS=7 rounds, compared with `cat > file`
	BENCH_ROUNDS=$(or $(ROUNDS),7) $(CARGO) bench --locked $(REMAP) --bench log

screenshots: export AUTOAPPDEV_SCREENSHOTS := $(abspath $(or $(DIR),target/screenshots))
screenshots: export AUTOAPPDEV_SCENE := $(SCENE)
screenshots: need-tools ## Save screenshots of the page in each state to DIR=target/screenshots (only one: SCENE=running)
	$(CARGO) test --locked --test it -- --ignored --nocapture browser::scenes::screenshots

# The variables are always set, so that one left over in the environment has no effect.
torture: need-tools ## Test the release build with N=1000 rounds of random faults and kills; SEED=<number> repeats earlier decisions
	AUTOAPPDEV_TORTURE_ROUNDS=$(or $(N),1000) AUTOAPPDEV_TORTURE_SEED=$(SEED) \
	  $(CARGO) test --release --locked $(REMAP) --test torture -- --nocapture

# A seed determines everything that happens in one simulation (src/supervisor/simulation/). A failed simulation prints its trace and
# how to repeat it.
simulate: export SIMULATE_SEEDS := $(or $(SEEDS),100000)
simulate: export SIMULATE_FIRST := $(FIRST)
simulate: export SIMULATE_SEED := $(SEED)
simulate: need-tools ## Simulate 100000 seeds (SEEDS=5000 FIRST=100000), or one with its trace (SEED=1234)
	$(CARGO) test --locked --profile simulation --lib supervisor::simulation::whatever -- --nocapture

# SECONDS is passed as an argument, because bash gives the variable of that name its own meaning.
fuzz: need-tools ## Fuzz every parser for 600 seconds in total (SECONDS=3600); needs a nightly compiler and cargo-fuzz
	@unset SECONDS; tests/fuzz/run.sh $(or $(SECONDS),600) $(TARGETS)

check: need-tools ## Check formatting, lints, documentation, licences, advisories and the scripts' syntax
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path tests/fuzz/Cargo.toml
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	@for script in $(SCRIPTS); do bash -n "$$script"; done
	@if ! $(CARGO) deny --version >/dev/null 2>&1; then \
	  echo "cargo-deny is not installed: licences and advisories were not checked; to get it: cargo install --locked cargo-deny"; \
	elif $(CARGO) deny --log-level off fetch db; then \
	  $(CARGO) deny --locked check --hide-inclusion-graph; \
	else \
	  echo "the advisory database cannot be fetched: advisories were not checked, everything else is"; \
	  $(CARGO) deny --locked check --hide-inclusion-graph bans licenses sources; \
	fi

build: binary ## Build the release binary; print its path and size
	@size=$$(stat -c %s $(BINARY)); echo "$(abspath $(BINARY)): $$(numfmt --to=iec --suffix=B "$$size")"

clean: ## Remove build output (the runtime directory and its history are kept)
	$(CARGO) clean

binary: need-tools
	@$(CARGO) build --release --locked $(REMAP)

# Checked first, because without a C compiler the build fails minutes later, in SQLite.
need-tools:
	@command -v $(firstword $(CARGO)) >/dev/null || { \
	  echo "Rust is missing: there is no '$(firstword $(CARGO))' here. Install Rust with rustup, https://rustup.rs" >&2; exit 1; }
	@command -v "$${CC:-cc}" >/dev/null || { \
	  echo "A C compiler is missing: there is no '$${CC:-cc}' here (SQLite is compiled from C)." \
	    "Debian, Ubuntu: apt install build-essential; Fedora: dnf install gcc; Alpine: apk add build-base" >&2; exit 1; }
	@need=$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml); have=$$($(CARGO) --version | cut -d ' ' -f 2); \
	  printf '%s\n' "$$need" "$$have" | sort -VC || { \
	  echo "Rust $$have is too old: this needs $$need or newer. With rustup: rustup update" >&2; exit 1; }

# Programs that the tests need and the build does not, each with its Debian package. Only tests that run as root use nginx.
say-missing:
	@missing= packages=; \
	need() { \
	  package=$$1; shift; \
	  for name; do ! command -v "$$name" >/dev/null || return 0; done; \
	  missing="$$missing $$1" packages="$$packages $$package"; \
	}; \
	need chromium chromium chromium-browser google-chrome; need chromium-driver chromedriver; need git git; need iproute2 ip; \
	need util-linux unshare; need systemd systemd-analyze; [ "$$(id -u)" != 0 ] || need nginx-light nginx; \
	[ -z "$$missing" ] || echo "Tests that need what is not installed here will say NOT RUN:$$missing. Debian, Ubuntu: apt-get install$$packages"
