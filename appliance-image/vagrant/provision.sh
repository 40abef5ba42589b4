#!/bin/sh
# Installs the package that vagrant has copied here, and starts the appliance. It can be run again.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update -q || echo "the lists of packages could not be got; the ones that are there count"
package=/tmp/appliance.deb
[ -e "$package" ] || package=/vagrant/target/deb/appliance.deb
apt-get install -q -y "$package"
if [ -e /tmp/env.yml ]; then
    install -o root -g root -m 0600 /tmp/env.yml /app/env.yml
    rm /tmp/env.yml
fi
# It returns once it is known how that went, well or not.
systemctl restart appliance
systemctl start appliance-supervisor || true
appliance status || true
