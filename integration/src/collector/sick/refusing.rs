use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

use super::door::Door;

/// What an HTTP/2 client says first; no other begins with its first line.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Settings that leave all as it is by default: an empty frame.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// The answer to settings, and to pings.
const ACK: u8 = 1;

/// A whole header block that also ends the stream.
const END_HEADERS_AND_STREAM: u8 = 4 | 1;

/// Answers every request with a refusal that a sender may try again after: HTTP 503, gRPC `UNAVAILABLE`.
pub struct Refusing(Door);

/// Kinds of HTTP/2 frames.
mod kind {
    pub const HEADERS: u8 = 1;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
}

impl Refusing {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start() -> Self {
        Self(Door::open(|stream, inside| {
            // An error is a client that went away.
            drop(refuse(&stream, &inside.requests));
            inside.forget(&stream);
        }))
    }

    /// `http://127.0.0.1:port`
    pub fn endpoint(&self) -> String {
        self.0.endpoint()
    }

    /// Connections made so far.
    pub fn connections(&self) -> u64 {
        self.0.connections()
    }

    /// Requests refused so far.
    pub fn requests(&self) -> u64 {
        self.0.inside.requests.load(Ordering::SeqCst)
    }
}

fn refuse(stream: &TcpStream, requests: &AtomicU64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    if PREFACE.starts_with(first.as_bytes()) {
        reader.read_exact(&mut vec![0; PREFACE.len() - first.len()])?;
        refuse_grpc(reader, requests)
    } else {
        refuse_http(reader, requests)
    }
}

/// From behind the first request line on.
fn refuse_http(mut reader: BufReader<&TcpStream>, requests: &AtomicU64) -> std::io::Result<()> {
    loop {
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line)? > 2 {
            let header = line.to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        // The body is read, else the close would reset the connection and the answer might be lost.
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        requests.fetch_add(1, Ordering::SeqCst);
        reader.get_mut().write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")?;
        // The next one on the same connection.
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
    }
}

/// Just enough HTTP/2: frames in, and for each request a header block that is the whole answer. Bodies are read and
/// ignored; nobody opens the flow-control window again, but a request that was answered need not go on.
fn refuse_grpc(mut reader: BufReader<&TcpStream>, requests: &AtomicU64) -> std::io::Result<()> {
    reader.get_mut().write_all(&SETTINGS)?;
    loop {
        let mut head = [0; 9];
        reader.read_exact(&mut head)?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        reader.read_exact(&mut payload)?;
        let answer = match kind {
            kind::SETTINGS if flags & ACK == 0 => frame(kind, ACK, [0; 4], &[]),
            kind::PING if flags & ACK == 0 => frame(kind, ACK, [0; 4], &payload),
            // Continuations follow if it was not whole; the answer is the same.
            kind::HEADERS => {
                requests.fetch_add(1, Ordering::SeqCst);
                frame(kind, END_HEADERS_AND_STREAM, stream, &unavailable())
            }
            _ => continue,
        };
        reader.get_mut().write_all(&answer)?;
    }
}

fn frame(kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// Headers of an answer without a body (HPACK): `:status` 200 is entry 8 of the static table, the others are literal.
fn unavailable() -> Vec<u8> {
    let literal = |name: &str, value: &str| {
        let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        [&[0][..], &text(name), &text(value)].concat()
    };
    [vec![0x88], literal("content-type", "application/grpc"), literal("grpc-status", "14")].concat()
}
