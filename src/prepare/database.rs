//! Step database: role, database, extension, password and who may reach it. Nothing is ever dropped or emptied here.

use super::filter::{self, Networks};
use super::postgres::{Cluster, cluster, find, tell, tuning};
use crate::env::Env;
use crate::host::{File, Host, Login, Owed, quote_identifier, quote_literal, replace_block, scram_verifier};
use crate::value::{AppName, DatabaseName, Owner, Secret};
use anyhow::{Context, Result, bail};

/// The role of an app that has the host to itself.
const ALONE: &str = "app";

/// The role that an app connects as, by its own name where it is one of several. Once it has one it keeps it: all that is in its database
/// is that role's.
pub fn role_of(host: &Host, app: &AppName, is_alone: bool) -> Result<String> {
    let kept = url(app, host)?.and_then(|url| Some(user_info(&url)?.0.to_owned()));
    let known = kept.filter(|role| role == ALONE || role == app.as_str());
    Ok(known.unwrap_or_else(|| if is_alone { ALONE.to_owned() } else { app.as_str().to_owned() }))
}

/// # Errors
/// Another app of the host has the same role, which would open its database to this one.
fn own_role(env: &Env, host: &Host) -> Result<String> {
    let role = role_of(host, &env.app.name, env.tenant.is_alone())?;
    for other in env.apps.iter().filter(|other| other.name != env.app.name) {
        if role_of(host, &other.name, false)? == role {
            bail!(
                "the apps {} and {} would both connect to PostgreSQL as {role}; give one another name",
                env.app.name,
                other.name
            );
        }
    }
    Ok(role)
}
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
    let url_file = url_file(&env.app.name);
    let role = own_role(env, host)?;
    let bridge = host.docker().bridge().await?;
    let known = password(env, host)?;
    if known.is_none() && !env.tenant.is_alone() && host.applies() {
        refuse_foreign(&cluster, &role, host).await?;
    }
    let password = match known {
        Some(password) => password,
        None => host.new_password()?,
    };
    // Written before the role gets it: killed in between, the next run sets the role to what the file says.
    let app: Owner = "root:app".parse().context("a user and a group are an owner")?;
    let url = format!(
        "DATABASE_URL=postgres://{role}:{}@{}:{}/{}\n",
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
        ensure_role(&cluster, &role, &password, host).await?;
        limit_connections(&cluster, &role, env, host).await?;
        ensure_database(&cluster, &role, database, host).await?;
        if !env.tenant.is_alone() {
            keep_others_out(&cluster, database, host).await?;
        }
    } else {
        // A plan for a host that was never prepared: nobody is let in yet, so nothing can be there.
        host.execute(&cluster.superuser("postgres"), &role, "create role", String::new()).await?;
        host.execute(&cluster.superuser("postgres"), database.as_str(), "create database", String::new()).await?;
    }
    admit_networks(env, host).await
}

/// The password in the app's file, if there is one of our make.
pub fn password(env: &Env, host: &Host) -> Result<Option<Secret>> {
    Ok(url(&env.app.name, host)?.as_deref().and_then(password_in))
}

fn url_file(app: &AppName) -> String {
    format!("/app/etc/{app}/database_url.env")
}

/// What the app's file says.
fn url(app: &AppName, host: &Host) -> Result<Option<String>> {
    let text = host.read_text(&url_file(app), MAX_CONFIG)?;
    Ok(text.and_then(|text| text.lines().find_map(|line| line.strip_prefix("DATABASE_URL=")).map(str::to_owned)))
}

/// User and password of a URL.
fn user_info(url: &str) -> Option<(&str, &str)> {
    url.strip_prefix("postgres://")?.rsplit_once('@')?.0.split_once(':')
}

/// The app's own login, from this host.
pub fn login(env: &Env, host: &Host) -> Result<Login> {
    login_at(&cluster(host)?, env, host)
}

/// The same in another cluster, that is a copy or becomes one.
pub fn login_at(cluster: &Cluster, env: &Env, host: &Host) -> Result<Login> {
    let password =
        password(env, host)?.context("the app has no database yet; see: appliance prepare --step database")?;
    let role = role_of(host, &env.app.name, env.tenant.is_alone())?;
    Ok(as_role(cluster, &role, &password, env.app.database.as_str()))
}

fn as_role(cluster: &Cluster, role: &str, password: &Secret, database: &str) -> Login {
    Login {
        host: "127.0.0.1".to_owned(),
        port: cluster.port,
        user: role.to_owned(),
        password: Some(password.clone()),
        database: database.to_owned(),
        is_pinned: false,
    }
}

async fn ensure_role(cluster: &Cluster, role: &str, password: &Secret, host: &Host) -> Result<()> {
    let superuser = cluster.superuser("postgres");
    let known = host.query(&superuser, "SELECT rolname::text FROM pg_roles WHERE rolname = $1", &[role]).await?;
    let verifier = || quote_literal(&scram_verifier(password));
    if known.is_empty() {
        let sql = format!("CREATE ROLE {} LOGIN PASSWORD {}", quote_identifier(role), verifier());
        return host.execute(&superuser, role, "create role", sql).await;
    }
    let login = as_role(cluster, role, password, "postgres");
    if !host.can_log_in(&login).await? {
        let sql = format!("ALTER ROLE {} LOGIN PASSWORD {}", quote_identifier(role), verifier());
        host.execute(&superuser, role, "set the password of role", sql).await?;
    }
    Ok(())
}

/// Nobody may connect to the database of one of several apps but its role, whoever made it, and when.
async fn keep_others_out(cluster: &Cluster, database: &DatabaseName, host: &Host) -> Result<()> {
    let superuser = cluster.superuser("postgres");
    let sql =
        "SELECT datname::text FROM pg_database WHERE datname = $1 AND has_database_privilege('public', oid, 'CONNECT')";
    if host.query(&superuser, sql, &[database.as_str()]).await?.is_empty() {
        return Ok(());
    }
    let sql = format!("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", quote_identifier(database.as_str()));
    host.execute(&superuser, database.as_str(), "let nobody but its role into database", sql).await
}

/// # Errors
/// There is a role of that name which the appliance has not made: its password would be an app's.
async fn refuse_foreign(cluster: &Cluster, role: &str, host: &Host) -> Result<()> {
    let superuser = cluster.superuser("postgres");
    if !host.query(&superuser, "SELECT rolname::text FROM pg_roles WHERE rolname = $1", &[role]).await?.is_empty() {
        bail!(
            "PostgreSQL has a role {role} that the appliance has not made; rename or drop it, or give the app another name"
        );
    }
    Ok(())
}

/// Each of several apps has its share of the connections.
async fn limit_connections(cluster: &Cluster, role: &str, env: &Env, host: &Host) -> Result<()> {
    if env.tenant.is_alone() {
        // What an operator has set is theirs.
        return Ok(());
    }
    let superuser = cluster.superuser("postgres");
    let sql = "SELECT rolconnlimit::text, current_setting('max_connections') FROM pg_roles WHERE rolname = $1";
    let known: Vec<String> = host.query(&superuser, sql, &[role]).await?.into_iter().flatten().flatten().collect();
    let [limit, max] = &known[..] else { return Ok(()) };
    let wanted = tuning::connection_limit(max.parse().context("a setting is a number")?, env.apps.len());
    let wanted = wanted.map_or("-1".to_owned(), |wanted| wanted.to_string());
    if *limit == wanted {
        return Ok(());
    }
    let sql = format!("ALTER ROLE {} CONNECTION LIMIT {wanted}", quote_identifier(role));
    host.execute(&superuser, role, &format!("set the connection limit {wanted} of role"), sql).await
}

async fn ensure_database(cluster: &Cluster, role: &str, database: &DatabaseName, host: &Host) -> Result<()> {
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
                quote_identifier(role)
            );
            host.execute(&superuser, name, "create database", sql).await?;
            let sql = format!("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", quote_identifier(name));
            host.execute(&superuser, name, &format!("let nobody but role {role} into database"), sql).await?;
        }
        Some(owner) if owner == role => {}
        Some(_) => {
            let sql = format!("ALTER DATABASE {} OWNER TO {}", quote_identifier(name), quote_identifier(role));
            host.execute(&superuser, name, &format!("make role {role} the owner of database"), sql).await?;
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
    let networks = Networks::look(host).await?;
    let mut lines = String::new();
    for one in &env.apps {
        let role = role_of(host, &one.name, env.tenant.is_alone())?;
        lines.push_str(&hba_block(&one.database, &role, &networks.admitted(&one.name)));
    }
    filter::ensure(cluster.port, env, &networks, host).await?;
    let path = cluster.config("pg_hba.conf");
    let text = host.read_text(&path, MAX_CONFIG)?.with_context(|| format!("{path} is missing"))?;
    let edited = replace_block(&text, "appliance", &lines);
    let changed = host.ensure_file_of(&cluster.unit(), Owed::Reload, &path, &File::text(edited))?;
    let owed = host.owed(&cluster.unit())?.max(changed.yes().then_some(Owed::Reload));
    match owed {
        Some(owed) => tell(&cluster, Some(owed), host).await,
        None => Ok(()),
    }
}

fn hba_block(database: &DatabaseName, role: &str, subnets: &[String]) -> String {
    let database = quote_identifier(database.as_str());
    // In quotes a word like 'all' is a name and nothing else.
    let role = if role == ALONE { role.to_owned() } else { quote_identifier(role) };
    subnets.iter().map(|subnet| format!("host {database} {role} {subnet} scram-sha-256\n")).collect()
}

fn password_in(url: &str) -> Option<Secret> {
    let (_, password) = user_info(url)?;
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
        let kept = password_in("postgres://app:abcdefgh-ABCDEFGH_1@172.17.0.1:5432/x");
        assert_eq!(kept.map(|secret| secret.expose().to_owned()).as_deref(), Some("abcdefgh-ABCDEFGH_1"));
        assert!(password_in("postgres://app:p%40ss@h/x").is_none());
        assert!(password_in("mysql://app:abcdefgh-ABCDEFGH_1@h/x").is_none());
    }

    #[test]
    fn names_are_quoted() {
        let database: DatabaseName = "Shop \"x\"".parse().expect("quotes are allowed in a database's name");
        assert_eq!(
            hba_block(&database, "app", &["172.17.0.0/16".into()]),
            "host \"Shop \"\"x\"\"\" app 172.17.0.0/16 scram-sha-256\n"
        );
        assert_eq!(percent_encode("Shop \"x\""), "Shop%20%22x%22");
    }
}
