//! Submodules of the app's repository. git's own command would run in the submodules' directories, with the configuration that it finds
//! there; each is got and checked out from outside instead, with its repository beside the app's.

use super::repository::{self, Git};
use super::{trust, work_tree};
use crate::host::{Cmd, What};
use crate::value::Commit;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// How deep submodules may have submodules.
const MAX_DEPTH: usize = 8;
/// The most submodules of one repository, all levels together.
const MAX_MODULES: usize = 200;
/// The largest list of them, in bytes.
const MAX_LIST: u64 = 1 << 20;

/// Puts the checkout's list of submodules aside if git would stop at it: whoever can write the checkout could keep every update away. What
/// the submodules are is read from the commit.
pub(super) async fn set_broken_list_aside(git: &Git<'_>) -> Result<()> {
    let path = format!("{}/.gitmodules", git.directory);
    let aside = format!("{path}.refused");
    if !git.host.exists(&path) && git.host.link_target(&path).is_none() {
        return Ok(());
    }
    let is_good = match git.host.read_unlinked(&path, MAX_LIST) {
        Ok(_) => {
            // A command in it is fatal to git, and it may be written in more than one way.
            let is_command =
                |line: &str| line.split_once('=').is_some_and(|(_, value)| value.trim_start().starts_with('!'));
            // What is too long to be read is no list of submodules either.
            let listed = git.host.try_ask(git.work(["config", "--no-includes", "--file", &path, "--list"])).await;
            listed.is_ok_and(|listed| listed.code == Some(0) && !listed.stdout.lines().any(is_command))
        }
        Err(_) => false,
    };
    if is_good {
        return Ok(());
    }
    tracing::warn!("git does not take {path}; it is put aside as {aside}");
    let move_aside = Cmd::new("mv", ["--force", "--no-target-directory", "--", &path, &aside]).ids(git.app_ids());
    git.host.act(What::File, &path, "put aside", move_aside).await.map(drop)
}

/// One that is checked out.
pub(super) struct Module {
    /// From the root of the app's checkout.
    pub path: String,
    /// Its repository, and the one of its directory in the checkout.
    pub git_dir: String,
    work_dir: String,
    pub commit: Commit,
    url: String,
}

impl Module {
    pub(super) fn cmd(&self, git: &Git<'_>, args: &[&str]) -> Cmd {
        // What the repository names may not lie on this host.
        git.cmd_in(&self.git_dir, args, &[]).env("GIT_PROTOCOL_FROM_USER", "0")
    }
}

/// Where a repository is: its own directory, and its files' below the checkout.
struct Above {
    git_dir: String,
    work_dir: String,
    path: String,
    commit: Commit,
    url: String,
    depth: usize,
}

/// Gets the submodules of a commit, those of submodules too, and puts their files in place.
///
/// # Errors
/// One cannot be got, or is not named as one can be.
pub(super) async fn put(git: &Git<'_>, commit: &Commit) -> Result<Vec<Module>> {
    let url = git.app.git.source.address();
    let root = Above {
        git_dir: git.git_dir(),
        work_dir: git.work_dir(),
        path: String::new(),
        commit: commit.clone(),
        url,
        depth: 0,
    };
    let mut waiting = vec![root];
    let mut all: Vec<Module> = Vec::new();
    while let Some(above) = waiting.pop() {
        for module in listed(git, &above).await? {
            if above.depth >= MAX_DEPTH || all.len() >= MAX_MODULES {
                bail!("there are more than {MAX_MODULES} submodules, or they are nested more than {MAX_DEPTH} deep");
            }
            get(git, &module).await.with_context(|| format!("the submodule {}", module.path))?;
            waiting.push(Above {
                git_dir: module.git_dir.clone(),
                work_dir: module.work_dir.clone(),
                path: format!("{}/", module.path),
                commit: module.commit.clone(),
                url: module.url.clone(),
                depth: above.depth + 1,
            });
            all.push(module);
        }
    }
    Ok(all)
}

/// The submodules that a commit names.
async fn listed(git: &Git<'_>, above: &Above) -> Result<Vec<Module>> {
    let blob = format!("{}:.gitmodules", above.commit);
    // A path is a path, whatever it begins with.
    let ask = async |args: &[&str]| {
        git.host.try_ask(git.cmd_in(&above.git_dir, args, &[]).env("GIT_LITERAL_PATHSPECS", "1")).await
    };
    if ask(&["cat-file", "-e", &blob]).await?.code != Some(0) {
        return Ok(Vec::new());
    }
    let keys = r"^submodule\..*\.(path|url)$";
    let said = ask(&["config", "--no-includes", "--blob", &blob, "-z", "--get-regexp", keys]).await?;
    let mut modules = Vec::new();
    for (path, url) in paths_and_urls(&said.stdout) {
        if !is_path(&path) {
            bail!("a submodule's path must lie in the repository: {path:?}");
        }
        let entry = ask(&["ls-tree", "-z", above.commit.as_str(), "--", &path]).await?.stdout;
        // One that is named but not there is none.
        let Some(commit) = commit_of(&entry, &path) else { continue };
        let url = resolved(&above.url, &url).with_context(|| format!("the submodule {path} has no good address"))?;
        let name: String =
            Sha256::digest(format!("{path}\n{url}")).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        modules.push(Module {
            path: format!("{}{path}", above.path),
            git_dir: format!("{}/submodules/{name}", above.git_dir),
            work_dir: format!("{}/submodules/{name}", above.work_dir),
            commit,
            url,
        });
    }
    Ok(modules)
}

async fn get(git: &Git<'_>, module: &Module) -> Result<()> {
    let host = git.host;
    // git follows a link in its work tree's place, whoever has put it there.
    let mut place = git.directory.clone();
    for part in module.path.split('/') {
        place = format!("{place}/{part}");
        if host.link_target(&place).is_some() {
            host.ask(Cmd::new("rm", ["--force", "--", &place]).ids(git.app_ids())).await?;
        }
    }
    host.ask(Cmd::new("mkdir", ["--parents", "--", &place]).ids(git.app_ids())).await?;
    let run =
        async |how: &str, args: &[&str]| host.act(What::Directory, &module.path, how, module.cmd(git, args)).await;
    repository::tidy(&module.git_dir, git.ids(), host).await?;
    run("prepare the submodule", &["init", "--quiet", "--bare"]).await?;
    let pair = work_tree::Pair { git_dir: &module.git_dir, work_dir: &module.work_dir };
    work_tree::ensure(git, &module.work_dir, &place).await?;
    if !work_tree::has(git, &pair, &module.commit).await? {
        let refs = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        let all = ["fetch", "--quiet", "--no-tags", "--", &module.url, refs[0], refs[1]];
        trust::tell_of_contact(&run("fetch the submodule", &all).await?.stderr);
        if !work_tree::has(git, &pair, &module.commit).await? {
            // One that no branch leads to; not every server gives it.
            let one = ["fetch", "--quiet", "--no-tags", "--", &module.url, module.commit.as_str()];
            run("fetch the submodule's commit", &one).await?;
        }
    }
    work_tree::borrow(git, &pair).await?;
    let args = ["checkout", "--quiet", "--force", "--detach", module.commit.as_str()];
    let put = git.work_in(&module.work_dir, &place, &args);
    host.act(What::Directory, &place, "check out the submodule", put).await.map(drop)
}

/// The commit of a submodule, as `git ls-tree -z` prints its entry: `160000 commit ID<tab>PATH<nul>`.
fn commit_of(entry: &str, path: &str) -> Option<Commit> {
    let (what, at) = entry.strip_suffix('\0')?.split_once('\t')?;
    what.strip_prefix("160000 commit ").filter(|_| at == path)?.parse().ok()
}

/// Paths and addresses, as `git config -z` prints them: `submodule.NAME.path<newline>VALUE<nul>`.
fn paths_and_urls(said: &str) -> Vec<(String, String)> {
    let mut all: std::collections::BTreeMap<&str, (Option<&str>, Option<&str>)> = Default::default();
    for entry in said.split('\0') {
        let Some((key, value)) = entry.split_once('\n') else { continue };
        let Some((name, what)) = key.strip_prefix("submodule.").and_then(|rest| rest.rsplit_once('.')) else {
            continue;
        };
        let known = all.entry(name).or_default();
        match what {
            "path" => known.0 = Some(value),
            _ => known.1 = Some(value),
        }
    }
    all.into_values().filter_map(|(path, url)| Some((path?.to_owned(), url?.to_owned()))).collect()
}

/// Whether a path stays in its repository, and is none of git's own.
fn is_path(path: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.eq_ignore_ascii_case(".git");
    path.split('/').all(is_part) && !path.chars().any(char::is_control)
}

/// An address that begins with `./` or `../` counts from the one above it (gitmodules(5)).
fn resolved(above: &str, url: &str) -> Option<String> {
    if url.is_empty() || url.starts_with('-') || url.chars().any(char::is_control) || url.contains("::") {
        return None;
    }
    if !url.starts_with("./") && !url.starts_with("../") {
        return Some(url.to_owned());
    }
    let mut base = above.trim_end_matches('/').to_owned();
    let mut rest = url;
    loop {
        if let Some(tail) = rest.strip_prefix("../") {
            let cut = base.rfind(['/', ':']).filter(|at| *at > 0)?;
            // Of a server's own name nothing is taken away.
            if base[..cut].ends_with(":/") || base[..cut].ends_with('/') {
                return None;
            }
            base.truncate(cut + usize::from(base.as_bytes()[cut] == b':'));
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix("./") {
            rest = tail;
        } else {
            break;
        }
    }
    let between = if base.ends_with(':') { "" } else { "/" };
    Some(format!("{base}{between}{}", rest.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_count_from_the_repository_above() {
        for (above, url, expected) in [
            ("https://h/a/b.git", "../c.git", Some("https://h/a/c.git")),
            ("https://h/a/b.git", "./c.git", Some("https://h/a/b.git/c.git")),
            ("https://h/a/b.git", "../../c", Some("https://h/c")),
            ("https://h/a", "../../c", None),
            ("git@h:a/b.git", "../c.git", Some("git@h:a/c.git")),
            ("git@h:b.git", "../c.git", Some("git@h:c.git")),
            ("/srv/a", "../c", Some("/srv/c")),
            ("x", "https://other/c", Some("https://other/c")),
            ("x", "-oProxyCommand=x", None),
            ("x", "ext::sh -c x", None),
        ] {
            assert_eq!(resolved(above, url).as_deref(), expected, "{above} {url}");
        }
    }

    #[test]
    fn only_paths_in_the_repository_are_taken() {
        for (path, good) in [
            ("a", true),
            ("lib/a b", true),
            ("../a", false),
            ("/a", false),
            ("a//b", false),
            (".git/x", false),
            ("a/.GIT", false),
            ("", false),
        ] {
            assert_eq!(is_path(path), good, "{path}");
        }
        let said = "submodule.a.path\na\0submodule.a.url\nhttps://h/a\0submodule.b.c.path\nlib\0submodule.b.c.url\n../x\0submodule.half.path\nh\0";
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(paths_and_urls(said), [pair("a", "https://h/a"), pair("lib", "../x")]);
    }
}
