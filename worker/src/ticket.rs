//! The claim that every accepted delivery carries from intake to settle.

use async_nats::Subject;
use gristmill_ledger::Slot;
use gristmill_schemas::ErrorCode;
use tokio::sync::mpsc;

use crate::telemetry::Processing;

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its result is stored: acknowledge.
    Done,
    /// Its error result (and dead letter, if it keeps one) is stored: terminate with this reason.
    Refused(ErrorCode),
    /// Nobody finished it (drain, panic, bug): ask for redelivery.
    GivenBack,
}

/// What the settle task is told, in this order for each delivery: once opened, perhaps renewed, once settled.
#[derive(Debug)]
pub enum Notice {
    /// A delivery was accepted; answer it under this ack subject.
    Opened { sequence: u64, ack: Subject },
    /// A job that the server has given up delivering was taken from the stream. Its end is its deletion; the ack
    /// subject is that of the advisory that told of it.
    Swept { sequence: u64, ack: Subject },
    /// The server delivered an open job again; answer it under the newer ack subject.
    Renewed { sequence: u64, ack: Subject },
    /// The delivery's end; its place in the crash ledger, to be cleared when the server was told; and its open span, if
    /// it is recorded, to be ended then.
    Settled { sequence: u64, verdict: Verdict, slot: Option<Slot>, span: Option<Box<Processing>> },
}

/// What intake is told when the server was: the permit is free, and so is the place in the ledger.
#[derive(Debug)]
pub struct Closed {
    /// The job's stream sequence.
    pub sequence: u64,
    /// Cleared.
    pub slot: Option<Slot>,
}

/// One in-flight job's permit and its claim on settlement. Settled once; dropped in any other way, the job is given back.
#[derive(Debug)]
#[must_use = "dropping a ticket gives its job back to the server"]
pub struct Ticket {
    sequence: u64,
    /// Where the ledger tells what the job is doing; `None` where none is kept, or it had no room.
    slot: Option<Slot>,
    /// The job's span, if it is recorded.
    span: Option<Box<Processing>>,
    notices: mpsc::Sender<Notice>,
    settled: bool,
}

impl Ticket {
    /// A ticket for a delivery that the settle task was told of through the same channel.
    ///
    /// The channel must have room for a notice of every open ticket: settling does not wait.
    pub fn new(sequence: u64, slot: Option<Slot>, notices: mpsc::Sender<Notice>) -> Self {
        Self { sequence, slot, span: None, notices, settled: false }
    }

    /// The job's stream sequence.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The job begins to run, `together` with others or alone. Should the process die of it, the next one knows.
    pub fn run(&mut self, run: u64, together: bool) {
        if let Some(slot) = &mut self.slot {
            slot.run(run, together);
        }
    }

    /// The job has run, and the process lives.
    pub fn ran(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.ran();
        }
    }

    /// The job is recorded: this is its span.
    pub fn record(&mut self, span: Box<Processing>) {
        self.span = Some(span);
    }

    /// The job's span, if it is recorded.
    pub fn span(&mut self) -> Option<&mut Processing> {
        self.span.as_deref_mut()
    }

    /// Ends the claim.
    pub fn settle(mut self, verdict: Verdict) {
        self.send(verdict);
    }

    fn send(&mut self, verdict: Verdict) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let (sequence, slot, span) = (self.sequence, self.slot.take(), self.span.take());
        if self.notices.try_send(Notice::Settled { sequence, verdict, slot, span }).is_err() {
            // The settle task is gone (the process is ending) or the sizing above is broken. The server redelivers
            // after ack_wait, and the result's dedup id keeps a second answer from being stored.
            tracing::warn!(sequence, ?verdict, "settlement lost, the job will be delivered again");
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.send(Verdict::GivenBack);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(notice: Option<Notice>) -> Verdict {
        let Some(Notice::Settled { verdict, .. }) = notice else { panic!("{notice:?}") };
        verdict
    }

    #[tokio::test]
    async fn a_ticket_settles_once_and_a_dropped_one_is_given_back() {
        let (notices, mut inbox) = mpsc::channel(4);
        Ticket::new(1, None, notices.clone()).settle(Verdict::Done);
        drop(Ticket::new(2, None, notices.clone()));
        let panicked = std::thread::spawn(move || {
            let _ticket = Ticket::new(3, None, notices);
            panic!("a stage fails");
        });
        assert!(panicked.join().is_err());
        assert_eq!(settled(inbox.recv().await), Verdict::Done);
        assert_eq!(settled(inbox.recv().await), Verdict::GivenBack);
        assert_eq!(settled(inbox.recv().await), Verdict::GivenBack);
        assert!(inbox.recv().await.is_none());
    }
}
