#!/bin/sh
# Runs every check and test and closes with one line of counts. usage: run.sh DIRECTORY-OF-TOOLS
set -u
tools=$1
log=$(mktemp)
beside=$(mktemp -d)
trap 'rm -rf "$log" "$log.code" "$beside"' EXIT
# What runs beside hears of no Ctrl-C by itself.
trap 'trap "" TERM; kill -TERM 0; exit 130' INT
passed=0 failed=0 skipped=0

# One check that passes or fails as a whole.
check() {
    name=$1
    shift
    echo "== $name"
    if "$@"; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAILED: $name"
    fi
}

# A test runner, whose own counts are added up; one that ends without counts has failed.
tests() {
    name=$1
    shift
    echo "== $name"
    # What is read at the end is seen as it comes.
    { "$@" 2>&1; echo $? >"$log.code"; } | tee "$log"
    code=$(cat "$log.code")
    counts=$(sed -n 's/^test result: .*\. \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored.*/\1 \2 \3/p' "$log" |
        awk '{p += $1; f += $2; s += $3} END {print p + 0, f + 0, s + 0}')
    set -- $counts
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
    if [ $code -ne 0 ] && [ "$2" -eq 0 ]; then
        failed=$((failed + 1))
        echo "FAILED: $name ended with $code"
    elif [ $(($1 + $2)) -eq 0 ]; then
        failed=$((failed + 1))
        echo "FAILED: $name ran nothing"
    fi
}

# Runs one beside all others; once it is over, `ended` shows what it said, as if it had been run there.
begin() {
    "$1" >"$beside/$1" 2>&1
    echo $? >"$beside/$1.code"
}
ended() {
    cat "$beside/$1"
    return "$(cat "$beside/$1.code")"
}

# Emulated machines take longest: as much of the processors as all booted hosts together. So each run takes one of the two kinds, by
# chance, and one time in four the longer one; MACHINES=disks or MACHINES=image says which. All of both, the disk image by each kind of
# cloud, and vagrant up: make soak.
case "${MACHINES:-$(($(date +%s) % 4))}" in 0 | image) machines=image ;; *) machines=disks ;; esac
disks() {
    cargo test --locked --test vm -- --test-threads=1 --skip image:: --skip vagrant::
}
image() {
    make --no-print-directory target/image/test/appliance-bookworm.qcow2 && cargo test --locked --test vm -- --nocapture image:: --skip every_kind_of_cloud
}
echo "emulated machines: $machines"
begin $machines &

check "format" cargo fmt --check
check "clippy" cargo clippy --quiet --locked --all-targets -- -D warnings
check "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --no-deps
check "dependencies" "$tools/cargo-deny" --log-level error check bans licenses sources
for package in target/deb/appliance-test.deb target/not-built-yet.deb; do
    check "Vagrantfile with $package" env VAGRANT_HOME="$beside/vagrant" VAGRANT_DOTFILE_PATH="$beside/dot" APPLIANCE_DEB="$package" \
        vagrant validate --ignore-provider
done
tests "units" cargo test --quiet --locked --lib
tests "layers" cargo test --quiet --locked --test layers
tests "golden files" cargo test --quiet --locked --test golden --test old_envs --test flat --test put_back
tests "published compose files" cargo test --quiet --locked --test published
tests "booted hosts" cargo test --locked --test booted -- --test-threads=3 --skip load:: --skip without_a_migration --skip stands_still
wait
tests "emulated machines: $machines" ended $machines
# Those that count what is lost under load need the machine for themselves.
tests "booted hosts under load" cargo test --locked --test booted -- --test-threads=1 load:: without_a_migration

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
