//! NATS on the wire, as far as a proxy has to know it: where one protocol message ends and the next begins, in either
//! direction, and what it carries.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

/// Longest control line. The server's own limit for what clients send is 4 KiB, but its INFO may be longer.
const MAX_LINE: usize = 64 << 10;

/// One protocol message, as it was on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// All of it, to be forwarded.
    pub bytes: Bytes,
    line: usize,
    payload: Range<usize>,
}

/// Neither side of NATS writes this.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Frame {
    /// The words of its control line: verb, subject, and so on.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        words(&self.bytes[..self.line])
    }

    /// Whether its verb is this one. Verbs are written in any case.
    pub fn is(&self, verb: &str) -> bool {
        self.words().next().is_some_and(|word| word.eq_ignore_ascii_case(verb))
    }

    /// What it carries, without headers; empty for most verbs.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.payload.clone()]
    }
}

/// Takes a stream apart, wherever the reads happened to end.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    buffer: BytesMut,
}

impl Splitter {
    /// Takes in what was read.
    pub fn push(&mut self, read: &[u8]) {
        self.buffer.extend_from_slice(read);
    }

    /// The next message, if it is there as a whole.
    pub fn next(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some(end) = self.buffer.iter().take(MAX_LINE).position(|&byte| byte == b'\n') else {
            return if self.buffer.len() < MAX_LINE { Ok(None) } else { Err(Malformed) };
        };
        let line = end + 1;
        let Some([headers, total]) = sizes(&self.buffer[..line])? else {
            return Ok(Some(self.take(line, line, line..line)));
        };
        let body = line + total;
        // The payload ends with a line break of its own.
        if self.buffer.len() < body + 2 {
            return Ok(None);
        }
        if headers > total || self.buffer[body..body + 2] != *b"\r\n" {
            return Err(Malformed);
        }
        Ok(Some(self.take(body + 2, line, line + headers..body)))
    }

    fn take(&mut self, length: usize, line: usize, payload: Range<usize>) -> Frame {
        let bytes = self.buffer.copy_to_bytes(length);
        Frame { bytes, line, payload }
    }
}

/// Bytes of headers, and of headers and payload together; `None` for a message without payload.
fn sizes(line: &[u8]) -> Result<Option<[usize; 2]>, Malformed> {
    let verb = words(line).next().unwrap_or_default().to_ascii_uppercase();
    let mut numbers = words(line).skip(1).collect::<Vec<_>>().into_iter().rev();
    let mut number = || numbers.next().and_then(|word| word.parse().ok()).ok_or(Malformed);
    match verb.as_str() {
        "MSG" | "PUB" => Ok(Some([0, number()?])),
        "HMSG" | "HPUB" => {
            let total = number()?;
            Ok(Some([number()?, total]))
        }
        "INFO" | "CONNECT" | "SUB" | "UNSUB" | "PING" | "PONG" | "+OK" | "-ERR" => Ok(None),
        _ => Err(Malformed),
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &str> {
    // A line that is not text has no words, and so no verb.
    std::str::from_utf8(line).unwrap_or_default().split_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIRE: &[u8] = b"INFO {\"server_id\":\"x\",\"max_payload\":1048576}\r\nCONNECT {\"verbose\":false}\r\n\
        PING\r\nPONG\r\n+OK\r\n-ERR 'Stale Connection'\r\nSUB _INBOX.a.* 1\r\nSUB foo queue 2\r\nUNSUB 2 1\r\n\
        PUB a.b 8\r\nMSG a\r\nx\r\nPUB a.b reply 0\r\n\r\nhpub infer.results.m.all r 12 17\r\nNATS/1.0\r\n\r\nhello\r\n\
        HMSG a.b 1 r 12 12\r\nNATS/1.0\r\n\r\n\r\nMSG _INBOX.a.b 1 34\r\n{\"stream\":\"INFER_RESULTS\",\"seq\":1}\r\n";

    fn split(pieces: &[&[u8]]) -> Vec<Frame> {
        let (mut splitter, mut frames) = (Splitter::default(), Vec::new());
        for piece in pieces {
            splitter.push(piece);
            while let Some(frame) = splitter.next().unwrap() {
                frames.push(frame);
            }
        }
        assert!(splitter.buffer.is_empty());
        frames
    }

    #[test]
    fn every_message_is_found_with_its_payload() {
        let frames = split(&[WIRE]);
        let verbs: Vec<&str> = frames.iter().map(|frame| frame.words().next().unwrap()).collect();
        let all = "INFO CONNECT PING PONG +OK -ERR SUB SUB UNSUB PUB PUB hpub HMSG MSG";
        assert_eq!(verbs.join(" "), all);
        let payloads: Vec<&[u8]> = frames[9..].iter().map(Frame::payload).collect();
        let ack: &[u8] = b"{\"stream\":\"INFER_RESULTS\",\"seq\":1}";
        assert_eq!(payloads, [&b"MSG a\r\nx"[..], b"", b"hello", b"", ack]);
        assert!(frames[11].is("HPUB"));
        assert_eq!(frames[11].words().nth(1), Some("infer.results.m.all"));
        assert_eq!(frames.iter().map(|frame| &frame.bytes[..]).collect::<Vec<_>>().concat(), WIRE);
    }

    #[test]
    fn it_does_not_matter_where_reads_end() {
        let whole = split(&[WIRE]);
        for at in 0..=WIRE.len() {
            assert_eq!(split(&[&WIRE[..at], &WIRE[at..]]), whole, "cut at {at}");
        }
        assert_eq!(split(&WIRE.chunks(1).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn what_is_no_nats_is_refused() {
        let refused = ["GET / HTTP/1.1\r\n", "MSG a 1 x\r\n", "HMSG a 1 5 4\r\nabcd\r\n", "PUB a 1\r\nabc\r\n", "\r\n"];
        for wire in refused {
            let mut splitter = Splitter::default();
            splitter.push(wire.as_bytes());
            assert_eq!(splitter.next(), Err(Malformed), "{wire:?}");
        }
        let mut endless = Splitter::default();
        endless.push(&vec![b'x'; MAX_LINE]);
        assert_eq!(endless.next(), Err(Malformed));
    }
}
