//! User and group names to numbers, from the root's own `/etc/passwd` and `/etc/group`.

use super::Host;
use crate::value::Owner;
use anyhow::{Context, Result, bail};

impl Host {
    /// Numbers of an owner. Numeric names stand for themselves.
    ///
    /// # Errors
    /// A name that does not exist on the machine.
    pub fn ids(&self, owner: &Owner) -> Result<(u32, u32)> {
        let (user, group) = (owner.user(), owner.group());
        let passwd = self.name_file("/etc/passwd")?;
        let uid = match user.parse() {
            Ok(uid) => uid,
            Err(_) => field(&passwd, user, 2).with_context(|| format!("there is no user '{user}' on this host"))?,
        };
        // `user` alone means the user's own group.
        if group == user {
            let by_uid = || {
                passwd.lines().find_map(|line| {
                    let fields: Vec<&str> = line.split(':').collect();
                    (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(3)?.parse().ok()).flatten()
                })
            };
            return Ok((uid, by_uid().unwrap_or(uid)));
        }
        let gid = match group.parse() {
            Ok(gid) => gid,
            Err(_) => match field(&self.name_file("/etc/group")?, group, 2) {
                Some(gid) => gid,
                None => bail!("there is no group '{group}' on this host"),
            },
        };
        Ok((uid, gid))
    }

    /// Whether something is there that belongs to another user. Of what is a user's own, that user cannot bring this about.
    ///
    /// # Errors
    /// A name that does not exist on the machine.
    pub fn is_of_another(&self, path: &str, owner: &Owner) -> Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let (uid, _) = self.ids(owner)?;
        Ok(self.path(path).symlink_metadata().is_ok_and(|meta| meta.uid() != uid))
    }

    /// The number of a group; nothing where there is no such group.
    pub(super) fn gid(&self, group: &str) -> Result<Option<u32>> {
        Ok(field(&self.name_file("/etc/group")?, group, 2))
    }

    /// The user of a number who may log in; nothing where there is no such user, or only one without a shell.
    ///
    /// # Errors
    /// `/etc/passwd` cannot be read.
    pub fn login(&self, uid: u32) -> Result<Option<String>> {
        let passwd = self.name_file("/etc/passwd")?;
        let number = uid.to_string();
        let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let user = users.find(|fields| fields.get(2) == Some(&number.as_str()));
        let is_open = |shell: &&str| !shell.ends_with("/nologin") && !shell.ends_with("/false");
        Ok(user
            .filter(|fields| fields.get(6).is_some_and(is_open))
            .and_then(|fields| Some((*fields.first()?).to_owned())))
    }

    fn name_file(&self, path: &str) -> Result<String> {
        let bytes = self.read(path, 4 << 20)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn field(file: &str, name: &str, index: usize) -> Option<u32> {
    let line = file.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(index)?.parse().ok()
}
