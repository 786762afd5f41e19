# The only entry points a person needs. Each installs what is missing first.
#
#   make demo    a lab of network namespaces, 1,000 real HTTP requests through a VIP, a report
#   make lab     a lab with health checks and a tour in a shell; MODE=fullnat, nat, dr, tunnel, snat or ipv6
#   make test    everything CI runs
#   make bench   what a packet and a session cost, beside testpmd (QUICK=1: under 2 minutes)
#   make test-nics   sluiced on PCI NICs that QEMU emulates, all of them; make test tries two. PCI="0000:3b:00.0
#                    0000:3b:00.1" PEERS="eth2 eth3" tries two of this machine's instead (docs/NICS.md)
#   make lint    formatting and lints, warnings denied
#   make fuzz    the fuzz targets, a minute each (FUZZ_SECONDS)
#   make clean   remove what was built

SHELL := /bin/sh
FUZZ_SECONDS ?= 60
BIN := target/release
export QUICK
PROGRAMS := -p sluice -p ctrl

.PHONY: demo lab test test-nics bench lint fuzz pure model programs labs deps-build deps-bench deps-nics deps clean

demo: deps labs
	$(BIN)/sluice-lab demo

lab: deps labs
	$(BIN)/sluice-lab shell $(MODE)

# Measures on the last core, where nothing else should run.
bench: deps-bench labs
	cargo build --release -p sluice --features bench --bin sluice-bench
	$(BIN)/sluice-bench

# The order is from cheap to dear: what fails early fails fast.
test: deps deps-nics lint pure model programs
	cargo test --release -p dataplane --features thash --test softrss --test mutations --test steering
	cargo build --release -p sluice --features bench --bin sluice-bench
	$(BIN)/sluice-bench guard
	$(BIN)/sluice-bench soft-nic 50000
	cargo test -p pktgen-tests --lib --bins
	SLUICE_BIN="$(CURDIR)/$(BIN)" sh pktgen-tests/run-labs.sh
	$(MAKE) fuzz FUZZ_SECONDS=30

test-nics: deps-nics labs
	$(BIN)/sluice-nics $(if $(PCI),$(foreach nic,$(PCI),--pci $(nic)) $(foreach end,$(PEERS),--peers $(end)),$(NICS))

lint: deps-build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --features sluice/bench,dataplane/thash --quiet -- -D warnings

# What needs neither DPDK nor root.
pure:
	cargo test

# Every interleaving of control and a worker over the mailbox, and of two workers over a ring.
model:
	RUSTFLAGS="--cfg loom" cargo test -p dataplane --lib --target-dir target/loom model
	sh dataplane/tests/model/run.sh

programs: deps-build
	cargo build --release $(PROGRAMS)

# The programs, and what makes a lab around them.
labs: deps-build
	cargo build --release $(PROGRAMS) -p pktgen-tests

fuzz:
	sh pktgen-tests/fuzz/run.sh $(FUZZ_SECONDS)

deps-build:
	@sh pktgen-tests/install-deps.sh build

deps-bench:
	@sh pktgen-tests/install-deps.sh bench

deps-nics:
	@sh pktgen-tests/install-deps.sh nics

deps:
	@sh pktgen-tests/install-deps.sh lab

clean:
	cargo clean
