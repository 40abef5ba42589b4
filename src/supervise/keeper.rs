//! Keeps an app's certificate good beside the loop that watches the containers. What is done about it is `certificate/`.

use crate::certificate::{self, Looked};
use crate::host::Host;
use crate::source;
use crate::value::AppName;
use anyhow::Result;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// The longest sleep: the env and the clock may have changed.
const LONGEST_S: i64 = 12 * 3600;

/// Runs until it is dropped. Failures are told and tried again, later each time.
pub async fn keep(host: &Host, app: &AppName) {
    let mut failures = 0_u32;
    loop {
        // A library that panics over a server's answer must not take the supervisor down.
        let looked = match AssertUnwindSafe(look(host, app)).catch_unwind().await {
            Ok(looked) => looked,
            Err(_) => Err(anyhow::anyhow!("the ACME client panicked; see the message before")),
        };
        let now = host.now().as_second();
        let next = match looked {
            Ok(Some(looked)) => {
                failures = 0;
                for why in &looked.left_out {
                    tracing::warn!("left out of the certificate: {why}");
                }
                looked.next
            }
            Ok(None) => now + LONGEST_S,
            Err(error) => {
                tracing::warn!("no new certificate: {error:#}");
                failures = failures.saturating_add(1);
                now + certificate::pause(failures)
            }
        };
        let wait = (next - now).clamp(1, LONGEST_S);
        tokio::time::sleep(Duration::from_secs(u64::try_from(wait).unwrap_or(1))).await;
    }
}

/// By the env that is active now: it may be another than the one that the supervisor started with.
async fn look(host: &Host, app: &AppName) -> Result<Option<Looked>> {
    let env = source::active_of(host, app)?;
    if !certificate::is_wanted(&env) {
        return Ok(None);
    }
    certificate::look(&env, host, false).await.map(Some)
}
