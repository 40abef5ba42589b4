//! Our account with an ACME server: made once and kept, or taken over from dehydrated.

use super::transport::Transport;
use super::{Authority, NONCES, is_kind};
use crate::host::{Cmd, Host};
use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, Key, NewAccount};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};

/// Where accounts are kept, one per server.
const ACCOUNTS: &str = "/data/appliance/host/acme";
const MAX_ACCOUNT: u64 = 64 << 10;
/// Where dehydrated, which issued before us, kept its accounts: one directory per server.
const DEHYDRATED: &str = "/app/etc/dehydrated/accounts";

pub(super) fn account_path(authority: &Authority) -> String {
    let digest = Sha256::digest(&authority.directory);
    let digest: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{ACCOUNTS}/account-{digest}.json")
}

impl Host {
    /// Our account with this server: the one that is kept, else dehydrated's, else a new one, which is kept before it is
    /// used.
    pub(super) async fn account(&self, authority: &Authority, transport: Transport) -> Result<Account> {
        let path = account_path(authority);
        let builder = || Account::builder_with_http(Box::new(transport.clone()));
        if let Some(text) = self.read(&path, MAX_ACCOUNT)? {
            let credentials: AccountCredentials =
                serde_json::from_slice(&text).with_context(|| format!("{path} is broken; remove it"))?;
            let talk = || format!("could not talk to the ACME server {}", authority.directory);
            return builder().from_credentials(credentials).await.with_context(talk);
        }
        let (account, credentials) = match self.dehydrateds(authority).await {
            Some((account, credentials)) => (account, credentials),
            None => new_account(builder, authority).await?,
        };
        let text = serde_json::to_vec(&credentials).context("the account cannot be written")?;
        self.put(&path, &text, 0o600)?;
        Ok(account)
    }

    /// The account that dehydrated had with this server, where its key is one that we can use (P-256).
    async fn dehydrateds(&self, authority: &Authority) -> Option<(Account, AccountCredentials)> {
        match self.take_dehydrateds(authority).await {
            Ok(taken) => taken,
            // A new one serves as well; only its rate limits begin anew.
            Err(error) => {
                tracing::info!("dehydrated's account is not taken over, a new one is made: {error:#}");
                None
            }
        }
    }

    async fn take_dehydrateds(&self, authority: &Authority) -> Result<Option<(Account, AccountCredentials)>> {
        // It calls the directory by the server's address, and encodes the line's end with it.
        let names = [format!("{}\n", authority.directory), authority.directory.clone()];
        for name in names.map(|name| URL_SAFE_NO_PAD.encode(name)) {
            let Some(pem) = self.read_text(&format!("{DEHYDRATED}/{name}/account_key.pem"), MAX_ACCOUNT)? else {
                continue;
            };
            // Its keys come in forms of their own; openssl knows them all.
            let convert = Cmd::new("openssl", ["pkcs8", "-topk8", "-nocrypt"]).input(pem);
            let pem = crate::value::Secret::new(self.ask(convert).await?.stdout);
            let key = PrivatePkcs8KeyDer::from_pem_slice(pem.expose().as_bytes());
            let key = key.map_err(|error| anyhow!("its key cannot be read: {error}"))?;
            let signing = Key::from_pkcs8_der(key.clone_key()).context("its key is not one on the curve P-256")?;
            let builder = Account::builder_with_http(Box::new(Transport::new(authority)?));
            let found = builder.from_key((signing, PrivateKeyDer::Pkcs8(key)), authority.directory.clone()).await;
            return found.map(Some).context("the server does not know it");
        }
        Ok(None)
    }
}

async fn new_account(
    builder: impl Fn() -> instant_acme::AccountBuilder,
    authority: &Authority,
) -> Result<(Account, AccountCredentials)> {
    let eab = match &authority.eab {
        Some((kid, key)) => {
            let key = URL_SAFE_NO_PAD.decode(key.expose().trim().trim_end_matches('='));
            let key = key.ok().context("'appliance.ssl.acme.eab.key' is not base64url")?;
            Some(ExternalAccountKey::new(kid.clone(), &key))
        }
        None => None,
    };
    let contact = authority.email.as_ref().map(|email| format!("mailto:{email}"));
    let contacts: Vec<&str> = contact.iter().map(String::as_str).collect();
    let wanted = NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
    let made = with_nonce!(builder().create(&wanted, authority.directory.clone(), eab.as_ref()).await);
    made.with_context(|| format!("could get no account at the ACME server {}", authority.directory))
}
