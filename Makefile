# make help lists what there is.

GO      ?= go
PREFIX  ?= /usr/local
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo development)

.DEFAULT_GOAL := build
.PHONY: build demo postgresql test test-short test-17 test-week sim bench-failover install clean help

## build         build bin/hathi, a static binary
build:
	@command -v $(GO) >/dev/null 2>&1 || { echo 'make: there is no $(GO) on PATH: install Go (https://go.dev/dl), or add its bin folder to PATH' >&2; exit 1; }
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/hathi ./cmd/hathi

## demo          install PostgreSQL if missing, build, and start three nodes here; ARGS='--nodes 5' and the like
demo: postgresql build
	bin/hathi demo $(ARGS)

## postgresql    install the distribution's PostgreSQL if there is none, without starting a server
postgresql:
	@scripts/ensure-postgresql.sh

## test          all checks and all tests, PostgreSQL's included
test: postgresql
	@scripts/check.sh

## test-short    format, vet, build and the tests that take moments
test-short:
	@scripts/check.sh short

## test-17       the tests that need PostgreSQL, on Debian 13's 17, in a root file system of its own (as root); WHAT='internal/router' RUN=TestX ROOT=DIR
test-17:
	@$(if $(ROOT),ROOT='$(ROOT)') $(if $(MIRROR),MIRROR='$(MIRROR)') $(if $(RUN),RUN='$(RUN)') scripts/test-debian13.sh $(WHAT)

## test-week     write a week of hathi's own writes into three etcd members and bound their sizes (an hour)
test-week:
	HATHI_WEEK=$(or $(WRITES),1) $(GO) test ./internal/etcdserver -run TestWeek -v -count=1 -timeout 6h

## sim           play simulated clusters for FOR=1m; SEED=17 plays one again, with its lines
sim:
	$(GO) run ./internal/sim/simmain $(if $(SEED),-seed $(SEED) -trace,-for $(or $(FOR),1m))

## bench-failover  measure outages (as root); WHAT='node-loss-async,switchover' ROUNDS=10 PEER=patroni JSON=FILE; REPORT=FILES only tells
bench-failover: $(if $(REPORT),,postgresql build)
	@$(if $(REPORT),,scripts/ensure-bench.sh)
	@$(if $(PEER),scripts/ensure-peer.sh)
	$(GO) build -o bin/bench ./test/bench
	bin/bench -rounds $(or $(ROUNDS),10) $(if $(WHAT),-what '$(WHAT)') $(if $(PEER),-peer '$(PEER)') $(if $(JSON),-json '$(JSON)') $(if $(REPORT),-report '$(REPORT)') $(ARGS)

## install       copy bin/hathi to PREFIX=/usr/local, below DESTDIR if set
install: build
	install -D -m 0755 bin/hathi '$(DESTDIR)$(PREFIX)/bin/hathi'

## clean         remove what was built; a demo's data stays (bin/hathi demo destroy removes that)
clean:
	rm -rf bin

help:
	@sed -n 's/^## /  make /p' Makefile
