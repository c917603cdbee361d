use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use rustc_hash::FxBuildHasher;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::former::{Closed, Facts, Former, Limits};
use super::seal::seal;
use crate::message::{Batch, Ceiling, EngineEvent, Origin, Outcome, Ran, Report, RoutedJob, Served, Tails};
use crate::route::Routed;
use crate::telemetry::{CeilingReport, Count, Counters, Health};

/// The batch task.
pub struct Batcher {
    /// Jobs from intake; closed when intake stops.
    pub inbox: mpsc::Receiver<Vec<Routed>>,
    /// What engines have done.
    pub reports: mpsc::Receiver<Report>,
    /// Where expired jobs go.
    pub outcomes: mpsc::Sender<Vec<Outcome>>,
    /// Written: batches.
    pub counters: Arc<Counters>,
    /// Written: queue depths.
    pub health: Arc<Health>,
}

/// What waits for one model, jobs and engines.
struct Line {
    former: Former<Tails, RoutedJob>,
    /// By number.
    engines: BTreeMap<u64, Slot>,
}

/// An engine instance.
struct Slot {
    batches: SyncSender<Batch>,
    /// What the batches are expected to take that were given to it and are not done, as far as that is known.
    given: VecDeque<Option<Duration>>,
}

impl Line {
    fn new(model: &Served) -> Self {
        let Served { max_rows, max_elements, max_delay, to_knee, target, .. } = *model;
        let limits = Limits { max_rows, max_elements, bulk_elements: max_elements, max_delay, target };
        let former = Former::new(limits, to_knee);
        Self { former, engines: BTreeMap::new() }
    }
}

/// By address of the model: a reloaded package is another model. The entry keeps the model, and so its address, alive.
type Lines = HashMap<usize, (Arc<Served>, Line), FxBuildHasher>;

fn line<'a>(lines: &'a mut Lines, model: &Arc<Served>) -> &'a mut Line {
    let (_, line) = lines.entry(Arc::as_ptr(model).addr()).or_insert_with(|| (Arc::clone(model), Line::new(model)));
    line
}

fn admit(lines: &mut Lines, Routed { model, tails, mut job }: Routed, now: Instant) {
    job.envelope.marks.queued = Some(now);
    let [step, fixed] = model.row_elements(&tails).map(|each| each.saturating_mul(job.part.rows));
    let facts = Facts {
        lane: job.envelope.origin.consumer.lane,
        rows: job.part.rows,
        length: model.padded_length(job.part.length),
        step,
        fixed,
        deadline: job.deadline,
        is_last: job.envelope.origin.pending == 0,
        suspect: job.is_suspect.then(|| rank(&job.envelope.origin)),
    };
    line(lines, &model).former.push(tails, job, facts, now);
}

impl Batcher {
    /// Runs until the inbox is closed, then gives back every job that has not started and lets the engines end.
    pub async fn run(mut self) {
        let mut lines = Lines::default();
        loop {
            let wake = self.dispatch(&mut lines).await;
            self.report(&lines);
            tokio::select! {
                burst = self.inbox.recv() => {
                    let Some(burst) = burst else { return };
                    let now = Instant::now();
                    burst.into_iter().for_each(|routed| admit(&mut lines, routed, now));
                }
                report = self.reports.recv() => match report {
                    Some(report) => self.hear(&mut lines, report),
                    // Every engine thread is gone: nothing will run again, and the app ends the process.
                    None => return,
                },
                () = until(wake) => {}
            }
        }
    }

    /// Takes in what an engine has done.
    fn hear(&self, lines: &mut Lines, Report { model, instance, event }: Report) {
        let Line { former, engines } = line(lines, &model);
        match event {
            EngineEvent::Ready(batches) => drop(engines.insert(instance, Slot { batches, given: VecDeque::new() })),
            EngineEvent::Done { learned, ran } => {
                if let Some(slot) = engines.get_mut(&instance) {
                    slot.given.pop_front();
                }
                if let Some(Ran { elements, took }) = ran {
                    let pace = &mut former.pace;
                    pace.observe(elements, took);
                    let cost = model.meters.cost.iter().zip(pace.cost().line());
                    cost.for_each(|(shown, seconds)| shown.store(seconds.to_bits(), Ordering::Relaxed));
                    model.meters.knee.store(pace.knee().unwrap_or(0), Ordering::Relaxed);
                }
                self.learn(lines, &model, learned);
            }
        }
    }

    /// Takes in what a lack of memory taught an engine.
    fn learn(&self, lines: &mut Lines, model: &Arc<Served>, learned: Vec<Ceiling>) {
        if learned.is_empty() {
            return;
        }
        for Ceiling { tails, rows } in learned {
            tracing::warn!(model = %model.name, shape = ?tails, max_rows = rows, "batches of this shape are made smaller");
            // One for all lengths.
            let tails = model.signature.at_length(&tails, 0);
            line(lines, model).former.ceilings.lower(tails, rows, Instant::now());
        }
        self.report_ceilings(lines);
    }

    /// For `/status`, and as the limit that batches have at present.
    fn report_ceilings(&self, lines: &Lines) {
        let of = |(model, line): &(Arc<Served>, Line)| {
            model.meters.limit.store(line.former.ceilings.lowest(), Ordering::Relaxed);
            let report = |(tails, max_rows): (&Tails, usize)| CeilingReport {
                model: model.name.to_string(),
                shape: tails.clone(),
                max_rows,
            };
            line.former.ceilings.iter().map(report).collect::<Vec<_>>()
        };
        self.health.ceilings.send_replace(lines.values().flat_map(of).collect());
    }

    /// Gives every idle engine a batch while there are due ones, and those that are busy full ones to go on with: what waits
    /// for no engine may still grow, but a full batch cannot. Returns when to look again at the latest.
    async fn dispatch(&self, lines: &mut Lines) -> Option<Instant> {
        let now = Instant::now();
        let mut wake = None;
        let mut is_raised = false;
        for (model, line) in lines.values_mut() {
            is_raised |= line.former.ceilings.raise(now);
            let engines = line.engines.len();
            // Of jobs that expire here, what they waited with counts: they were too many.
            let before = line.former.next_deadline().is_some_and(|deadline| deadline <= now);
            let before = before.then(|| line.former.backlog(engines, now));
            for (mut job, deadline) in line.former.take_expired(now) {
                let lane = job.envelope.origin.consumer.lane as usize;
                before.iter().for_each(|backlog| job.envelope.ticket.leave(backlog[lane]));
                // A closed channel means that publish is gone: the outcome is dropped and its job given back.
                drop(self.outcomes.send(vec![Outcome::expired(job.envelope, deadline, now)]).await);
            }
            loop {
                let free = line.engines.values_mut().filter(|slot| line.former.pace.gives_more(&slot.given));
                let Some(slot) = free.min_by_key(|slot| slot.given.len()) else { break };
                let closed = if slot.given.is_empty() { line.former.take(now) } else { line.former.take_full(now) };
                let Some(Closed { key: tails, mut jobs, reason, most }) = closed else { break };
                let length = jobs.iter().map(|job| model.padded_length(job.part.length)).max().unwrap_or(0);
                let tails = model.signature.at_length(&tails, length);
                let backlog = line.former.backlog(engines, now);
                let seal = seal(&mut jobs, model, (&tails, length), (most, backlog), (now, reason));
                let batch = Batch { model: Arc::clone(model), tails, length, jobs, seal };
                self.counters.inc(Count::Batches);
                if batch.jobs.iter().any(|job| job.is_suspect) {
                    self.counters.inc(Count::SoloRuns);
                }
                self.counters.add(Count::BatchJobs, batch.jobs.len() as u64);
                self.counters.add(Count::BatchRows, batch.rows() as u64);
                slot.given.push_back(line.former.pace.expected(batch.elements()));
                // A failed send means that the instance died, which ends the process; the batch is dropped, which gives
                // its jobs back.
                drop(slot.batches.send(batch));
            }
            // Without an idle engine the next batch waits for one, not for a time; deadlines pass all the same.
            let is_any_idle = line.engines.values().any(|slot| slot.given.is_empty());
            let next = if is_any_idle { line.former.next_wake(now) } else { line.former.next_deadline() };
            wake = [wake, next].into_iter().flatten().min();
        }
        if is_raised {
            self.report_ceilings(lines);
        }
        wake
    }

    fn report(&self, lines: &Lines) {
        for (lane, queued) in self.health.queued.iter().enumerate() {
            let mut sum = 0;
            for (model, line) in lines.values() {
                let waiting = line.former.waiting()[lane];
                model.meters.queued[lane].store(waiting, Ordering::Relaxed);
                sum += waiting;
            }
            queued.store(sum, Ordering::Relaxed);
        }
    }
}

/// The order of suspects: as good as random, and another one with every process. Should one of them kill every worker that
/// runs it, the others do not wait behind it each time.
fn rank(origin: &Origin) -> u64 {
    // The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    let mut x = origin.sequence ^ u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(wake) => sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
