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

/// What waited for a model's engines, in the lane of the job that left its queue then.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Backlog {
    /// Full batches, over those that the engines run soon: at 1 there is enough. What only waits for company counts for nothing.
    pub fill: f32,
    /// As many jobs make up enough, if they are like those that left.
    pub enough: u32,
}

/// What the settle task is told, in bursts and in this order for each delivery: once opened, perhaps renewed, once settled.
#[derive(Debug)]
pub enum Notice {
    /// A delivery was accepted; answer it under this ack subject.
    Opened { sequence: u64, ack: Subject },
    /// A job that the server has given up delivering was taken from the stream. Its end is its deletion; the ack
    /// subject is that of the advisory that told of it.
    Swept { sequence: u64, ack: Subject },
    /// The server delivered an open job again; answer it under the newer ack subject.
    Renewed { sequence: u64, ack: Subject },
    /// The delivery's end; its place in the crash ledger, to be cleared when the server was told; its open span, if it is
    /// recorded, to be ended then; and for intake, what waited behind it.
    Settled {
        sequence: u64,
        verdict: Verdict,
        slot: Option<Slot>,
        span: Option<Box<Processing>>,
        backlog: Option<Backlog>,
    },
}

/// What intake is told when the server was: the permit is free, and so is the place in the ledger.
#[derive(Debug)]
pub struct Closed {
    /// The job's stream sequence.
    pub sequence: u64,
    /// Cleared.
    pub slot: Option<Slot>,
    /// What waited behind it, if it got as far as a queue.
    pub backlog: Option<Backlog>,
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
    /// What waited behind the job when it left its queue.
    backlog: Option<Backlog>,
    notices: mpsc::Sender<Vec<Notice>>,
    settled: bool,
}

impl Ticket {
    /// A ticket for a delivery that the settle task is told of through the same channel before the ticket ends.
    ///
    /// The channel must have room for a burst of every open ticket: settling does not wait.
    pub fn new(sequence: u64, slot: Option<Slot>, notices: mpsc::Sender<Vec<Notice>>) -> Self {
        Self { sequence, slot, span: None, backlog: None, notices, settled: false }
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

    /// The job leaves its queue, where others stay.
    pub fn leave(&mut self, backlog: Backlog) {
        self.backlog = Some(backlog);
    }

    /// Whether full batches waited behind the job when it left its queue.
    pub fn is_followed(&self) -> bool {
        self.backlog.is_some_and(|backlog| backlog.fill > 0.0)
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
    pub fn settle(self, verdict: Verdict) {
        Self::settle_all(vec![(self, verdict)]);
    }

    /// Ends the claims of tickets of the same channel, at one wake-up.
    pub fn settle_all(tickets: Vec<(Self, Verdict)>) {
        let Some(notices) = tickets.first().map(|(ticket, _)| ticket.notices.clone()) else { return };
        send(&notices, tickets.into_iter().map(|(mut ticket, verdict)| ticket.end(verdict)).collect());
    }

    fn end(&mut self, verdict: Verdict) -> Notice {
        self.settled = true;
        let Self { sequence, backlog, .. } = *self;
        Notice::Settled { sequence, verdict, slot: self.slot.take(), span: self.span.take(), backlog }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            let notice = self.end(Verdict::GivenBack);
            send(&self.notices, vec![notice]);
        }
    }
}

fn send(notices: &mpsc::Sender<Vec<Notice>>, burst: Vec<Notice>) {
    if let Err(lost) = notices.try_send(burst) {
        // The settle task is gone (the process is ending) or the channel is too small. The server redelivers after
        // ack_wait, and the result's dedup id keeps a second answer from being stored.
        tracing::warn!(settlements = lost.into_inner().len(), "settlements lost, the jobs will be delivered again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(notices: Option<Vec<Notice>>) -> Vec<(u64, Verdict)> {
        let told = |notice| match notice {
            Notice::Settled { sequence, verdict, .. } => (sequence, verdict),
            other => panic!("{other:?}"),
        };
        notices.into_iter().flatten().map(told).collect()
    }

    #[tokio::test]
    async fn a_ticket_settles_once_and_a_dropped_one_is_given_back() {
        let (notices, mut inbox) = mpsc::channel(4);
        let [first, second] = [7, 8].map(|sequence| Ticket::new(sequence, None, notices.clone()));
        Ticket::settle_all(vec![(first, Verdict::Done), (second, Verdict::GivenBack)]);
        Ticket::new(1, None, notices.clone()).settle(Verdict::Done);
        drop(Ticket::new(2, None, notices.clone()));
        let panicked = std::thread::spawn(move || {
            let _ticket = Ticket::new(3, None, notices);
            panic!("a stage fails");
        });
        assert!(panicked.join().is_err());
        assert_eq!(settled(inbox.recv().await), [(7, Verdict::Done), (8, Verdict::GivenBack)]);
        assert_eq!(settled(inbox.recv().await), [(1, Verdict::Done)]);
        assert_eq!(settled(inbox.recv().await), [(2, Verdict::GivenBack)]);
        assert_eq!(settled(inbox.recv().await), [(3, Verdict::GivenBack)]);
        assert!(inbox.recv().await.is_none());
    }
}
