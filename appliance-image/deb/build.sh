#!/bin/sh
# Packs a built binary as a Debian package. usage: build.sh BINARY OUTPUT.deb
set -eu
binary=$1
output=$2
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml" | head -n 1)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

# /usr/bin/appliance leads to the version that came up last: this one, or the one before it (see put-back).
install -D -m 0755 "$binary" "$root/usr/lib/appliance/appliance"
install -D -m 0755 "$top/units/put-back" "$root/usr/lib/appliance/put-back"
ln -s appliance "$root/usr/lib/appliance/current"
install -d -m 0755 "$root/usr/bin"
ln -s ../lib/appliance/current "$root/usr/bin/appliance"
for unit in appliance.service appliance-supervisor.service appliance-put-back.service appliance-crl.service appliance-crl.timer \
    appliance-filter.service appliance-update.service appliance-update.timer appliance-update@.service appliance-update@.timer \
    appliance-backup.service appliance-backup.timer appliance-ship.service appliance-ship.timer \
    appliance-drill.service appliance-drill.timer appliance-watch.service; do
    install -D -m 0644 "$top/units/$unit" "$root/lib/systemd/system/$unit"
done
install -D -m 0644 "$top/units/docker-logs.conf" "$root/lib/systemd/system/docker.service.d/50-appliance.conf"
install -D -m 0644 "$top/units/postgresql.conf" "$root/lib/systemd/system/postgresql@.service.d/50-appliance.conf"
install -D -m 0644 "$top/units/nftables.conf" "$root/lib/systemd/system/nftables.service.d/50-appliance.conf"
install -d -m 0755 "$root/var/lib/appliance/acme"
for template in app ecs; do
    install -D -m 0644 "$top/env-template/$template.yml" "$root/usr/share/appliance/env-template/$template.yml"
done
install -D -m 0644 "$top/appliance-image/ecs/docker-compose.yml" "$root/usr/share/appliance/ecs/docker-compose.yml"
install -d -m 0755 "$root/usr/share/man/man1" "$root/usr/share/bash-completion/completions" \
    "$root/usr/share/zsh/vendor-completions" "$root/usr/share/fish/vendor_completions.d"
"$binary" man | gzip -9n >"$root/usr/share/man/man1/appliance.1.gz"
"$binary" completions bash >"$root/usr/share/bash-completion/completions/appliance"
"$binary" completions zsh >"$root/usr/share/zsh/vendor-completions/_appliance"
"$binary" completions fish >"$root/usr/share/fish/vendor_completions.d/appliance.fish"
install -D -m 0644 "$top/LICENSE-MIT" "$root/usr/share/doc/appliance/copyright"
# The documents of this very version.
install -m 0644 "$top/README.md" "$root/usr/share/doc/appliance/README.md"
install -d -m 0755 "$root/usr/share/doc/appliance/docs"
install -m 0644 "$top"/docs/*.md "$root/usr/share/doc/appliance/docs/"
gzip -9n <"$here/changelog" >"$root/usr/share/doc/appliance/changelog.gz"
install -D -m 0644 "$here/lintian-overrides" "$root/usr/share/lintian/overrides/appliance"

install -d -m 0755 "$root/DEBIAN"
# By which dpkg --verify knows what was changed.
(cd "$root" && find usr lib -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$(dpkg --print-architecture)/" \
    -e "s/@SIZE@/$(find "$root/usr" -type f -printf '%s\n' | awk '{kib += int(($1 + 1023) / 1024)} END {print kib}')/" "$here/control.in" >"$root/DEBIAN/control"
for script in postinst prerm postrm; do
    install -m 0755 "$here/$script" "$root/DEBIAN/$script"
done
mkdir -p "$(dirname "$output")"
# The same files make the same package, byte by byte.
SOURCE_DATE_EPOCH=$(dpkg-parsechangelog -l "$here/changelog" -S Timestamp)
export SOURCE_DATE_EPOCH
# Beside it first: one that was cut off must not look like a package that is done.
dpkg-deb --root-owner-group --build "$root" "$output.new" >/dev/null
mv "$output.new" "$output"
echo "$output"
