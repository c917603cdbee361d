use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::spawn;
use std::time::Instant;

use super::fault::Switch;
use super::wire::{Frame, Splitter};
use super::writer::Writer;

/// Protocol messages under way in one direction. A real sender's window is smaller; a sender that is not stopped by ours
/// in a black hole of minutes is not stopped by latency either.
const UNDER_WAY: usize = 1 << 16;

/// Bytes read or written at once.
pub(super) const CHUNK: usize = 64 << 10;

/// A client's connection and the one to the server behind it.
#[derive(Debug)]
pub(super) struct Connection {
    client: TcpStream,
    server: TcpStream,
    is_cut: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    ToServer,
    ToClient,
}

/// What is under way: a protocol message, or the end of the stream.
pub(super) struct Parcel {
    pub due: Instant,
    pub frame: Option<Frame>,
}

impl Connection {
    /// Starts its threads. They end with it.
    pub fn start(client: TcpStream, server: TcpStream, switch: &Arc<Switch>) -> std::io::Result<Arc<Self>> {
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let connection = Arc::new(Self { client, server, is_cut: AtomicBool::new(false) });
        let index = switch.connections.fetch_add(1, Ordering::SeqCst);
        for (direction, index) in [(Direction::ToServer, 2 * index), (Direction::ToClient, 2 * index + 1)] {
            let (queue, parcels) = sync_channel(UNDER_WAY);
            let [reader, writer] = [(); 2].map(|()| (Arc::clone(&connection), Arc::clone(switch)));
            let writer = Writer::new(writer.0, writer.1, direction, index);
            spawn(move || reader.0.read(direction, &reader.1, &queue));
            spawn(move || writer.run(&parcels));
        }
        Ok(connection)
    }

    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }

    /// Closes both sides at once.
    pub fn cut(&self, switch: &Switch) {
        self.give_up(switch);
        drop(self.server.shutdown(Shutdown::Both));
    }

    /// Closes the client's side at once; the server reads to the end of what it was sent, then sees the end.
    pub fn cut_behind(&self, switch: &Switch) {
        self.give_up(switch);
        drop(self.server.shutdown(Shutdown::Write));
    }

    fn give_up(&self, switch: &Switch) {
        if !self.is_cut.swap(true, Ordering::SeqCst) {
            switch.cuts.fetch_add(1, Ordering::SeqCst);
        }
        switch.wake();
        drop(self.client.shutdown(Shutdown::Both));
    }

    /// Where a direction comes from and goes to.
    pub fn ends(&self, direction: Direction) -> (&TcpStream, &TcpStream) {
        match direction {
            Direction::ToServer => (&self.client, &self.server),
            Direction::ToClient => (&self.server, &self.client),
        }
    }

    fn read(&self, direction: Direction, switch: &Switch, queue: &SyncSender<Parcel>) {
        let (mut from, _) = self.ends(direction);
        let (mut splitter, mut buffer) = (Splitter::default(), vec![0; CHUNK]);
        // On after a cut, too: a socket closed with bytes unread resets its connection, and the server might not get to
        // read what it was sent before. A closed queue means just that cut.
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let due = Instant::now() + switch.faults().latency;
            splitter.push(&buffer[..length]);
            loop {
                match splitter.next() {
                    Ok(Some(frame)) => drop(queue.send(Parcel { due, frame: Some(frame) })),
                    Ok(None) => break,
                    Err(_) => {
                        switch.malformed.fetch_add(1, Ordering::SeqCst);
                        return self.cut(switch);
                    }
                }
            }
        }
        drop(queue.send(Parcel { due: Instant::now() + switch.faults().latency, frame: None }));
    }
}
