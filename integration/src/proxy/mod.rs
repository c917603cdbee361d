//! A network that fails on purpose: a TCP proxy between a client and a nats-server, whose faults are switched while it
//! runs. It counts what it did, so that a test can show that its fault bit.
//!
//! Four threads a connection: each direction has one that reads and one that writes, with a queue between them in which
//! bytes wait out the latency or the black hole.

mod connection;
mod fault;
mod wire;
mod writer;

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use self::connection::Connection;
use self::fault::Switch;

pub use self::fault::{Faults, Tally};

/// A running proxy. Dropped, it cuts its connections and ends.
pub struct Proxy {
    port: u16,
    hub: Arc<Hub>,
    accepting: Option<JoinHandle<()>>,
}

/// What the accepting thread and the proxy's owner share.
struct Hub {
    upstream: u16,
    switch: Arc<Switch>,
    /// A lock because two threads come here, seldom: at each new connection, and at each cut of all.
    connections: Mutex<Vec<Weak<Connection>>>,
}

impl Proxy {
    /// Listens on a port of its own for connections to `upstream`, a port of this machine. `seed` decides where random
    /// cuts fall.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start(upstream: u16, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let hub = Arc::new(Hub { upstream, switch: Switch::new(seed), connections: Mutex::default() });
        let shared = Arc::clone(&hub);
        let accepting = std::thread::spawn(move || {
            // Ends at the connection that the drop makes once the proxy is over.
            listener
                .incoming()
                .take_while(|_| !shared.switch.is_over())
                .flatten()
                .for_each(|client| shared.join(client));
        });
        Self { port, hub, accepting: Some(accepting) }
    }

    /// `nats://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// From now on, these faults and no others. Bytes that a black hole held flow again.
    pub fn inject(&self, faults: Faults) {
        self.hub.switch.set(faults);
    }

    /// From now on, no faults.
    pub fn heal(&self) {
        self.inject(Faults::default());
    }

    /// Cuts every connection now. What was on its way is lost.
    pub fn cut_all(&self) {
        for connection in self.hub.live() {
            connection.cut(&self.hub.switch);
        }
    }

    /// What it did so far.
    pub fn tally(&self) -> Tally {
        self.hub.switch.tally()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.hub.switch.end();
        self.cut_all();
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.accepting.take() {
            drop(thread.join());
        }
    }
}

impl Hub {
    /// Connects a client through. Where the server is gone, the client is sent away as by a port nobody listens on.
    fn join(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.upstream)) else {
            drop(client.shutdown(Shutdown::Both));
            return;
        };
        if let Ok(connection) = Connection::start(client, server, &self.switch) {
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.retain(|connection| connection.strong_count() > 0);
            connections.push(Arc::downgrade(&connection));
        }
    }

    fn live(&self) -> Vec<Arc<Connection>> {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.iter().filter_map(Weak::upgrade).collect()
    }
}
