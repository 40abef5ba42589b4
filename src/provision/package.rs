//! `env package`: next to an env.yml a cidata drive image, a printable PDF, and, where `gpgkeys.txt` lies beside it, an
//! archive that only the owners of those keys can open. All of them hold secrets and are 0600.

use super::keys::gpg;
use super::paper;
use crate::host::{Cmd, Host, PrivateDirectory};
use crate::source::{self, Found};
use anyhow::{Context, Result, anyhow, bail};
use std::time::Duration;

/// The largest drive image that is read back, in bytes.
const MAX_IMAGE: u64 = 64 << 20;
/// The largest `meta-data.custom` and `gpgkeys.txt`, in bytes.
const MAX_TEXT: u64 = 1 << 20;
const MAX_KEYS: usize = 100;
const WORKING: Duration = Duration::from_secs(120);

/// What was made.
pub struct Packaged {
    pub image: String,
    pub paper: String,
    /// How many QR codes are on paper.
    pub codes: usize,
    /// The archive, and the fingerprints that it is encrypted to.
    pub archive: Option<(String, Vec<String>)>,
}

/// Packages the file at an absolute path.
///
/// # Errors
/// The file is no good user-data, or a tool failed; what was there before stays then.
pub async fn package(path: &str, host: &Host) -> Result<Packaged> {
    let found = source::read(host, path).await?.with_context(|| format!("there is no file {path}"))?;
    if !source::is_user_data(&found.bytes) {
        bail!("the first line of {path} must be '#cloud-config': cloud-init would not take it from a drive otherwise");
    }
    let (directory, name) = path.rsplit_once('/').context("the path must be absolute")?;
    let beside = |name: &str| format!("{directory}/{name}");
    let stem = name.strip_suffix(".yml").or(name.strip_suffix(".yaml")).unwrap_or(name);
    let (image_name, paper_name) = (format!("{stem}-cidata.iso"), format!("{name}.pdf"));

    let (pdf, codes) =
        paper::print(&found.bytes, found.envs.host().host_domain.as_str(), &found.envs.host().file_digest)?;
    let image = drive_image(&found, &beside("meta-data.custom"), host).await?;
    let archive = match host.read_text(&beside("gpgkeys.txt"), MAX_TEXT)? {
        Some(keys) => {
            let files = [("env.yml", &found.bytes), (paper_name.as_str(), &pdf), (image_name.as_str(), &image)];
            Some(encrypted(&files, &keys, host).await?)
        }
        None => None,
    };

    let made = Packaged {
        image: beside(&image_name),
        paper: beside(&paper_name),
        codes,
        archive: archive.as_ref().map(|(_, recipients)| {
            let when = host.now().strftime("%Y-%m-%d_%H.%M");
            (beside(&format!("{}.env.{when}.tar.gz.gpg", found.envs.host().host_domain)), recipients.clone())
        }),
    };
    host.put(&made.image, &image, 0o600)?;
    host.put(&made.paper, &pdf, 0o600)?;
    if let (Some((path, _)), Some((bytes, _))) = (&made.archive, &archive) {
        host.put(path, bytes, 0o600)?;
    }
    Ok(made)
}

/// An ISO 9660 image as cloud-init's NoCloud takes it: the label `cidata`, `user-data` and `meta-data`.
async fn drive_image(found: &Found, custom: &str, host: &Host) -> Result<Vec<u8>> {
    let meta_data = match host.read_text(custom, MAX_TEXT)? {
        Some(text) => text,
        // Another instance for cloud-init whenever the env is another one.
        None => format!(
            "instance-id: iid-{}\nlocal-hostname: {}\n",
            found.envs.host().file_digest.chars().take(12).collect::<String>(),
            found.envs.host().host_domain
        ),
    };
    let work = host.private_directory()?;
    host.put(&work.file("user-data"), &found.bytes, 0o600)?;
    host.put(&work.file("meta-data"), meta_data.as_bytes(), 0o600)?;
    let image = work.file("cidata.iso");
    let graft = |name: &str| format!("{name}={}", work.file(name));
    let mut args = ["-as", "mkisofs", "-quiet", "-volid", "cidata", "-joliet", "-rational-rock", "-output"]
        .map(str::to_owned)
        .to_vec();
    args.extend([image.clone(), "-graft-points".to_owned(), graft("user-data"), graft("meta-data")]);
    host.ask(Cmd::new("xorriso", args).deadline(WORKING)).await.context("could not make the drive image")?;
    host.read(&image, MAX_IMAGE)?.context("xorriso wrote no drive image")
}

/// A compressed archive of the files, encrypted to every key in the text; the fingerprints are given back.
async fn encrypted(files: &[(&str, &Vec<u8>)], keys: &str, host: &Host) -> Result<(Vec<u8>, Vec<String>)> {
    let home = host.private_directory()?;
    let recipients = import(&home, keys, host).await?;
    let packed = home.file("package.tar.gz");
    let sealed = home.file("package.tar.gz.gpg");
    host.put(&packed, &archive(files, host.now().as_second()).context("could not make the archive")?, 0o600)?;
    let mut args = vec!["--trust-model", "always", "--compress-algo", "none", "--output", &sealed];
    args.extend(recipients.iter().flat_map(|recipient| ["--recipient", recipient.as_str()]));
    args.extend(["--encrypt", &packed]);
    host.ask(gpg(&home, &args).deadline(WORKING)).await.context("could not encrypt the archive")?;
    let bytes = host.read(&sealed, MAX_IMAGE)?.context("gpg wrote no archive")?;
    Ok((bytes, recipients))
}

/// Takes the keys of `gpgkeys.txt` into a keyring of their own; gives back their fingerprints.
async fn import(home: &PrivateDirectory, keys: &str, host: &Host) -> Result<Vec<String>> {
    host.ask(gpg(home, &["--import"]).input(keys)).await.context("gpgkeys.txt cannot be read")?;
    let listed = host.ask(gpg(home, &["--with-colons", "--list-keys"])).await.context("gpgkeys.txt cannot be read")?;
    let recipients = fingerprints(&listed.stdout)?;
    match recipients.len() {
        0 => Err(anyhow!("gpgkeys.txt holds no key; put armored public keys into it")),
        1..=MAX_KEYS => Ok(recipients),
        many => Err(anyhow!("gpgkeys.txt holds {many} keys; at most {MAX_KEYS} are taken")),
    }
}

/// The primary keys' fingerprints of gpg's machine-readable list (gnupg's doc/DETAILS: record type, validity, …).
fn fingerprints(list: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut is_primary = false;
    for line in list.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or_default();
        match field(0) {
            "pub" => {
                is_primary = true;
                // A key that was revoked or has expired, or that cannot encrypt, would leave its owner outside.
                if ["r", "e", "d", "i"].contains(&field(1)) || !field(11).contains('E') {
                    bail!(
                        "the key {} in gpgkeys.txt cannot be encrypted to (expired, revoked, or only for signing)",
                        field(4)
                    );
                }
            }
            "sub" => is_primary = false,
            "fpr" if is_primary => {
                found.push(field(9).to_owned());
                is_primary = false;
            }
            _ => {}
        }
    }
    Ok(found)
}

fn archive(files: &[(&str, &Vec<u8>)], now: i64) -> std::io::Result<Vec<u8>> {
    let packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut tar = tar::Builder::new(packer);
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        // Before 1970 there were no appliances.
        header.set_mtime(u64::try_from(now).unwrap_or_default());
        tar.append_data(&mut header, name, bytes.as_slice())?;
    }
    tar.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_can_be_encrypted_to_are_taken() {
        let list = "tru::1:1:0:3:1:5\npub:-:3072:1:AAAA:1:::-:::escESC::::::23::0:\nfpr:::::::::FINGERPRINT:\nuid:-::::1::H::x::::::::::0:\n\
                    sub:-:3072:1:BBBB:1::::::e::::::23:\nfpr:::::::::SUBKEY:\n";
        assert_eq!(fingerprints(list).expect("the key is good"), ["FINGERPRINT"]);
        assert!(fingerprints("pub:e:3072:1:AAAA:1:2::-:::escESC:\n").is_err());
        assert!(fingerprints("pub:-:3072:1:AAAA:1:::-:::scSC:\n").is_err());
        assert!(fingerprints("").expect("nothing is wrong").is_empty());
    }
}
