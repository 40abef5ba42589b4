//! `env create`: a template, a domain, fresh secrets, and the user's own values on top.

use super::{dns, keys, merge};
use crate::host::Host;
use crate::source::{self, Kind};
use crate::value::{Domain, Secret};
use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use minijinja::{Environment, UndefinedBehavior, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The templates that come with the program.
const TEMPLATES: [(&str, &str); 2] =
    [("app", include_str!("../../env-template/app.yml")), ("ecs", include_str!("../../env-template/ecs.yml"))];
/// The largest template, and the largest file of own values, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// The most OpenPGP keys that a template may ask for; each takes about a second.
const MAX_KEYS: usize = 20;

/// What is asked for.
pub struct Wanted<'a> {
    pub domain: &'a Domain,
    /// The new file.
    pub file: &'a str,
    /// One of the program's own templates, or a file.
    pub template: &'a str,
    /// A YAML file with values that go over the template's.
    pub extra: Option<&'a str>,
    /// Whether a file that is there may be replaced.
    pub force: bool,
}

/// Makes the file. Nothing is written unless the result is a good env.yml.
///
/// # Errors
/// There is a file already, the template or the values are broken, or a key could not be made.
pub async fn create(wanted: &Wanted<'_>, host: &Host) -> Result<()> {
    // Said before the work, and held by the writing itself.
    if host.exists(wanted.file) && !wanted.force {
        return Err(anyhow!("{} is there already; --force replaces it, and its secrets are lost then", wanted.file));
    }
    let template = load(wanted.template, host)?;
    let (mut text, dkim) = fill_in(&template, wanted.domain, host).await?;
    if let Some(extra) = wanted.extra {
        let values = host.read_text(extra, MAX_BYTES)?.with_context(|| format!("there is no file {extra}"))?;
        text = merge::merge(&text, &values).with_context(|| format!("could not put the values of {extra} in"))?;
    }
    let checked = source::check(host, Kind::File, wanted.file, text.into_bytes()).await;
    let found = checked.context("the new env.yml would not be valid, so nothing was written")?;
    let has_other_key =
        found.envs.host().appliance.dkim_key.as_ref().is_some_and(|key| key.expose().trim() != dkim.expose().trim());
    if found.envs.host().host_domain != *wanted.domain || has_other_key {
        bail!(
            "the values set 'appliance.domain' or 'appliance.dkim.key', but the DNS records are for {} and its new key; \
             give the domain on the command line, and put a key of your own in afterwards",
            wanted.domain
        );
    }
    host.write_new(wanted.file, &found.bytes, 0o600, wanted.force)
}

fn load(template: &str, host: &Host) -> Result<String> {
    if let Some((_, text)) = TEMPLATES.iter().find(|(name, _)| *name == template) {
        return Ok((*text).to_owned());
    }
    let names: Vec<&str> = TEMPLATES.iter().map(|(name, _)| *name).collect();
    let path = std::path::absolute(template)?.display().to_string();
    host.read_text(&path, MAX_BYTES)?
        .with_context(|| format!("there is no template '{template}': give a file, or one of {}", names.join(", ")))
}

/// What a template asks for, found out by rendering it once with nothing.
#[derive(Default)]
struct Asked {
    openpgp: Vec<String>,
}

async fn fill_in(template: &str, domain: &Domain, host: &Host) -> Result<(String, Secret)> {
    let asked = Arc::new(Mutex::new(Asked::default()));
    render(template, domain, "-", "-", Keys::Ask(asked.clone()), host)?;
    let names = std::mem::take(&mut asked.lock().map_err(|_| anyhow!("the template's rendering panicked"))?.openpgp);
    if names.len() > MAX_KEYS {
        return Err(anyhow!("the template asks for {} OpenPGP keys; at most {MAX_KEYS} are made", names.len()));
    }
    let dkim = keys::dkim(host).await?;
    let mut made = BTreeMap::new();
    for name in names {
        let key = keys::openpgp(host, &name).await?;
        made.insert(name, key);
    }
    let records = dns::records(domain, &dkim.public);
    let text = render(template, domain, &records, dkim.pem.expose(), Keys::Made(Arc::new(made)), host)?;
    Ok((text, dkim.pem))
}

/// Where `openpgp(NAME)` gets its keys from.
enum Keys {
    Ask(Arc<Mutex<Asked>>),
    Made(Arc<BTreeMap<String, Secret>>),
}

fn render(template: &str, domain: &Domain, records: &str, dkim: &str, keys: Keys, host: &Host) -> Result<String> {
    let mut templates = Environment::new();
    templates.set_undefined_behavior(UndefinedBehavior::Strict);
    templates.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    let random_host = host.clone();
    templates.add_function("random", move || -> Result<String, minijinja::Error> { random(&random_host) });
    templates.add_function("openpgp", move |name: String| -> Result<Value, minijinja::Error> {
        let refuse = |text: &str| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, text.to_owned());
        let plain = (1..=40).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !plain {
            return Err(refuse("openpgp() takes a name of letters, digits and '_', at most 40"));
        }
        match &keys {
            Keys::Ask(asked) => {
                let mut asked = asked.lock().map_err(|_| refuse("rendering panicked before"))?;
                if !asked.openpgp.contains(&name) {
                    asked.openpgp.push(name);
                }
                Ok(Value::from("-"))
            }
            Keys::Made(made) => match made.get(&name) {
                Some(key) => Ok(Value::from(key.expose())),
                None => Err(refuse("the template asks for other keys the second time it is rendered")),
            },
        }
    });
    templates.add_template("env.yml", template).context("the template is broken")?;
    let dns: String = records.lines().map(|line| format!("#   {line}\n")).collect();
    let values = minijinja::context! { domain => domain.as_str(), dns => dns.trim_end(), dkim_key => dkim };
    let template = templates.get_template("env.yml").context("the template is broken")?;
    let text = template.render(values).context("the template could not be filled in")?;
    Ok(format!("{}\n", text.trim_end()))
}

/// 39 random bytes as 52 characters of base64: 312 bits.
fn random(host: &Host) -> Result<String, minijinja::Error> {
    let failed =
        |error: anyhow::Error| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, format!("{error:#}"));
    let bytes: [u8; 39] = host.random().map_err(failed)?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}
