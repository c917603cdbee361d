//! Collectors that are ill in one way each, on real sockets. Each speaks, or does not speak, both gRPC and HTTP on its one
//! port.

mod door;
mod refusing;
mod slow;

use self::door::Door;

pub use self::refusing::Refusing;
pub use self::slow::Slow;

/// Takes every connection and never says a word, nor reads one.
pub struct Hanging(Door);

/// Resets every connection as soon as it is spoken to.
pub struct Resetting(Door);

impl Hanging {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start() -> Self {
        // The door keeps each connection open until the end.
        Self(Door::open(|_, _| {}))
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

impl Resetting {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start() -> Self {
        Self(Door::open(|stream, door| {
            // A socket closed with bytes unread resets its connection. Closed before, it would only end it.
            drop(stream.peek(&mut [0]));
            door.forget(&stream);
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
