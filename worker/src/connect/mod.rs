//! The one NATS connection of the worker, and its keeper.

mod keep;
mod options;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Client, ServerAddr};

pub use self::keep::Keeper;
use self::options::options;
use crate::settings::Section;
use crate::telemetry::{Health, Server};

/// Where NATS is unless set otherwise.
const DEFAULT_URL: &str = "nats://127.0.0.1:4222";

/// Where NATS is and how to get in.
#[derive(Debug, Clone)]
pub struct Config {
    /// The setting without passwords, for messages.
    pub url: String,
    servers: Vec<ServerAddr>,
    /// How long to try before giving up at start. Later cuts are retried for ever.
    pub connect_timeout: Duration,
    credentials: Option<PathBuf>,
    nkey: Option<PathBuf>,
    user: Option<String>,
    password: Option<PathBuf>,
    token: Option<PathBuf>,
    tls_required: bool,
    tls_first: bool,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
}

impl Config {
    /// The first server, for attributes.
    pub fn server(&self) -> Server {
        let first = self.servers.first();
        let address = first.map_or("", ServerAddr::host).into();
        Server { address, port: first.map_or(0, ServerAddr::port) }
    }

    /// Reads the section `nats`. Secrets are named by the file that holds them, never given themselves.
    pub fn read(section: &mut Section<'_>) -> Self {
        let servers = section.parsed("url", DEFAULT_URL, |text| {
            let servers = text.split(',').map(|url| url.trim().parse::<ServerAddr>());
            servers
                .collect::<Result<_, _>>()
                .map_err(|_| "URLs such as nats://host:4222 are expected, separated by commas")
        });
        Self {
            url: redact(&section.text("url").unwrap_or_else(|| DEFAULT_URL.to_owned())),
            servers: servers.unwrap_or_default(),
            connect_timeout: Duration::from_millis(section.number("connect_timeout_ms", 10_000, 100..=3_600_000)),
            credentials: section.file("credentials_file"),
            nkey: section.file("nkey_seed_file"),
            user: section.text("user"),
            password: section.file("password_file"),
            token: section.file("token_file"),
            tls_required: section.flag("tls_required"),
            tls_first: section.flag("tls_first"),
            tls_ca: section.file("tls_ca_file"),
            tls_cert: section.file("tls_cert_file"),
            tls_key: section.file("tls_key_file"),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file of the section cannot be used.
    #[error("nats.{key} {path:?}: {source}")]
    File {
        /// The setting.
        key: &'static str,
        /// Its value.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Two settings that only make sense together.
    #[error("nats.{given} is set, nats.{missing} is not")]
    Half {
        /// This one is there.
        given: &'static str,
        /// This one is not.
        missing: &'static str,
    },
    /// No server answered, or none let us in.
    #[error("nats.url {url}: {source} (tried for {seconds:.1} s)")]
    Server {
        /// The setting.
        url: String,
        /// The last attempt's error.
        source: async_nats::ConnectError,
        /// How long.
        seconds: f64,
    },
}

/// Connects, trying again until `connect_timeout` has passed. `subscriptions` is the most messages one subscription
/// may hold unread; intake's credit keeps below it.
pub async fn connect(
    config: &Config,
    name: &str,
    subscriptions: usize,
    health: &Arc<Health>,
) -> Result<Client, ConnectError> {
    let started = Instant::now();
    loop {
        let options = options(config, name, subscriptions, health).await?;
        match options.connect(&config.servers[..]).await {
            Ok(client) => return Ok(client),
            Err(source) if started.elapsed() >= config.connect_timeout => {
                let (url, seconds) = (config.url.clone(), started.elapsed().as_secs_f64());
                return Err(ConnectError::Server { url, source, seconds });
            }
            Err(error) => {
                tracing::warn!(url = config.url, %error, "no connection to NATS yet");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

/// A URL may hold a password.
fn redact(url: &str) -> String {
    let one = |url: &str| match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}***{}", &url[..scheme + 3], &url[at..]),
        _ => url.to_owned(),
    };
    url.split(',').map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        assert_eq!(redact("nats://me:secret@a:4222,nats://b:1"), "nats://***@a:4222,nats://b:1");
        assert_eq!(redact("nats://127.0.0.1:4222"), "nats://127.0.0.1:4222");
    }
}
