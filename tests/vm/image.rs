//! The disk image in a virtual machine: from nothing to an app on https, by a drive or a metadata service and two empty disks; power
//! cuts while it is used and while it is updated, by BIOS and by UEFI.

use crate::appliance::{Appliance, Source, curl};
use crate::host::sample::{is_soak, seed};
use crate::host::wait_for;
use crate::repository::Repository;
use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Somebody who writes notes, until told to end; which ones were acknowledged.
struct Writer {
    ends: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Writer {
    fn begin(https: u16, round: u32) -> Writer {
        let ends = Arc::new(AtomicBool::new(false));
        let told = ends.clone();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let thread = std::thread::spawn(move || {
            let mut acknowledged = Vec::new();
            for number in 1.. {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let text = format!("{round}.{number}");
                if curl(https, &["--data-urlencode", &format!("text={text}")]).0 == 201 {
                    acknowledged.push(text);
                    counted.store(acknowledged.len(), Ordering::Relaxed);
                }
            }
            acknowledged
        });
        Writer { ends, count, thread }
    }

    /// Waits for the first one.
    fn has_begun(&self) {
        wait_for("a note that is acknowledged", Duration::from_secs(300), || {
            match self.count.load(Ordering::Relaxed) {
                0 => Err("none".to_owned()),
                _ => Ok(()),
            }
        });
    }

    fn end(self) -> Vec<String> {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer does not panic")
    }
}

#[test]
fn the_image_comes_up_by_itself_and_keeps_what_was_acknowledged() {
    let seed = seed();
    let repository = Repository::serve();
    let mut appliance = Appliance::new(Source::Cidata, &repository);
    let began = Instant::now();
    appliance.start();
    assert_eq!(appliance.wait_for_notes(), ("v1".to_owned(), Vec::new()));
    println!("from power on to the first answer: {:.0} s", began.elapsed().as_secs_f64());
    println!(
        "{}",
        appliance.ok("systemd-analyze; systemd-analyze blame --no-pager | head -n 25; df -h / /data /volatile")
    );
    appliance.ok(ITS_OWN);
    // An initramfs takes minutes there: a kernel that Debian has brought since the image was built stays away.
    appliance
        .ok("apt-mark hold $(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' 'linux-image-*' | sed -n 's/^ii //p')");
    // What starts it from now on, by UEFI and by BIOS in turn.
    appliance.ok(ANOTHER_GRUB);
    let mut acknowledged: Vec<String> = Vec::new();
    let (mut random, mut version) = (seed, 1);
    // One of the two kinds, or five of each.
    let rounds = if is_soak() { 1..=10 } else { 1 + seed % 2..=1 + seed % 2 };
    for round in rounds {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let part = f64::from(random >> 16) / 65536.0;
        let writer = Writer::begin(appliance.https, round);
        writer.has_begun();
        // Somebody pulls the plug: while the app is used, and while it is updated.
        let updates = round % 2 == 0;
        let said = appliance.work.path().join("update");
        let mut update = updates.then(|| {
            version += 1;
            repository.push(version);
            let said = fs::File::create(&said).expect("a file can be made");
            appliance.ssh("appliance update").stdout(said).stderr(Stdio::null()).spawn().expect("ssh can be run")
        });
        let moment = Duration::from_secs_f64(if updates { 5.0 + part * UPDATE_S } else { 3.0 + part * 20.0 });
        std::thread::sleep(moment);
        let was_over = update.as_mut().is_some_and(|update| update.try_wait().expect("it can be looked at").is_some());
        appliance.cut();
        let written = writer.end();
        assert!(!written.is_empty(), "nothing was written in {moment:?}");
        if let Some(mut update) = update {
            drop(update.kill());
            update.wait().expect("ssh ends");
        }
        acknowledged.extend(written);
        let began = Instant::now();
        appliance.start();
        let (found, seen) = appliance.wait_for_notes();
        let took = began.elapsed().as_secs_f64();
        let kept: Vec<&String> = seen.iter().filter(|note| acknowledged.contains(note)).collect();
        assert_eq!(kept, acknowledged.iter().collect::<Vec<_>>(), "what was acknowledged is there once, in its order");
        // Some may have been on their way.
        acknowledged = seen;
        let said = if updates { fs::read_to_string(&said).expect("it was made") } else { String::new() };
        println!(
            "cut {round} after {moment:.1?} of {}{}: {found}, {} notes, the next answer after {took:.0} s",
            if updates { "an update" } else { "use" },
            if was_over { " (which was over)" } else { said.lines().last().unwrap_or("") },
            acknowledged.len()
        );
        appliance.ok(CHECK);
        if updates {
            let began = Instant::now();
            appliance.ok("appliance update");
            println!("the update after that: {:.0} s", began.elapsed().as_secs_f64());
            assert_eq!(appliance.wait_for_notes(), (format!("v{version}"), acknowledged.clone()), "it can be updated");
        }
    }
}

/// What must not be the same on two machines was made after the image (whose files have the time of its package); the manual is there, and
/// nothing answers the neighbours' questions for names.
const ITS_OWN: &str = "set -e; for made in ssl/private/ssl-cert-snakeoil.key ssh/ssh_host_ed25519_key machine-id; do test /etc/$made -nt /usr/lib/appliance/appliance; done
man -w appliance; ! ss -Hlntu | grep :5355";

/// What dpkg does when a package brings another GRUB: it goes onto the disk, in both ways.
const ANOTHER_GRUB: &str = r#"set -e; touch --date="1 minute ago" /root/before; for ours in grub/i386-pc shim; do dpkg-trigger --no-await /usr/lib/$ours; done
said=$(dpkg --triggers-only grub-cloud-amd64 2>&1); echo "$said"
for way in i386-pc x86_64-efi; do echo "$said" | grep -q "Installing for $way platform"; done; test "$(echo "$said" | grep -c 'No error reported')" = 2
sync; for file in grub/i386-pc/core.img efi/EFI/BOOT/BOOTX64.EFI efi/EFI/debian/shimx64.efi; do test /boot/$file -nt /root/before; done"#;

/// Every table and index of the cluster is whole, and can be read; nothing of that stays.
const CHECK: &str = r#"set -e; PATH=$PATH:$(echo /usr/lib/postgresql/*/bin); pg_amcheck -U postgres --all --install-missing; pg_dumpall -U postgres >/dev/null
for d in $(psql -U postgres -Atc 'SELECT datname FROM pg_database WHERE datallowconn'); do psql -U postgres -q -d $d -c 'DROP EXTENSION amcheck'; done"#;

/// How long an update takes in an emulated machine, in seconds; about.
const UPDATE_S: f64 = 90.0;

/// In `make soak`.
#[test]
fn the_image_takes_its_env_from_every_kind_of_cloud() {
    let repository = Repository::serve();
    for source in [Source::Config2, Source::Ec2, Source::Gce] {
        let mut appliance = Appliance::new(source, &repository);
        let began = Instant::now();
        appliance.start();
        assert_eq!(appliance.wait_for_notes(), ("v1".to_owned(), Vec::new()));
        match source {
            // Its name is not known here, so cloud-init gets no key from it, and nobody in.
            Source::Gce => {
                let asked = fs::read_to_string(appliance.work.path().join("md.log")).expect("it was asked");
                assert!(asked.contains("GET /computeMetadata/v1/instance/attributes/user-data"), "{asked}");
            }
            _ => {
                let status: serde_json::Value =
                    serde_json::from_str(&appliance.ok("appliance status --json")).expect("status is JSON");
                let expected = match source {
                    Source::Config2 => "config-2:openstack/latest/user_data",
                    _ => "ec2:user-data",
                };
                assert_eq!(status["source"], expected);
                assert!(appliance.ok("cloud-init status --wait || true").contains("status: done"), "{source:?}");
            }
        }
        println!("{source:?}: from power on to the first answer: {:.0} s", began.elapsed().as_secs_f64());
    }
}
