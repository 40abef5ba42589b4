//! Some files of a run, brought back into a directory of their own and compared with what the repository lists of them.

use super::restic::Restic;
use super::room;
use super::scratch::DRILL;
use super::told::Listed;
use crate::host::{Dir, Host};
use anyhow::{Context, Result, bail};

/// How many files are brought back, and how many bytes of them at most.
const FILES: usize = 200;
const BYTES: u64 = 1 << 30;

/// Gives back how many were compared.
///
/// # Errors
/// The list has fewer files than were stored; one of them cannot be brought back, or is not as long as it was.
pub async fn files(restic: &Restic<'_>, snapshot: &str, stored: u64, host: &Host) -> Result<usize> {
    let all = restic.list(snapshot, None).await.context("the files cannot be listed")?;
    if (all.len() as u64) < stored {
        bail!("the repository lists {} files, and {stored} were stored", all.len());
    }
    let most = room::spare("/data", host)?.map_or(BYTES, |spare| (spare / 2).min(BYTES));
    let chosen = chosen(&all, most, host.random::<8>().map(u64::from_le_bytes)?);
    let place = format!("{}/files", DRILL.directory);
    host.remove_tree(DRILL.directory).await?;
    host.ensure_dir(DRILL.directory, &Dir::plain())?;
    host.ensure_dir(&place, &Dir::plain().mode(0o700))?;
    let restored = async {
        let only: Vec<String> = chosen.iter().map(|file| file.path.clone()).collect();
        if !only.is_empty() {
            restic.restore(snapshot, &place, &only, &[]).await.context("files cannot be brought back")?;
        }
        for file in &chosen {
            let length = host.length_unlinked(&format!("{place}{}", file.path))?;
            if length != Some(file.size) {
                bail!("{} is {length:?} bytes long, and was {}", file.path, file.size);
            }
        }
        anyhow::Ok(chosen.len())
    };
    let restored = restored.await;
    host.remove_tree(DRILL.directory).await?;
    restored
}

/// Spread over all of them, from a random one on. Left out is what restic would take for a pattern, or lists by another name than it has: one
/// that is not UTF-8.
fn chosen(all: &[Listed], most: u64, seed: u64) -> Vec<&Listed> {
    let unsuited = ['*', '?', '[', '\\', char::REPLACEMENT_CHARACTER];
    let plain: Vec<&Listed> = all.iter().filter(|file| !file.path.contains(unsuited)).collect();
    if plain.is_empty() {
        return Vec::new();
    }
    let step = plain.len().div_ceil(FILES);
    let first = usize::try_from(seed % plain.len() as u64).unwrap_or_default();
    let mut bytes = 0_u64;
    let spread = (0..plain.len().div_ceil(step)).map(|n| plain[(first + n * step) % plain.len()]);
    spread
        .filter(|file| {
            let fits = bytes.saturating_add(file.size) <= most;
            bytes = if fits { bytes + file.size } else { bytes };
            fits
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_too_many_nor_too_much_nor_one_twice(sizes in prop::collection::vec(0_u64..(1 << 29), 0..900), seed: u64) {
            let all: Vec<Listed> = sizes.iter().enumerate().map(|(n, size)| Listed { path: format!("/data/{n}"), size: *size }).collect();
            let chosen = chosen(&all, BYTES, seed);
            let mut paths: Vec<&str> = chosen.iter().map(|file| file.path.as_str()).collect();
            paths.sort_unstable();
            paths.dedup();
            prop_assert_eq!(paths.len(), chosen.len());
            prop_assert!(chosen.len() <= FILES && chosen.iter().map(|file| file.size).sum::<u64>() <= BYTES);
            prop_assert_eq!(chosen.is_empty(), all.is_empty());
        }
    }

    #[test]
    fn what_could_be_a_pattern_is_left_out() {
        let file = |path: &str| Listed { path: path.to_owned(), size: 1 };
        let all = [file("/a*"), file("/b"), file("/c[1]"), file("/M\u{fffd}ller")];
        assert_eq!(chosen(&all, 100, 7), [&file("/b")]);
    }
}
