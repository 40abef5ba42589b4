//! Step database: role, database, extension, password and who may reach it. Nothing is ever dropped or emptied here.

use super::filter::{self, admitted};
use super::postgres::{Cluster, cluster, find, tell};
use crate::env::Env;
use crate::host::{File, Host, Login, Owed, quote_identifier, quote_literal, replace_block, scram_verifier};
use crate::value::{DatabaseName, Owner, Secret};
use anyhow::{Context, Result};

/// The role that the app connects as.
const ROLE: &str = "app";
const MAX_CONFIG: u64 = 1 << 20;

pub async fn prepare(env: &Env, host: &Host) -> Result<()> {
    let database = &env.app.database;
    let cluster = match find(host)? {
        Some(cluster) => cluster,
        // A plan for a host on which the step postgres would make it.
        None if !host.applies() => {
            let nowhere = Login::superuser(0, "postgres");
            return host.execute(&nowhere, database.as_str(), "create database", String::new()).await;
        }
        None => cluster(host)?,
    };
    let directory = format!("/app/etc/{}", env.app.name);
    let url_file = format!("{directory}/database_url.env");
    let bridge = host.docker().bridge().await?;
    let password = match password(env, host)? {
        Some(password) => password,
        None => host.new_password()?,
    };
    // Written before the role gets it: killed in between, the next run sets the role to what the file says.
    let app: Owner = "root:app".parse().context("a user and a group are an owner")?;
    let url = format!(
        "DATABASE_URL=postgres://{ROLE}:{}@{}:{}/{}\n",
        password.expose(),
        bridge.gateway,
        cluster.port,
        percent_encode(database.as_str())
    );
    host.ensure_file(&url_file, &File::secret(url).mode(0o640).owner(&app))?;
    let services = format!(
        "REDIS_URL=redis://{name}_redis_1:6379/0\nMEMCACHED_URL=memcached://{name}_memcached_1:11211\nSMTP_URL=smtp://{}:25\n",
        bridge.gateway,
        name = env.app.name
    );
    host.ensure_file(&format!("{directory}/service_urls.env"), &File::secret(services).mode(0o640).owner(&app))?;
    if host.applies() || host.can_log_in(&cluster.superuser("postgres")).await? {
        ensure_role(&cluster, &password, host).await?;
        ensure_database(&cluster, database, host).await?;
    } else {
        // A plan for a host that was never prepared: nobody is let in yet, so nothing can be there.
        host.execute(&cluster.superuser("postgres"), ROLE, "create role", String::new()).await?;
        host.execute(&cluster.superuser("postgres"), database.as_str(), "create database", String::new()).await?;
    }
    admit_networks(env, host).await
}

/// The password in the app's file, if there is one of our make.
pub fn password(env: &Env, host: &Host) -> Result<Option<Secret>> {
    let text = host.read_text(&format!("/app/etc/{}/database_url.env", env.app.name), MAX_CONFIG)?;
    Ok(text.as_deref().and_then(password_in))
}

/// The app's own login, from this host.
pub fn login(env: &Env, host: &Host) -> Result<Login> {
    login_at(&cluster(host)?, env, host)
}

/// The same in another cluster, that is a copy or becomes one.
pub fn login_at(cluster: &Cluster, env: &Env, host: &Host) -> Result<Login> {
    let password =
        password(env, host)?.context("the app has no database yet; see: appliance prepare --step database")?;
    Ok(role(cluster, &password, env.app.database.as_str()))
}

fn role(cluster: &Cluster, password: &Secret, database: &str) -> Login {
    Login {
        host: "127.0.0.1".to_owned(),
        port: cluster.port,
        user: ROLE.to_owned(),
        password: Some(password.clone()),
        database: database.to_owned(),
        is_pinned: false,
    }
}

async fn ensure_role(cluster: &Cluster, password: &Secret, host: &Host) -> Result<()> {
    let superuser = cluster.superuser("postgres");
    let known = host.query(&superuser, "SELECT rolname::text FROM pg_roles WHERE rolname = $1", &[ROLE]).await?;
    let verifier = || quote_literal(&scram_verifier(password));
    if known.is_empty() {
        let sql = format!("CREATE ROLE {} LOGIN PASSWORD {}", quote_identifier(ROLE), verifier());
        return host.execute(&superuser, ROLE, "create role", sql).await;
    }
    let login = role(cluster, password, "postgres");
    if !host.can_log_in(&login).await? {
        let sql = format!("ALTER ROLE {} LOGIN PASSWORD {}", quote_identifier(ROLE), verifier());
        host.execute(&superuser, ROLE, "set the password of role", sql).await?;
    }
    Ok(())
}

async fn ensure_database(cluster: &Cluster, database: &DatabaseName, host: &Host) -> Result<()> {
    let superuser = cluster.superuser("postgres");
    let name = database.as_str();
    let sql = "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = $1";
    let owner = host.query(&superuser, sql, &[name]).await?.into_iter().flatten().flatten().next();
    match owner.as_deref() {
        None => {
            let sql = "SELECT collname::text FROM pg_collation WHERE lower(collname) IN ('de_de.utf8', 'de_de.utf-8') LIMIT 1";
            let german = host.query(&superuser, sql, &[]).await?.into_iter().flatten().flatten().next();
            let locale = quote_literal(german.as_deref().unwrap_or("C.UTF-8"));
            let sql = format!(
                "CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE {locale} LC_CTYPE {locale}",
                quote_identifier(name),
                quote_identifier(ROLE)
            );
            host.execute(&superuser, name, "create database", sql).await?;
            let sql = format!("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", quote_identifier(name));
            host.execute(&superuser, name, "let nobody but role app into database", sql).await?;
        }
        Some(ROLE) => {}
        Some(_) => {
            let sql = format!("ALTER DATABASE {} OWNER TO {}", quote_identifier(name), quote_identifier(ROLE));
            host.execute(&superuser, name, "make role app the owner of database", sql).await?;
        }
    }
    if owner.is_none() && !host.applies() {
        return Ok(());
    }
    let sql = "SELECT datname::text FROM pg_database WHERE datname = $1 AND NOT datallowconn";
    if !host.query(&superuser, sql, &[name]).await?.is_empty() {
        // A run that swapped databases was killed before it was done; it is gone on with later.
        let sql = format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true", quote_identifier(name));
        host.execute(&superuser, name, "open the database", sql).await?;
    }
    let inside = cluster.superuser(name);
    let sql = "SELECT extname::text FROM pg_extension WHERE extname = 'pg_stat_statements'";
    if host.query(&inside, sql, &[]).await?.is_empty() {
        let sql = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements SCHEMA public".to_owned();
        let how = "create the extension pg_stat_statements in database";
        // What the app has in that schema may be in the way; it is figures for the operator, and nothing the app needs.
        if let Err(error) = host.execute(&inside, name, how, sql).await {
            tracing::warn!("{error:#}");
        }
    }
    Ok(())
}

/// pg_hba.conf names the bridge's network and those of the app's project, and no other; neither does the packet filter.
pub async fn admit_networks(env: &Env, host: &Host) -> Result<()> {
    let cluster = cluster(host)?;
    let subnets = admitted(env, host).await?;
    filter::ensure(cluster.port, env, host).await?;
    let path = cluster.config("pg_hba.conf");
    let text = host.read_text(&path, MAX_CONFIG)?.with_context(|| format!("{path} is missing"))?;
    let edited = replace_block(&text, "appliance", &hba_block(&env.app.database, &subnets));
    let changed = host.ensure_file_of(&cluster.unit(), Owed::Reload, &path, &File::text(edited))?;
    let owed = host.owed(&cluster.unit())?.max(changed.yes().then_some(Owed::Reload));
    match owed {
        Some(owed) => tell(&cluster, Some(owed), host).await,
        None => Ok(()),
    }
}

fn hba_block(database: &DatabaseName, subnets: &[String]) -> String {
    let database = quote_identifier(database.as_str());
    subnets.iter().map(|subnet| format!("host {database} {ROLE} {subnet} scram-sha-256\n")).collect()
}

fn password_in(env_file: &str) -> Option<Secret> {
    let url = env_file.lines().find_map(|line| line.strip_prefix("DATABASE_URL="))?;
    let (user_info, _) = url.strip_prefix("postgres://")?.rsplit_once('@')?;
    let (_, password) = user_info.split_once(':')?;
    // A password of another make would need decoding; ours is made of characters that need none.
    let plain = password.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    (plain && password.len() >= 16).then(|| Secret::new(password))
}

fn percent_encode(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_kept_and_a_strange_one_is_not_trusted() {
        let kept = password_in("DATABASE_URL=postgres://app:abcdefgh-ABCDEFGH_1@172.17.0.1:5432/x\n");
        assert_eq!(kept.map(|secret| secret.expose().to_owned()).as_deref(), Some("abcdefgh-ABCDEFGH_1"));
        assert!(password_in("DATABASE_URL=postgres://app:p%40ss@h/x\n").is_none());
        assert!(password_in("OTHER=1\n").is_none());
    }

    #[test]
    fn names_are_quoted() {
        let database: DatabaseName = "Shop \"x\"".parse().expect("quotes are allowed in a database's name");
        assert_eq!(
            hba_block(&database, &["172.17.0.0/16".into()]),
            "host \"Shop \"\"x\"\"\" app 172.17.0.0/16 scram-sha-256\n"
        );
        assert_eq!(percent_encode("Shop \"x\""), "Shop%20%22x%22");
    }
}
