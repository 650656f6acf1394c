# The project's commands. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= 0.1.0
COMMIT ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
GO ?= go
FUZZTIME ?= 10s
KERNELS ?= 5.10 6.1 6.12
LINT_VERSION := v2.15.0
LINT := bin/golangci-lint-$(LINT_VERSION)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
# Tests in network namespaces need root. As root they must run. Without root they skip, and make test prints that.
ifeq ($(shell id -u),0)
export SIKKERGUARD_REQUIRE_NETNS ?= 1
endif

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/sikkerguard, a static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/sikkerguard ./cmd/sikkerguard

.PHONY: demo
demo: ## Show the main job on throwaway hosts (root, under a minute)
	@e2e/install-deps nft ip
	@$(MAKE) --no-print-directory build
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./e2e/apisim/sikkerapi-sim ./e2e/demo
	@bin/demo

.PHONY: test
test: ## Run every test with the race detector (as root also those on the kernel)
	@e2e/install-deps nft ip iptables ipset gcc prometheus promtool systemd-analyze nginx mkfs.ext4 update-ca-certificates
	@[[ $$(id -u) = 0 ]] || echo 'Not root: the tests on the real kernel are skipped. Run: sudo make test'
	$(GO) test -race -count=1 -timeout 30m -tags e2e -parallel 6 ./...
	$(GO) test -count=1 -run TwoMillion ./internal/store
	$(GO) test -C deploy/tools -count=1 ./...
	$(GO) test -C e2e/bench -count=1 ./...

.PHONY: check
check: $(LINT) ## The quick loop: vet, lint of your changes, unit tests without the kernel
	$(GO) vet ./...
	$(LINT) run --allow-parallel-runners --new-from-rev=HEAD ./...
	SIKKERGUARD_REQUIRE_NETNS=never $(GO) test -short ./cmd/... ./internal/... ./pkg/...

.PHONY: e2e
e2e: ## Run the image and compose.yaml on a Docker engine in a network namespace (root, some minutes)
	@e2e/install-deps nft ip dockerd docker docker-compose debootstrap
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./e2e/apisim/sikkerapi-sim
	CGO_ENABLED=0 $(GO) test -v -count=1 -timeout 30m -tags e2e_docker ./e2e/docker

.PHONY: kernels
kernels: ## Run the tests on Debian's kernels 5.10, 6.1 and 6.12 (root, two hours; KERNELS=6.1 QUICK=1 as CI; SUITES= RUN=)
	@e2e/install-deps qemu-system-x86_64 debootstrap mke2fs
	@$(GO) build -o bin/ ./e2e/kernels
	@bin/kernels -kernels '$(KERNELS)' -suites '$(value SUITES)' -run '$(value RUN)' $(if $(QUICK),-quick) -cache bin/.kernels

.PHONY: soak
soak: ## Random faults for 20 minutes, and packets that check the promises (root; SOAK=5m SEED=n)
	@e2e/install-deps nft ip mkfs.ext4 gcc
	SOAK='$(SOAK)' SEED='$(SEED)' $(GO) test -v -count=1 -timeout 0 -tags e2e_soak ./e2e/soak

.PHONY: image
image: ## Build the image, sikkerguard:VERSION
	docker build --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) -t sikkerguard:$(VERSION) -t sikkerguard .

.PHONY: lint
lint: $(LINT) ## Check style, the package map, formatting and go.mod
	$(LINT) run ./...
	cd deploy/tools && ../../$(LINT) run ./...
	cd e2e/bench && ../../$(LINT) run ./...
	$(LINT) fmt --diff ./...
	$(GO) mod tidy -diff
	$(GO) mod verify

$(LINT):
	@mkdir -p bin
	GOBIN=$(CURDIR)/bin/.lint $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@mv bin/.lint/golangci-lint $@ && rmdir bin/.lint

.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZTIME (10s)
	@grep -rl --include='*_test.go' --exclude-dir=bin '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
		for f in $$(grep -ho '^func Fuzz[A-Za-z0-9]*' $$dir/*_test.go | cut -c6-); do \
			echo "$$dir $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$dir; \
		done; \
	done

.PHONY: bench
bench: ## Measure speed and memory beside those of the peers, and write docs/performance.md (root, an hour, a quiet machine)
	@e2e/install-deps nft iptables ipset sqlite3 crowdsec crowdsec-firewall-bouncer
	@$(MAKE) --no-print-directory build
	@$(GO) build -C e2e/bench -o ../../bin/bench .
	@bin/bench $(BENCHFLAGS)

.PHONY: bench-quick
bench-quick: ## The same with fewer lists and rounds, into bin/bench-quick (root, some minutes)
	@mkdir -p bin/bench-quick
	@$(MAKE) --no-print-directory bench BENCHFLAGS='-plan quick -out bin/bench-quick'

.PHONY: docs
docs: ## Write the generated pages and golden files
	$(GO) test ./internal/config ./internal/firewall/nft -update
	$(GO) test ./internal/status -run 'TestMetricsReference|TestConditionsPage|TestStatusShape' -update

.PHONY: package
package: ## Build the .deb and the .rpm of both architectures into dist/
	@VERSION='$(VERSION)' LDFLAGS='$(LDFLAGS)' GO='$(GO)' deploy/packaging/release package

.PHONY: release
release: ## Build dist/: packages, archives, an SBOM and their checksums
	@VERSION='$(VERSION)' LDFLAGS='$(LDFLAGS)' GO='$(GO)' deploy/packaging/release all

.PHONY: clean
clean: ## Remove bin and dist
	rm -rf bin dist
