//! A GET to a worker's admin page. HTTP/1.0 over a plain socket: the page is ours, on a trusted network, and one request
//! does not justify an HTTP client.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(3);

/// Most bytes of an answer.
const LIMIT: u64 = 4 << 20;

/// Reads `/status` of the worker at `base`, such as `http://127.0.0.1:9470`.
pub async fn status(base: &str) -> anyhow::Result<Value> {
    let address = base.strip_prefix("http://").unwrap_or(base).trim_end_matches('/');
    let text = tokio::time::timeout(TIMEOUT, get(address, "/status")).await;
    let text = text.with_context(|| format!("worker {base}: no answer within {TIMEOUT:?}"))??;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("worker {base}: not HTTP"))?;
    if !head.lines().next().is_some_and(|line| line.contains(" 200 ")) {
        bail!("worker {base}: {}", head.lines().next().unwrap_or_default());
    }
    serde_json::from_str(body).with_context(|| format!("worker {base}: not JSON"))
}

async fn get(address: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("worker {address}"))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.take(LIMIT).read_to_string(&mut text).await?;
    Ok(text)
}
