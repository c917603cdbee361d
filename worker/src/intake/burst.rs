use tokio::sync::mpsc;

use crate::burst;
use crate::message::Outcome;
use crate::route::Routed;
use crate::ticket::{Notice, Ticket};

/// The stages behind intake.
pub(super) struct Out {
    pub(super) jobs: mpsc::Sender<Vec<Routed>>,
    pub(super) outcomes: mpsc::Sender<Vec<Outcome>>,
}

/// What a burst of messages has led to, handed on together: one wake-up for each stage.
#[derive(Default)]
pub(super) struct Burst {
    /// Deliveries opened and renewed.
    pub(super) notices: Vec<Notice>,
    /// To be run.
    pub(super) jobs: Vec<Routed>,
    /// Not to be run.
    pub(super) refusals: Vec<Outcome>,
    /// Came after the end was announced, to be given back.
    pub(super) returned: Vec<Ticket>,
}

impl Burst {
    /// Leaves an empty one. A closed channel means that the stage is gone: what is sent is dropped, and its job given back.
    pub(super) async fn hand_on(&mut self, notices: &mpsc::Sender<Vec<Notice>>, out: Option<&Out>) {
        // First: settle has to know of a delivery before its ticket can end.
        send(notices, &mut self.notices).await;
        self.returned.clear();
        if let Some(Out { jobs, outcomes }) = out {
            send(jobs, &mut self.jobs).await;
            send(outcomes, &mut self.refusals).await;
        }
    }
}

async fn send<T>(to: &mpsc::Sender<Vec<T>>, list: &mut Vec<T>) {
    if !list.is_empty() {
        drop(to.send(burst::take(list)).await);
    }
}
