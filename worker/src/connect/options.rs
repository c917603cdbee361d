//! Settings as options of the client.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{ConnectOptions, Event};

use super::{Config, ConnectError};
use crate::telemetry::{Health, Link};

/// Longest pause between two attempts to connect again; the first come at once. Short, since jobs wait meanwhile.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// A connection whose pings go unanswered for three times this is given up. Pulls that go unanswered tell sooner, but there
/// are none while results cannot be stored or the worker is full.
const PING: Duration = Duration::from_secs(5);

fn pause(attempts: usize) -> Duration {
    let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
    let pause = Duration::from_millis(10).saturating_mul(1 << attempts.min(10)).min(MAX_PAUSE);
    // Jittered, so that a fleet does not come back in step.
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

pub(super) async fn options(
    config: &Config,
    name: &str,
    subscriptions: usize,
    health: &Arc<Health>,
) -> Result<ConnectOptions, ConnectError> {
    let health = Arc::clone(health);
    let mut options = ConnectOptions::new().name(name).subscription_capacity(subscriptions).ping_interval(PING);
    // Ours are made of checked tokens, or came from the server; on the way through a dead worker's ledger, whole by its checksum.
    options = options.skip_subject_validation(true);
    options = options.reconnect_delay_callback(pause).event_callback(move |event| {
        observe(&health, &event);
        std::future::ready(())
    });
    if let Some(path) = &config.credentials {
        let file = |source| ConnectError::File { key: "credentials_file", path: path.clone(), source };
        options = options.credentials_file(path).await.map_err(file)?;
    }
    if let Some(seed) = secret("nkey_seed_file", config.nkey.as_ref())? {
        options = options.nkey(seed);
    }
    if let Some(token) = secret("token_file", config.token.as_ref())? {
        options = options.token(token);
    }
    match (&config.user, secret("password_file", config.password.as_ref())?) {
        (Some(user), Some(password)) => options = options.user_and_password(user.clone(), password),
        (Some(_), None) => return Err(ConnectError::Half { given: "user", missing: "password_file" }),
        (None, Some(_)) => return Err(ConnectError::Half { given: "password_file", missing: "user" }),
        (None, None) => {}
    }
    tls(config, options)
}

fn tls(config: &Config, mut options: ConnectOptions) -> Result<ConnectOptions, ConnectError> {
    if config.tls_required {
        options = options.require_tls(true);
    }
    if config.tls_first {
        options = options.tls_first();
    }
    if let Some(ca) = &config.tls_ca {
        options = options.add_root_certificates(readable("tls_ca_file", ca)?);
    }
    match (&config.tls_cert, &config.tls_key) {
        (Some(cert), Some(key)) => {
            let (cert, key) = (readable("tls_cert_file", cert)?, readable("tls_key_file", key)?);
            Ok(options.add_client_certificate(cert, key))
        }
        (Some(_), None) => Err(ConnectError::Half { given: "tls_cert_file", missing: "tls_key_file" }),
        (None, Some(_)) => Err(ConnectError::Half { given: "tls_key_file", missing: "tls_cert_file" }),
        (None, None) => Ok(options),
    }
}

fn secret(key: &'static str, path: Option<&PathBuf>) -> Result<Option<String>, ConnectError> {
    let Some(path) = path else { return Ok(None) };
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|source| ConnectError::File { key, path: path.clone(), source })?;
    Ok(Some(text.trim().to_owned()))
}

fn readable(key: &'static str, path: &PathBuf) -> Result<PathBuf, ConnectError> {
    let open = std::fs::File::open(path).map_err(|source| ConnectError::File { key, path: path.clone(), source });
    open.map(|_| path.clone())
}

fn observe(health: &Health, event: &Event) {
    match event {
        Event::Connected => {
            health.link.send_modify(|link| link.is_up = true);
            tracing::info!("connected to NATS");
        }
        // The end of a drain.
        Event::Closed => health.link.send_modify(|link| link.is_up = false),
        Event::Disconnected => {
            health.link.send_modify(|link| *link = Link { is_up: false, losses: link.losses + 1 });
            tracing::warn!("disconnected from NATS");
        }
        // Credit is meant to make this impossible.
        Event::SlowConsumer(id) => tracing::error!(subscription = id, "the client dropped messages"),
        other => tracing::warn!(event = %other, "NATS client"),
    }
}
