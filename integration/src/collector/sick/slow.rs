use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::door::{Door, Inside};

/// Bytes that pass at once.
const CHUNK: usize = 16 << 10;

/// A way to a collector on which each chunk of bytes waits before it passes, in either direction, so that bandwidth is
/// low, too. (The faulty network for NATS cannot be used: it has to understand what passes.)
pub struct Slow(Door);

impl Slow {
    /// Opens a way to this port of this machine.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start(upstream: u16, delay: Duration) -> Self {
        Self(Door::open(move |client, inside| {
            if join(&client, upstream, delay, inside).is_none() {
                drop(client.shutdown(Shutdown::Both));
            }
            inside.forget(&client);
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
}

/// Lets bytes pass until both sides have ended. `None` if there is nobody to pass them to.
fn join(client: &TcpStream, upstream: u16, delay: Duration, inside: &Inside) -> Option<()> {
    let server = TcpStream::connect(("127.0.0.1", upstream)).ok()?;
    inside.keep(&server);
    std::thread::scope(|scope| {
        scope.spawn(|| pass(client, &server, delay));
        pass(&server, client, delay);
    });
    inside.forget(&server);
    Some(())
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, delay: Duration) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        std::thread::sleep(delay);
        if to.write_all(&chunk[..length]).is_err() {
            // Nobody reads any more, so nobody needs to write.
            drop(from.shutdown(Shutdown::Read));
            break;
        }
    }
    drop(to.shutdown(Shutdown::Write));
}
