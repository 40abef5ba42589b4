//! Which version of its API the daemon speaks, from the head of its answer to a ping. bollard asks for `/version`, for which Docker runs
//! two programs: that takes longer than most of what a command then wants to know.

use crate::host::docker::DockerError;
use anyhow::Result;
use bollard::ClientVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// An answer's head is far shorter.
const MAX_HEAD: u64 = 16 << 10;

/// The version, or nothing where the daemon does not tell it in this way.
///
/// # Errors
/// [`DockerError::Away`].
pub(super) async fn spoken(socket: &str) -> Result<Option<ClientVersion>> {
    let ask = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(MAX_HEAD).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = ask.await.map_err(|error| DockerError::Away(error.to_string()))?;
    Ok(version(&String::from_utf8_lossy(&answer)))
}

/// From `Api-Version: 1.41`.
fn version(answer: &str) -> Option<ClientVersion> {
    let head = answer.split("\r\n\r\n").next()?;
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = headers.find(|(name, _)| name.eq_ignore_ascii_case("api-version"))?;
    let (major, minor) = value.trim().split_once('.')?;
    Some(ClientVersion { major_version: major.parse().ok()?, minor_version: minor.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_taken_from_the_head() {
        let of = |answer: &str| version(answer).map(|version| (version.major_version, version.minor_version));
        assert_eq!(of("HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\nServer: x\r\n\r\nOK"), Some((1, 41)));
        assert_eq!(of("HTTP/1.0 200 OK\r\napi-version:1.44\r\n\r\n"), Some((1, 44)));
        for none in ["", "HTTP/1.0 200 OK\r\n\r\nApi-Version: 1.41\r\n", "Api-Version: one\r\n\r\n"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
