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

    fn name_file(&self, path: &str) -> Result<String> {
        let bytes = self.read(path, 4 << 20)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn field(file: &str, name: &str, index: usize) -> Option<u32> {
    let line = file.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(index)?.parse().ok()
}
