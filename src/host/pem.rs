//! PEM text that env.yml holds or names the file of.

use super::Host;
use crate::value::Secret;
use crate::value::certificate::CertificateText;
use anyhow::{Context, Result};

/// The largest key or chain that is read, in bytes.
pub const MAX_PEM: u64 = 1 << 20;

impl Host {
    /// The text, read from its file if it lies in one.
    ///
    /// # Errors
    /// There is no such file, or it cannot be read.
    pub fn certificate_text(&self, text: &CertificateText) -> Result<Secret> {
        match text {
            CertificateText::Pem(secret) => Ok(secret.clone()),
            CertificateText::Path(path) => {
                let read = self.read_text(path.as_str(), MAX_PEM)?;
                Ok(Secret::new(read.with_context(|| format!("there is no file {path}"))?))
            }
        }
    }
}
