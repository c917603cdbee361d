use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// A port, and a thread for each connection to it. Dropped, it closes them all.
pub(super) struct Door {
    port: u16,
    pub inside: Arc<Inside>,
    accepting: Option<JoinHandle<()>>,
}

/// What the door's owner and its threads share.
#[derive(Default)]
pub(super) struct Inside {
    is_over: AtomicBool,
    connections: AtomicU64,
    pub requests: AtomicU64,
    /// A second handle of each connection, to close it with. A lock because every thread comes here, at its beginning and
    /// its end.
    open: Mutex<Vec<TcpStream>>,
}

impl Door {
    /// Opens one. `serve` gets each connection, on a thread of its own; what it does not forget stays open after it.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn open(serve: impl Fn(TcpStream, &Arc<Inside>) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let (inside, serve) = (Arc::new(Inside::default()), Arc::new(serve));
        let shared = Arc::clone(&inside);
        let accepting = std::thread::spawn(move || {
            // Ends at the connection that the drop makes once all is over.
            for stream in listener.incoming().take_while(|_| !shared.is_over()).flatten() {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                shared.keep(&stream);
                let (serve, shared) = (Arc::clone(&serve), Arc::clone(&shared));
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { port, inside, accepting: Some(accepting) }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn connections(&self) -> u64 {
        self.inside.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.inside.is_over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.accepting.take() {
            drop(thread.join());
        }
        for stream in self.inside.lock().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

impl Inside {
    /// Closes it at the end.
    pub fn keep(&self, stream: &TcpStream) {
        self.lock().extend(stream.try_clone());
    }

    /// Gives up the second handle, so that a connection is closed when its thread drops it.
    pub fn forget(&self, stream: &TcpStream) {
        let peer = stream.peer_addr().ok();
        self.lock().retain(|other| other.peer_addr().ok() != peer);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
