//! Making a release of the app: fetching its repository, building its images, migrating its database. Bringing up
//! what was made is `stack/`; updates of a running app are not built yet.

mod git;
mod image;
mod release;

pub use release::{Built, build, migrate, references, restore, restore_checkout};
