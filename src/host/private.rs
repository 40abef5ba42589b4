//! What is secret: new passwords, and directories for keys that are made and files that are packed.

use super::Host;
use crate::value::Secret;
use anyhow::{Context, Result};
use base64::Engine;

impl Host {
    /// A new password: 192 random bits, in characters that no URL needs to quote.
    pub fn new_password(&self) -> Result<Secret> {
        Ok(Secret::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.random::<24>()?)))
    }

    /// A directory of one's own for the time of its life: only this user can enter it.
    pub fn private_directory(&self) -> Result<PrivateDirectory> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("appliance-private-");
        // In memory where that can be had: what is in it is secret.
        let directory =
            builder.tempdir_in("/run").or_else(|_| builder.tempdir()).context("could not make a directory")?;
        let path = directory.path().to_str().context("the temporary directory's path is not UTF-8 text")?.to_owned();
        Ok(PrivateDirectory { path, _directory: directory })
    }
}

/// Removed with everything in it when it is dropped.
pub struct PrivateDirectory {
    path: String,
    _directory: tempfile::TempDir,
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
