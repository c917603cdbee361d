//! mosec: the same model behind HTTP, asked over connections that are kept open. Durable in nothing.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gristmill_integration::{Process, free_port, root};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::run::Figures;
use crate::workload::Workload;

/// Requests on their way: as many as fill two of the largest batches.
const CONNECTIONS: usize = 512;

/// Until everything is warm, and then measured.
const TIMES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(4)];

/// Starts the server, has it answer for a while, and ends it.
pub async fn measure(workload: Workload) -> Figures {
    let (port, size) = (free_port(), workload.size());
    let mut command = Command::new(root().join(".venv/bin/python"));
    command.arg(root().join("integration/bench/python/mosec_server.py")).args(["--port", &port.to_string()]);
    command.env("PACKAGE", workload.package().join("1")).env("BATCH", (size.best_rows / size.rows).to_string());
    let mut server = Process::start("mosec", command);
    server.wait_until(|_| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let answered = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..CONNECTIONS {
        clients.spawn(ask(port, request(workload.body(client)), size.rows, Arc::clone(&answered)));
    }
    tokio::time::sleep(TIMES[0]).await;
    let sample = || (answered.load(Ordering::Relaxed), Instant::now(), family(server.id()));
    let (had, from, (cpu, _)) = sample();
    tokio::time::sleep(TIMES[1]).await;
    let (done, to, (cpu_then, peak)) = sample();
    clients.shutdown().await;
    server.signal("TERM");
    server.wait();
    let rows = (done - had) as f64 * size.rows as f64;
    assert!(rows > 0.0, "mosec has answered nothing:\n{}", server.log());
    Figures {
        rows_per_s: rows / (to - from).as_secs_f64(),
        cpu_us: (cpu_then - cpu) * 1e6 / rows,
        broker_us: 0.0,
        peak_mib: peak as f64 / f64::from(1 << 20),
        batches: None,
    }
}

fn request(body: Vec<u8>) -> Vec<u8> {
    let head = format!("POST /inference HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.into_bytes(), body].concat()
}

/// Outputs of a row, in bytes, at least.
const ROW: usize = 10 * 4;

/// Asks the same over and over, one at a time. A server that is not there yet is asked again.
async fn ask(port: u16, request: Vec<u8>, rows: usize, answered: Arc<AtomicU64>) {
    loop {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut buffer = Vec::new();
        while stream.write_all(&request).await.is_ok() {
            let Some(body) = answer(&mut stream, &mut buffer).await else { break };
            assert!(body.len() > rows * ROW, "no result: {}", String::from_utf8_lossy(body));
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The body of the next answer; `None` where it is no success, or the connection has ended.
async fn answer<'a>(stream: &mut TcpStream, buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
        let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&buffer[..end]).ok()?;
        if !head.starts_with("HTTP/1.1 200") {
            return None;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())?;
        if buffer.len() >= end + 4 + length {
            return Some(&buffer[end + 4..]);
        }
    }
}

/// Processor time in seconds and most resident memory in bytes of a process and all that it has started.
fn family(id: u32) -> (f64, u64) {
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let of_children = children.split_whitespace().filter_map(|child| child.parse().ok()).map(family);
    let own = (Process::cpu_seconds_of(id), Process::peak_rss_of(id));
    of_children.fold(own, |sum, child| (sum.0 + child.0, sum.1 + child.1))
}
