//! `vagrant up` as somebody does it who has Debian, vagrant and libvirt: on a booted host, whose virtual machine is emulated in it.
//!
//! The box stands for debian/bookworm64, which cannot be had here: the same Debian, with what the package depends on already in it, and a
//! kernel that libvirt starts by itself. The Vagrantfile is the project's.

use crate::host::rootfs::{build_part, cache, lock_cache, make_rootfs, mmdebstrap, part_hash, run};
use crate::host::{Machine, wait_for};
use crate::repository::Repository;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where vagrant runs.
const HOST: &str = "systemd,systemd-sysv,dbus,udev,iproute2,kmod,procps,iptables,vagrant,vagrant-libvirt,libvirt-daemon-system,\
libvirt-clients,qemu-system-x86,qemu-utils,dnsmasq-base,rsync,openssh-client,ca-certificates,git,curl";
/// What a box of vagrant's has, and what the package depends on.
const BOX: &str = "systemd,systemd-sysv,systemd-resolved,dbus,udev,iproute2,kmod,procps,linux-image-cloud-amd64,initramfs-tools,zstd,\
openssh-server,sudo,rsync,ca-certificates,docker.io,apparmor,iptables,postgresql,nginx-light,nftables,git,gpg,gpg-agent,openssl,\
adduser,openssh-client,xorriso,e2fsprogs,fdisk,curl";
/// Makes the box's tree one: its user, whom vagrant's own well-known key lets in, and its network.
const MAKE_BOX: &str = r#"set -e; box=$1/box; cd "$1"
chroot "$box" useradd -m -s /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD:ALL' >"$box/etc/sudoers.d/vagrant"
mkdir -m 700 "$box/home/vagrant/.ssh"
cp usr/share/rubygems-integration/all/gems/vagrant-2*/keys/vagrant.pub "$box/home/vagrant/.ssh/authorized_keys"
chroot "$box" chown -R vagrant:vagrant /home/vagrant
printf '[Match]\nName=eth*\n[Network]\nDHCP=yes\n' >"$box/etc/systemd/network/90-dhcp.network"
chroot "$box" systemctl --quiet enable systemd-networkd systemd-resolved
ln -sf ../run/systemd/resolve/stub-resolv.conf "$box/etc/resolv.conf"
echo bookworm >"$box/etc/hostname"; : >"$box/etc/machine-id"; echo '/dev/vda / ext4 rw 0 1' >"$box/etc/fstab"
mkdir srv/box; cp "$box"/boot/vmlinuz-* srv/box/vmlinuz; cp "$box"/boot/initrd.img-* srv/box/initrd
mkdir made; truncate --size=8G made/disk.raw; mkfs.ext4 -q -F -d "$box" made/disk.raw; rm -rf "$box"
qemu-img convert -O qcow2 made/disk.raw made/box.img; rm made/disk.raw
echo '{"provider": "libvirt", "format": "qcow2", "virtual_size": 8}' >made/metadata.json
cat >made/Vagrantfile <<'V'
Vagrant.configure("2") do |config|
  config.vm.boot_timeout = 900
  config.vm.provider :libvirt do |libvirt|
    libvirt.driver = "qemu"
    libvirt.kernel = "/srv/box/vmlinuz"
    libvirt.initrd = "/srv/box/initrd"
    libvirt.cmd_line = "root=/dev/vda rw console=ttyS0 net.ifnames=0"
  end
end
V
tar -C made -cf srv/box/bookworm64.box box.img metadata.json Vagrantfile; rm -r made"#;

const ENV: &str = "#cloud-config
appliance:
  domain: shop.example.test
  allowed_hosts: shop.example.test 127.0.0.1
  ssl: {letsencrypt: {enabled: no}}
  storage: {ignore: {data: true, volatile: true}}
app:
  name: shop
  git: {source: /vagrant/shop.git, branch: main}
  migrate: {service: web, command: migrate}
";

/// How long vagrant may take for one command, in seconds: everything in it is emulated.
const COMMAND_S: u64 = 1800;

fn rootfs() -> PathBuf {
    let _lock = lock_cache();
    let rootfs = cache().join(format!("vagrant-{}", part_hash(&[HOST, BOX, MAKE_BOX, "1"])));
    build_part(&rootfs, |target| {
        make_rootfs(target, HOST, "bookworm", &[]);
        mmdebstrap("minbase", BOX, "bookworm", &target.join("box").display().to_string(), &[]);
        run("sh", &["-c", MAKE_BOX, "sh", &target.display().to_string()]);
    });
    rootfs
}

/// A command of vagrant's in the project's directory.
fn vagrant(host: &Machine, command: &str) -> String {
    let out = host.sh_for(COMMAND_S, &format!("cd /srv/project; {command} 2>&1"));
    // Progress is told a hundred times on one line.
    let said: String = out
        .stdout
        .split(['\r', '\n'])
        .filter(|line| !line.contains("Progress:"))
        .flat_map(|line| [line, "\n"])
        .collect();
    assert!(out.code == 0, "{command} ended with {}:\n{said}", out.code);
    said
}

/// The app's notes, by the port that the Vagrantfile forwards.
fn notes(host: &Machine, more: &str) -> (String, String) {
    let out = host.sh(&format!(
        "curl --silent --insecure --max-time 30 --write-out '\\n%{{http_code}}' {more} https://127.0.0.1:8443/notes"
    ));
    let (body, code) = out.stdout.rsplit_once('\n').unwrap_or(("", "none"));
    (code.to_owned(), body.to_owned())
}

/// For a moment after the first answer, workers of nginx that are about to end still have the page.
fn wait_for_notes(host: &Machine, expected: &str) {
    wait_for("the app at the forwarded port", Duration::from_secs(600), || match notes(host, "") {
        (code, body) if code == "200" && body.contains(expected) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// In `make soak`.
#[test]
fn vagrant_up_makes_a_host_with_the_app() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docker = tempfile::tempdir().expect("a directory can be made");
    let host = Machine::boot_bare("vagrant-host", &rootfs(), docker.path());
    host.ok("mkdir -p /dev/net; [ -e /dev/net/tun ] || mknod -m 666 /dev/net/tun c 10 200; mkdir -p /srv/project/target/deb");
    host.wait_for_unit("libvirtd.service");
    host.put_file(&source.join("Vagrantfile"), "/srv/project/Vagrantfile");
    host.put_directory(
        &source.join("appliance-image/vagrant").display().to_string(),
        "/srv/project/appliance-image/vagrant",
    );
    host.put_file(&source.join("target/deb/appliance-test.deb"), "/srv/project/target/deb/appliance.deb");
    host.put("/srv/project/env.yml", ENV, 0o600);
    let repository = Repository::make();
    host.put_directory(&repository.bare().display().to_string(), "/srv/project/shop.git");

    vagrant(&host, "vagrant box add --name debian/bookworm64 /srv/box/bookworm64.box");
    let said = vagrant(&host, "vagrant up --provider=libvirt");
    assert!(said.contains("running"), "the script tells how it went: {said}");
    wait_for_notes(&host, "\"v1\"");
    assert_eq!(notes(&host, "--data-urlencode text=first").0, "201");

    // Again, as after a change; and switched off and on.
    vagrant(&host, "vagrant provision");
    wait_for_notes(&host, "first");
    vagrant(&host, "vagrant reload");
    wait_for_notes(&host, "first");

    // The env by a drive; nothing of it is beside the Vagrantfile.
    vagrant(&host, "vagrant destroy --force");
    let work = tempfile::tempdir().expect("a directory can be made");
    let env = work.path().join("env.yml");
    fs::write(&env, ENV).expect("the env can be written");
    run(&source.join("target/test/appliance").display().to_string(), &["env", "package", &env.display().to_string()]);
    host.put_file(&work.path().join("env-cidata.iso"), "/srv/env-cidata.iso");
    host.ok("rm /srv/project/env.yml");
    vagrant(&host, "APPLIANCE_CIDATA=/srv/env-cidata.iso vagrant up --provider=libvirt");
    wait_for_notes(&host, "\"v1\"");
    let said = vagrant(&host, "APPLIANCE_CIDATA=/srv/env-cidata.iso vagrant ssh -c 'sudo appliance status'");
    assert!(said.contains("cidata:user-data"), "{said}");
}
