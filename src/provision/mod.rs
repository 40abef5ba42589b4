//! Making an env.yml, and what it travels in: a drive for cloud-init, paper, an encrypted archive. What the file means
//! is `env/`; how it is found again is `source/`.
//!
//! `template.rs` renders, `keys.rs` has fresh keys made, `dns.rs` tells the records, `merge.rs` puts the user's own
//! values in; `package.rs` makes the drive and the archive, `paper.rs` the PDF.

mod dns;
mod keys;
mod merge;
mod package;
mod paper;
mod template;

pub use package::{Packaged, package};
pub use template::{Wanted, create};
