//! What is secret: new passwords, and directories for keys that are made and files that are packed.

use super::{Host, beside};
use crate::value::Secret;
use anyhow::{Context, Result};
use base64::Engine;
use std::path::Path;

/// What private directories are called by.
const PREFIX: &str = "appliance-private-";

impl Host {
    /// A new password: 192 random bits, in characters that no URL needs to quote.
    pub fn new_password(&self) -> Result<Secret> {
        Ok(Secret::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.random::<24>()?)))
    }

    /// Takes away private directories of killed processes.
    pub(super) fn sweep_private(&self) -> Result<()> {
        self.sweep_of(Path::new("/run"), PREFIX)
    }

    /// A directory of one's own for the time of its life: only this user can enter it.
    pub fn private_directory(&self) -> Result<PrivateDirectory> {
        self.sweep_private()?;
        // In memory where that can be had: what is in it is secret.
        let directory = beside::directory(Path::new("/run"), PREFIX)
            .or_else(|_| beside::directory(&std::env::temp_dir(), PREFIX))
            .context("could not make a directory")?;
        let path = directory.path().to_str().context("the temporary directory's path is not UTF-8 text")?.to_owned();
        Ok(PrivateDirectory { path, _directory: directory })
    }
}

/// Removed with everything in it when it is dropped.
pub struct PrivateDirectory {
    path: String,
    _directory: beside::Directory,
}

impl PrivateDirectory {
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
}
