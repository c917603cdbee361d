use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longest wait for the collector to take a mark.
const ANSWER: Duration = Duration::from_secs(10);

/// Paths of the three kinds of data, and how the text begins that tells of each.
const KINDS: [(&str, &str); 3] = [("traces", "ResourceSpans"), ("metrics", "ResourceMetrics"), ("logs", "ResourceLog")];

/// An export of nothing that can be told from every other one. The collector prints what it received in the order it came,
/// kind by kind, so behind a mark of each kind lies all that it had taken when they were sent, to the last line.
pub(super) struct Mark(String);

impl Mark {
    pub fn new(number: u64) -> Self {
        Self(format!("mark:{number}"))
    }

    /// Sends it as each kind. `None` if the collector is not there.
    pub fn send(&self, port: u16) -> Option<()> {
        KINDS.iter().try_for_each(|(path, _)| post(port, &format!("/v1/{path}"), &self.encode()))
    }

    /// Where the last of the three ends, once they are there.
    pub fn end_in(&self, text: &[u8]) -> Option<usize> {
        let end = |(_, head): &(&str, &str)| {
            let mark = format!("{head} #0\nResource SchemaURL: {}\n", self.0);
            let at = text.windows(mark.len()).position(|window| window == mark.as_bytes())?;
            Some(at + mark.len())
        };
        KINDS.iter().map(end).try_fold(0, |last, end| Some(last.max(end?)))
    }

    /// A resource with a schema URL and nothing in it. Spans, metrics and logs have the same field numbers there: 1 for the
    /// resource's data in a request, 3 for the URL. Below 128 bytes, a length is one byte.
    fn encode(&self) -> Vec<u8> {
        let field = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
        field(0x0a, &field(0x1a, self.0.as_bytes()))
    }
}

fn post(port: u16, path: &str, body: &[u8]) -> Option<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    let head = format!("POST {path} HTTP/1.1\r\nHost: collector\r\nContent-Type: application/x-protobuf\r\n");
    let rest = format!("Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), rest.as_bytes(), body].concat()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200 ").then_some(())
}
