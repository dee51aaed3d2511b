# LPMOS. `make help` lists what can be asked for.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

GO       ?= go
# Where build-deps puts a Go when the one on the PATH is too old.
export PATH := $(CURDIR)/build/go/bin:$(PATH)
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)
# The same source gives the same bytes, wherever it is built.
BUILD    := build -trimpath -buildvcs=false
export CGO_ENABLED ?= 0
ASSETS   := images/bootimage/assets
FUZZTIME ?= 60s
EXECS    ?= 10000000
KILLS    ?= 20
SEEDS    ?= 200
LAB_DIR  ?= build/rack
LISTEN   ?= 127.0.0.1:8080
MACHINES ?= 1000

GO_FILES := $(shell git ls-files -co --exclude-standard '*.go') go.mod go.sum
UI_FILES := $(shell git ls-files -co --exclude-standard ui/static)

.PHONY: help run demo sim test test-unit test-journey test-ui test-firmware build agent boot-image images image-debian bench bench-raft bench-scale bench-netboot lint fuzz fuzz-long reproducible sbom vuln supply kill-test chaos clients deps clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | column -t -s "$$(printf '\t')"

run: deps build image-debian ## start a node and a virtual rack of two machines, one BIOS and one UEFI
	exec bin/lpmos lab up --dir $(LAB_DIR) --machines 2 --firmware bios,uefi --listen $(LISTEN) --image debian-12=build/images/debian-12.raw

demo: deps build image-debian ## the same, unattended: install Debian 12 on both and wait until they are up
	bin/lpmos lab up --dir $(LAB_DIR) --machines 2 --firmware bios,uefi --listen $(LISTEN) --image debian-12=build/images/debian-12.raw \
	  --auto-approve --until-up

sim: build ## $(MACHINES) simulated machines power on at once against one node, and against three of which one is killed half-way
	bin/lpmos lab sim --dir build/sim --machines $(MACHINES)
	bin/lpmos lab sim --dir build/sim --machines $(MACHINES) --nodes 3 --kill-node 50%

test: deps lint test-unit test-ui test-journey ## everything: rules, packets, real clients, QEMU machines, a real browser

test-unit: deps build
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...

test-ui: deps build ui/e2e/node_modules/.installed
	node --test ui/static/test/
	npm --prefix ui/e2e test

test-journey: deps build images ui/e2e/node_modules/.installed
	$(GO) test -count=1 -timeout 40m -tags journey -run 'TestImagesBoot' ./images/osimage -v
	$(GO) test -count=1 -timeout 90m -tags journey ./appliance/journey -v

test-firmware: deps build ## boot SeaBIOS, OVMF, AAVMF and U-Boot in every way against the netboot code alone
	LPMOS_TEST_QEMU=1 LPMOS_TEST_KERNEL=$(CURDIR)/$(ASSETS)/vmlinuz $(GO) test -count=1 -timeout 30m -v -run TestRealFirmware ./netboot

clients: deps ## run the DHCP, TFTP and HTTP clients of others against this server, and write netboot/CLIENTS.md
	LPMOS_CLIENT_TABLE=$(CURDIR)/netboot/CLIENTS.md $(GO) test -count=1 -v -run TestClientTable ./netboot/

kill-test: deps build images ## kill -9 the node that serves an install, $(KILLS) times: one alone, and one of three
	LPMOS_KILLS=$(KILLS) $(GO) test -count=1 -timeout 240m -tags journey -run 'TestNodeKilled|TestServingNodeKilled' ./appliance/journey -v

chaos: ## the long runs of consensus/chaos: $(SEEDS) seeds of faults, 1,000 kills, 200 fail-overs, 1,000 flipped bits; hours
	LPMOS_SEEDS=$(SEEDS) LPMOS_SEED_SECONDS=30 LPMOS_KILLS=1000 LPMOS_FAILOVERS=200 LPMOS_CALM_SECONDS=600 LPMOS_FLIPS=1000 LPMOS_FAULTS=200 LPMOS_FULLS=100 \
	  $(GO) test -count=1 -timeout 8h -v ./consensus/chaos

build: bin/lpmos ## the node's binary, bin/lpmos, with the boot image in it

agent: bin/lpmos-agent bin/lpmos-agent-arm64 ## the agent's binaries, bin/lpmos-agent and bin/lpmos-agent-arm64

bin/lpmos-agent-arm64: export GOARCH := arm64
bin/lpmos-agent bin/lpmos-agent-arm64: $(GO_FILES)
	$(GO) $(BUILD) -tags nethttpomithttp2 -ldflags "$(LDFLAGS)" -o $@ ./cmd/lpmos-agent
	@size=$$(stat -c %s $@); echo "$@: $$size bytes"; test $$size -le 6000000 || { echo "the agent is larger than 6000000 bytes" >&2; exit 1; }

boot-image: $(ASSETS)/SOURCES.json ## the agent's kernel and initramfs, and the loaders, from Debian packages; for amd64 and arm64

BOOT_FILES := $(shell git ls-files -co --exclude-standard images/bootimage/mkboot images/initramfs images/debian)

$(ASSETS)/SOURCES.json: bin/lpmos-agent bin/lpmos-agent-arm64 $(BOOT_FILES)
	$(GO) run ./images/bootimage/mkboot -agent bin/lpmos-agent -agent-arm64 bin/lpmos-agent-arm64 -out $(ASSETS)

bin/lpmos: $(ASSETS)/SOURCES.json $(GO_FILES) $(UI_FILES)
	$(GO) $(BUILD) -ldflags "$(LDFLAGS)" -o $@ ./cmd/lpmos

images: build/images/tiny.raw ## the tiny bootable image that tests install

image-debian: build/images/debian-12.raw ## a small, real Debian 12 with cloud-init

# An image is made anew when the way it is made changes, not with every build.
IMAGE_FILES := $(shell git ls-files -co --exclude-standard images/osimage images/initramfs images/debian)

build/images/%.raw: $(IMAGE_FILES) | bin/lpmos
	@mkdir -p $(@D)
	bin/lpmos image build $* --out $@

bench: build ui/e2e/node_modules/.installed ## figures of the parts, and of a browser that 1,000 machines reach through one node and through two
	$(GO) test -run '^$$' -bench . -benchtime 2s ./...

bench-raft: deps ## three nodes beside three etcd on the same disk: updates a second, latency, processor time
	@./build-deps etcd-server
	cd appliance/bench && $(GO) run .

bench-netboot: deps build ## TFTP, DHCP, HTTP and boots beside the servers that others use, in one run; PARTS=dhcp,http for some of it; needs root, a quarter of an hour
	$(GO) build -o build/bench-netboot ./netboot/bench
	GO="$(GO)" build/bench-netboot -parts "$(PARTS)"

bench-scale: build ## a node that knows 10,000 machines and 100,000 past tasks: restart, memory, backup, restore, lists
	$(GO) test -count=1 -timeout 30m -tags scale -run TestScale -v ./appliance/scale

lint: deps ## formatting, vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "run gofmt -w on these" >&2; exit 1; }
	$(GO) vet -tags journey,scale ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 -tags journey,scale ./...

reproducible: deps ## build everything twice, in two places and without a cache, and compare every byte
	@tmp=$$(mktemp -d); trap 'chmod -R u+w "$$tmp"; rm -rf "$$tmp"' EXIT; \
	for place in "$$tmp/one" "$$tmp/another/place"; do \
	  mkdir -p "$$place"; git ls-files -co --exclude-standard -z | xargs -0 cp --parents -t "$$place"; \
	  GOCACHE="$$tmp/cache-$$(basename "$$place")" $(MAKE) --no-print-directory -C "$$place" build VERSION=$(VERSION) GO_FILES= UI_FILES= BOOT_FILES=; \
	done; \
	for f in bin/lpmos bin/lpmos-agent bin/lpmos-agent-arm64 $(ASSETS)/initrd $(ASSETS)/SOURCES.json; do \
	  cmp "$$tmp/one/$$f" "$$tmp/another/place/$$f"; sha256sum "$$tmp/one/$$f" | sed "s|$$tmp/one/||"; \
	done

sbom: build ## what the node's binary is made of (CycloneDX), in build/sbom.json
	@mkdir -p build
	bin/lpmos sbom > build/sbom.json

vuln: build ## known vulnerabilities in the source and in what is linked in; asks vuln.go.dev
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 -mode=binary bin/lpmos
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 -mode=binary bin/lpmos-agent

supply: ## S59: modules as they were published, no known vulnerability that is called, the same bytes twice
	$(GO) mod verify
	$(MAKE) --no-print-directory vuln
	$(MAKE) --no-print-directory reproducible

fuzz: ## every fuzz target for $(FUZZTIME) each
	@for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$pkg; \
	  done; done

fuzz-long: ## every fuzz target until it was executed $(EXECS) times, niced and with one worker; hours, and it can be ended and begun again
	@GO="$(GO)" .ci/fuzz-long $(EXECS)

ui/e2e/node_modules/.installed: ui/e2e/package.json
	npm --prefix ui/e2e install --no-audit --no-fund --no-package-lock
	@touch $@

deps: ## install the Debian packages that building and testing need
	@./build-deps

clean: ## remove what was built
	rm -rf bin build ui/e2e/node_modules $(ASSETS)/vmlinuz* $(ASSETS)/initrd* $(ASSETS)/*.kpxe $(ASSETS)/*.efi $(ASSETS)/SOURCES.json
