# make demo | make test | make soak | make bench | make fuzz | make deb | make image. Each installs by itself what it needs, and says so.

# What the demo needs from Debian, beside the Rust toolchain; and what testing needs beside that.
DEMO_PACKAGES = bash binutils ca-certificates curl debian-archive-keyring dpkg-dev e2fsprogs g++ gcc iproute2 libc6-dev mmdebstrap mount openssl procps \
  systemd systemd-container util-linux
PACKAGES = $(DEMO_PACKAGES) bsdextrautils chromium chromium-driver dash bind9-dnsutils dosfstools fdisk fonts-dejavu-core genisoimage gpg gpg-agent lintian mtools \
  nmap openssh-client ovmf poppler-utils python3-venv qemu-system-x86 qemu-utils vagrant wrk xfsprogs xorriso zbar-tools
CARGO_DENY_VERSION = 0.20.2
GIXY_VERSION = 0.2.59
BUGSINK_VERSION = 2.6.2
CARGO_FUZZ_VERSION = 0.13.2
TOOLS = $(CURDIR)/target/tools
SOURCES = $(shell find src -type f) Cargo.toml Cargo.lock
AS_ROOT = $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PACKAGING = $(shell find units appliance-image/deb appliance-image/ecs env-template docs -type f) README.md

.PHONY: help demo demo-stop test soak bench fuzz deb image packages demo-packages tools lint clean-cache
help:
	@sed -n '1p' Makefile

packages:
	@$(call install,$(PACKAGES))

demo-packages:
	@$(call install,$(DEMO_PACKAGES))

# Installs those packages that are missing.
install = missing=; for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  echo "installing Debian packages:$$missing"; \
	  if [ "$$(id -u)" = 0 ]; then as=; else as=sudo; fi; \
	  $$as apt-get update -q && DEBIAN_FRONTEND=noninteractive $$as apt-get install -q -y --no-install-recommends $$missing; \
	fi

tools: packages
	@if ! $(TOOLS)/bin/cargo-deny --version 2>/dev/null | grep -q ' $(CARGO_DENY_VERSION)$$'; then \
	  echo "installing cargo-deny $(CARGO_DENY_VERSION) into target/tools"; \
	  cargo install cargo-deny --locked --quiet --debug --version $(CARGO_DENY_VERSION) --root $(TOOLS); \
	fi
	@if ! $(TOOLS)/gixy/bin/gixy --version 2>/dev/null | grep -q ' v$(GIXY_VERSION)$$'; then \
	  echo "installing gixy $(GIXY_VERSION) into target/tools"; \
	  python3 -m venv --clear $(TOOLS)/gixy && $(TOOLS)/gixy/bin/pip install --quiet gixy-ng==$(GIXY_VERSION); \
	fi
	@if ! $(TOOLS)/bugsink/bin/pip list 2>/dev/null | grep -q '^bugsink *$(BUGSINK_VERSION)$$'; then \
	  echo "installing bugsink $(BUGSINK_VERSION) into target/tools"; \
	  python3 -m venv --clear $(TOOLS)/bugsink && $(TOOLS)/bugsink/bin/pip install --quiet bugsink==$(BUGSINK_VERSION) gunicorn; \
	fi
	@if [ ! -x $(TOOLS)/compose/usr/libexec/docker/cli-plugins/docker-compose ]; then \
	  echo "installing docker compose of Debian unstable into target/tools"; \
	  sh tests/newer.sh sid $(TOOLS)/compose docker-compose; \
	fi
	@if [ ! -x $(TOOLS)/rest-server/usr/bin/restic-rest-server ]; then \
	  echo "installing restic's rest-server of Debian 13 into target/tools"; \
	  sh tests/newer.sh trixie $(TOOLS)/rest-server restic-rest-server; \
	fi
	@if [ ! -x $(TOOLS)/testssl/usr/bin/testssl ]; then \
	  echo "installing testssl.sh of Debian 13 into target/tools"; \
	  sh tests/newer.sh trixie $(TOOLS)/testssl testssl.sh; \
	fi

# The package as it is released: link-time optimised.
deb: packages target/deb/appliance.deb
target/deb/appliance.deb: $(SOURCES) $(PACKAGING)
	cargo build --release --locked
	sh appliance-image/deb/build.sh target/release/appliance $@
	ln -f $@ $(@D)/appliance_$$(dpkg-deb --field $@ Version)_$$(dpkg --print-architecture).deb

# The package as tests and demo install it: from the build that tests are linked with, which takes minutes less.
target/deb/appliance-test.deb: $(SOURCES) $(PACKAGING)
	cargo build --locked --bin appliance --example demo # With an example, whose dependencies' features are those of tests.
	mkdir -p target/test && strip -o target/test/appliance target/debug/appliance
	sh appliance-image/deb/build.sh target/test/appliance $@

# A disk image that boots, by BIOS and UEFI: raw and qcow2. make image SUITE=trixie makes one of Debian 13.
SUITE = bookworm
IMAGING = $(shell find appliance-image/disk -type f)
image: packages target/image/appliance-$(SUITE).qcow2
target/image/appliance-$(SUITE).qcow2: target/deb/appliance.deb $(IMAGING)
	$(AS_ROOT) env IMAGE_TOOLS=$(CURDIR)/target/image/tools-trixie sh appliance-image/disk/build.sh target/deb/appliance.deb target/image $(SUITE)
# As tests start it, from the package that they install; and another one, which must be the same.
TEST_IMAGE = $(AS_ROOT) env IMAGE_TOOLS=$(CURDIR)/target/image/tools-trixie sh appliance-image/disk/build.sh target/deb/appliance-test.deb $(@D) $*
target/image/test/appliance-%.qcow2: target/deb/appliance-test.deb $(IMAGING)
	$(TEST_IMAGE)
target/image/again/appliance-%.qcow2: target/deb/appliance-test.deb $(IMAGING)
	$(TEST_IMAGE)

demo: demo-packages target/deb/appliance-test.deb
	@cargo run --quiet --locked --example demo

demo-stop:
	@cargo run --quiet --locked --example demo -- stop

lint: tools
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	$(TOOLS)/bin/cargo-deny --log-level error check bans licenses sources

test: packages
	@$(MAKE) --no-print-directory --jobs=2 tools target/deb/appliance-test.deb
	@sh tests/run.sh $(TOOLS)/bin

# What `make test` only takes a sample of, or leaves out in turn: starts after each cut of an update, walked through every fault; updates that
# are cut off in every stage, in every way; a layout of disks that is cut off
# before and after every command; an upgrade of PostgreSQL that is killed, and one that the app does not come up on; backups that are killed 600 times; the
# disk image from nothing, of both Debians and built twice, by every kind of cloud, and ten power cuts; vagrant up.
soak: tools target/deb/appliance-test.deb target/image/test/appliance-bookworm.qcow2 target/image/test/appliance-trixie.qcow2 target/image/again/appliance-bookworm.qcow2
	APPLIANCE_MATRIX=all cargo test --locked --lib -- --nocapture walk
	cmp target/image/test/appliance-bookworm.qcow2 target/image/again/appliance-bookworm.qcow2
	APPLIANCE_IMAGE=target/image/test/appliance-trixie.qcow2 cargo test --locked --test vm -- --nocapture the_image_comes_up
	APPLIANCE_MATRIX=all cargo test --locked --test booted -- --nocapture cut_off another_major backup_hosts that_is_killed stands_still
	APPLIANCE_MATRIX=all cargo test --locked --test vm -- --nocapture drives a_layout the_root the_image vagrant_up

bench: packages target/deb/appliance.deb
	@APPLIANCE_DEB=$(CURDIR)/target/deb/appliance.deb cargo run --quiet --locked --example bench

# Looks for inputs that break the parser of env.yml, for SECONDS.
SECONDS = 600
JOBS = 2
fuzz: packages
	@if ! $(TOOLS)/bin/cargo-fuzz --version 2>/dev/null | grep -q ' $(CARGO_FUZZ_VERSION)$$'; then \
	  echo "installing cargo-fuzz $(CARGO_FUZZ_VERSION) into target/tools"; \
	  cargo install cargo-fuzz --locked --quiet --version $(CARGO_FUZZ_VERSION) --root $(TOOLS); \
	fi
	@mkdir -p fuzz/corpus/env && cp tests/broken/*.yml tests/old/*.yml env-template/*.yml fuzz/corpus/env/
	@# The stable compiler can instrument code too; it only has to be told that it may.
	RUSTC_BOOTSTRAP=1 PATH="$(TOOLS)/bin:$$PATH" cargo fuzz run --sanitizer none --target-dir target/fuzz env -- \
	  -max_total_time=$(SECONDS) -timeout=5 -rss_limit_mb=1024 -max_len=65536 -dict=fuzz/env.dict -fork=$(JOBS)

# The root file systems that tests boot from.
clean-cache:
	rm -rf $${APPLIANCE_TEST_CACHE:-/var/cache/appliance-test}
