use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::desk::{Desk, Event};
use super::encode::Names;
use super::end::Teller;
use super::held::Held;
use crate::link::Current;
use crate::message::Outcome;
use crate::telemetry::{SlowLog, Vitals};

/// Words of the server taken at once. The clock is read once for all of them.
const BURST: usize = 256;

/// How often is looked for what has to be sent again: the shortest pause between two attempts.
const TICK: Duration = Duration::from_millis(50);

/// The publish task.
pub struct Publisher {
    /// Outcomes; closed when intake, batch and every engine are gone.
    pub inbox: mpsc::Receiver<Vec<Outcome>>,
    /// Where to store.
    pub nats: Current,
    /// What stands on every message.
    pub names: Names,
    /// Most outcomes being stored at once.
    pub window: usize,
    /// The results stream confirms together what is sent together.
    pub together: bool,
    /// Written: results, that nothing can be stored at present, spans of jobs.
    pub vitals: Vitals,
    /// Which slow jobs are logged.
    pub slow: SlowLog,
}

impl Publisher {
    /// Runs until the inbox is closed and every outcome is stored.
    pub async fn run(self) {
        let Self { mut inbox, nats, names, window, together, vitals, slow } = self;
        let mut link = vitals.health.link.subscribe();
        let mut losses = link.borrow_and_update().losses;
        let mut desk = Desk::open(nats, Teller::new(names, vitals, slow), together).await;
        let mut held = Held::default();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_open = true;
        loop {
            let (room, now) = (window.saturating_sub(desk.len()), Instant::now());
            desk.begin(held.due(room), now).await;
            desk.settle();
            if !is_open && held.is_empty() && desk.len() == 0 {
                return;
            }
            tokio::select! {
                received = inbox.recv(), if is_open && held.is_empty() => match received {
                    Some(burst) => held.add(burst, Instant::now()),
                    None => is_open = false,
                },
                () = sleep_until(held.until().unwrap_or(now).into()), if held.until().is_some() => {
                    held.release(std::iter::from_fn(|| inbox.try_recv().ok()));
                }
                event = desk.event() => match event {
                    Event::Word(message) => {
                        let now = Instant::now();
                        desk.hear(&message, now).await;
                        for _ in 1..BURST {
                            let Some(message) = desk.ready() else { break };
                            desk.hear(&message, now).await;
                        }
                    }
                    Event::Found(letter, was_answered) => desk.found(letter, was_answered, Instant::now()).await,
                },
                // The sender lives in health, which outlives every stage.
                Ok(()) = link.changed() => {
                    let link = *link.borrow_and_update();
                    desk.link(link.is_up, link.losses > losses, Instant::now()).await;
                    losses = link.losses;
                }
                _ = tick.tick() => desk.wake(Instant::now()).await,
            }
        }
    }
}
