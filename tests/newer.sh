#!/bin/sh
# Unpacks packages of another Debian suite into a directory, by an apt of its own: the machine's lists and packages stay as they are.
# usage: newer.sh SUITE DIRECTORY PACKAGE…
set -e
suite=$1 target=$2
shift 2
mkdir -p "$target"
target=$(cd "$target" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir -p state/lists/partial cache/archives/partial etc
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' | grep -v security | head -n 1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:-http://deb.debian.org/debian} $suite main" >etc/sources.list
printf 'Dir::State "%s/state"; Dir::Cache "%s/cache"; Dir::Etc::sourcelist "%s/etc/sources.list"; Dir::Etc::sourceparts "-"; Dir::State::status "/dev/null"; APT::Sandbox::User "root";\n' \
    "$work" "$work" "$work" >apt.conf
export APT_CONFIG=$work/apt.conf
apt-get update -q
apt-get download -q "$@"
for package in *.deb; do dpkg-deb -x "$package" "$target"; done
