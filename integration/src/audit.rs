use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::PullConsumer;
use gristmill_schemas::header;

use crate::jobs::{Answer, Jobs, f32s};
use crate::paths::samples;

/// Longest time without any progress. Longer than a worker and a broker need together to come back from anything.
const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks. Looking costs, too.
const POLL: Duration = Duration::from_millis(50);

/// PyTorch's rows for the test model `mlp`: job `n` is row `n`, over again beyond the last.
pub struct Mlp {
    x: Vec<f32>,
    y: Vec<f32>,
}

/// What the results stream holds, after it was found to hold a good result for every job.
#[derive(Debug)]
pub struct Audit {
    /// Results stored.
    pub results: u64,
    /// Jobs with more than one result, each result from a stored job of its own: the job was submitted, taken for lost and
    /// submitted again when its dedup id was gone. By job, how many results.
    pub stored_twice: BTreeMap<usize, u32>,
}

impl Mlp {
    /// Reads them.
    pub fn load() -> Self {
        Self { x: samples("x"), y: samples("y") }
    }

    /// A job: id and body.
    pub fn job(&self, id: usize) -> (String, Vec<u8>) {
        (id.to_string(), Jobs::body("x", &[1, 64], row(&self.x, id, 64)))
    }

    /// Compares a result with PyTorch's.
    ///
    /// # Panics
    /// If they differ.
    pub fn check(&self, id: usize, answer: &Answer) {
        for (got, want) in f32s(&answer.ok(), "y").iter().zip(row(&self.y, id, 10)) {
            assert!((got - want).abs() <= 1e-5, "job {id}: {got} instead of {want}");
        }
    }
}

fn row(values: &[f32], id: usize, width: usize) -> &[f32] {
    let rows = values.len() / width;
    &values[id % rows * width..][..width]
}

impl Jobs {
    /// Waits until no job is left in the stream, however often the broker goes away meanwhile.
    ///
    /// # Panics
    /// If nothing changes any more.
    pub async fn drained(&self) {
        let (mut last, mut changed) = (None, Instant::now());
        loop {
            let left = self.count("INFER_JOBS").await;
            if left == Some(0) {
                return;
            }
            if left.is_some() && left != last {
                (last, changed) = (left, Instant::now());
            }
            assert!(changed.elapsed() < PATIENCE, "{left:?} jobs have been left for {PATIENCE:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the results stream holds this many.
    ///
    /// # Panics
    /// If nothing changes any more.
    pub async fn until_stored(&self, count: u64) {
        let (mut last, mut changed) = (None, Instant::now());
        loop {
            let stored = self.count("INFER_RESULTS").await;
            if stored.is_some_and(|stored| stored >= count) {
                return;
            }
            if stored.is_some() && stored != last {
                (last, changed) = (stored, Instant::now());
            }
            assert!(changed.elapsed() < PATIENCE, "{stored:?} of {count} results have been there for {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Messages in a stream; `None` where nobody knows at present.
    pub async fn count(&self, stream: &str) -> Option<u64> {
        Some(self.context.get_stream(stream).await.ok()?.cached_info().state.messages)
    }

    /// Deliveries of a model's jobs so far, both lanes together: beyond the number of jobs, they are redeliveries.
    ///
    /// # Panics
    /// If the model has no consumers.
    pub async fn deliveries(&self, model: &str) -> u64 {
        let stream = self.stream("INFER_JOBS").await;
        let mut sum = 0;
        for lane in ["online", "bulk"] {
            let consumer: PullConsumer = stream.get_consumer(&format!("{model}-{lane}")).await.expect("it is there");
            sum += consumer.cached_info().delivered.consumer_sequence;
        }
        sum
    }

    /// Waits until every job is settled, then reads every stored result: jobs `0..count` have each a good one, nobody
    /// else has, none is a dead letter, and no stored job has two. `check` sees each result.
    ///
    /// # Panics
    /// If that is not so.
    pub async fn audit(&self, count: usize, check: impl Fn(usize, &Answer)) -> Audit {
        self.drained().await;
        let stored = self.stored_count("INFER_RESULTS").await;
        let (mut found, mut dedup_ids) = (vec![0u32; count], HashSet::new());
        self.read("INFER_RESULTS", usize::try_from(stored).expect("a test is small"), |answer| {
            let id: usize = answer.id().parse().expect("ids are numbers");
            assert_eq!(answer.header(header::STATUS), "ok", "job {id}: {}", answer.header(header::ERROR_CODE));
            let is_new = dedup_ids.insert(answer.header("Nats-Msg-Id").to_owned());
            assert!(is_new, "job {id}: a second result was stored for the same stored job");
            check(id, &answer);
            *found.get_mut(id).unwrap_or_else(|| panic!("nobody submitted job {id}")) += 1;
        })
        .await;
        let lost: Vec<usize> = (0..count).filter(|&id| found[id] == 0).collect();
        assert!(lost.is_empty(), "{} jobs have no result, the first: {:?}", lost.len(), &lost[..lost.len().min(10)]);
        assert_eq!(self.stored_count("INFER_DLQ").await, 0, "there are dead letters");
        let stored_twice = found.into_iter().enumerate().filter(|(_, times)| *times > 1).collect();
        Audit { results: stored, stored_twice }
    }

    /// As [`Self::audit`], where every job was stored once, so that there are exactly as many results.
    ///
    /// # Panics
    /// If that is not so.
    pub async fn assert_exactly_once(&self, count: usize, check: impl Fn(usize, &Answer)) {
        let audit = self.audit(count, check).await;
        assert_eq!((audit.results, audit.stored_twice.len()), (count as u64, 0), "{:?}", audit.stored_twice);
    }
}
