//! Jobs of different lengths in one batch: filled up, masked, and cut back to what each asked for.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use gristmill_integration::{Jobs, Nats, WorkerBuilder};
use gristmill_schemas::{Datatype, ErrorCode, JobBody, ResultBody, Shape, Tensor};

const JOBS: usize = 400;

/// A job for the models `tokens` and `bucketed`.
struct Sequences {
    rows: usize,
    length: usize,
    ids: Vec<i64>,
    /// What the sender says is real; `None` leaves that to the worker.
    mask: Option<Vec<bool>>,
}

impl Sequences {
    fn random(index: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(index as u64);
        let (rows, length) = (random.usize(1..4), random.usize(1..48));
        let ids = (0..rows * length).map(|_| random.i64(1..1000)).collect();
        let mask = index.is_multiple_of(4).then(|| (0..rows * length).map(|_| random.bool()).collect());
        Self { rows, length, ids, mask }
    }

    fn body(&self) -> Vec<u8> {
        let shape = Shape::try_new(&[self.rows, self.length]).unwrap();
        let ids: Vec<u8> = self.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let mut inputs = vec![Tensor { name: "ids", datatype: Datatype::Int64, shape, data: ids.into() }];
        if let Some(mask) = &self.mask {
            let data = mask.iter().map(|is_real| u8::from(*is_real)).collect::<Vec<u8>>().into();
            inputs.push(Tensor { name: "mask", datatype: Datatype::Bool, shape, data });
        }
        JobBody { id: None, inputs, outputs: None }.encode()
    }

    /// Checks a result against what the model would give for this job alone. Returns the length it was filled up to.
    fn check(&self, result: &ResultBody<'_>) -> usize {
        let (mut sums, mut lengths, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..self.rows {
            let at = row * self.length..(row + 1) * self.length;
            let is_real = |index: &usize| self.mask.as_ref().is_none_or(|mask| mask[*index]);
            let real: Vec<i64> = at.map(|index| if is_real(&index) { self.ids[index] } else { 0 }).collect();
            let mut rest: i64 = real.iter().sum();
            sums.push(rest);
            lengths.push(real.iter().filter(|id| **id != 0).count() as i64);
            left.extend(real.iter().map(|id| {
                rest -= id;
                rest
            }));
        }
        assert_eq!(values(result, "sum"), (vec![self.rows], sums));
        assert_eq!(values(result, "length"), (vec![self.rows], lengths));
        assert_eq!(values(result, "left"), (vec![self.rows, self.length], left), "cut back to the job's own length");
        let (_, padded) = values(result, "batch_length");
        padded[0] as usize
    }
}

fn values(result: &ResultBody<'_>, name: &str) -> (Vec<usize>, Vec<i64>) {
    let output = result.outputs.iter().find(|output| output.name == name).unwrap();
    let values = output.data.chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()));
    (output.shape.to_vec(), values.collect())
}

async fn answered(model: &str) -> (Vec<(usize, usize)>, f64) {
    let nats = Nats::start();
    let worker = WorkerBuilder::new(&nats, &[model]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let bodies = (0..JOBS).map(|index| (index.to_string(), Sequences::random(index).body()));
    jobs.submit_all(&format!("infer.jobs.{model}.online"), bodies).await;
    let mut lengths = Vec::new();
    for answer in jobs.results(JOBS).await {
        let sequences = Sequences::random(answer.id().parse().unwrap());
        lengths.push((sequences.length, sequences.check(&answer.ok())));
    }
    jobs.settled().await;
    let elements = |kind| worker.metric("gristmill_batch_elements", kind);
    let real: usize = (0..JOBS).map(Sequences::random).map(|job| 2 * job.rows * job.length).sum();
    assert_eq!(elements("\"real\""), real as f64, "ids and mask");
    (lengths, elements("\"padding\""))
}

#[tokio::test]
async fn jobs_of_different_lengths_share_a_batch_and_none_sees_what_was_filled_in() {
    let (lengths, padding) = answered("tokens").await;
    assert!(lengths.iter().all(|(own, padded)| padded >= own));
    let filled = lengths.iter().filter(|(own, padded)| padded > own).count();
    assert!(filled > JOBS / 10 && padding > 0.0, "{filled} jobs were filled up, {padding} elements");
}

#[tokio::test]
async fn a_batch_has_the_length_of_a_bucket() {
    let (lengths, _) = answered("bucketed").await;
    for &(own, padded) in &lengths {
        let is_above = lengths.iter().any(|(other, _)| *other == padded && padded > 32);
        assert!(padded >= own && (padded == 8 || padded == 32 || is_above), "{own} in a batch of {padded}");
    }
    assert!([8, 32].iter().all(|bucket| lengths.iter().any(|(_, padded)| padded == bucket)));
}

#[tokio::test]
async fn inputs_of_different_lengths_in_one_job_are_refused() {
    let nats = Nats::start();
    let _worker = WorkerBuilder::new(&nats, &["tokens"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let tensor = |name, datatype, length, bytes: usize| {
        let shape = Shape::try_new(&[1, length]).unwrap();
        Tensor { name, datatype, shape, data: vec![1; bytes].into() }
    };
    let inputs = vec![tensor("ids", Datatype::Int64, 5, 40), tensor("mask", Datatype::Bool, 4, 4)];
    jobs.submit("tokens", "odd", JobBody { id: None, inputs, outputs: None }.encode(), &[]).await;
    let answers = jobs.results(1).await;
    let error = answers[0].error();
    let says = "input \"mask\" has length 4, input \"ids\" has 5; they have to agree";
    assert_eq!((error.code, error.message), (ErrorCode::InvalidInput, says));
}
