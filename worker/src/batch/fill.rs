//! Which of the waiting jobs of a shape make up the next batch. Pure.
//!
//! The job that has waited longest comes first, so that none starves. Where jobs have different lengths, those of the nearest
//! lengths join it, the cheapest first, as long as there is room and the batch is not mostly filling: a backlog is cut into
//! batches of neighbours, much as if it had been sorted.

use gristmill_schemas::Lane;

use super::former::{Facts, Limits};
use super::queue::{Jobs, Queue, Waiting};

/// Filling may be one part in this many of a batch.
const FILLING: usize = 10;

/// Takes the next batch out of a queue. `worth`: filling of this many elements costs no more than another run does.
pub(super) fn fill<J>(queue: &mut Queue<J>, limits: &Limits, order: [Lane; 2], worth: usize) -> Vec<Waiting<J>> {
    let mut room = Room { limits: *limits, worth, rows: 0, length: 0, step: 0, fixed: 0, real: 0 };
    // As many as there may be if they are all alike.
    let elements = (queue.elements() / queue.jobs().max(1)).max(1);
    let most = limits.max_rows.min(limits.max_elements / elements);
    let mut taken = Vec::with_capacity(queue.jobs().min(most));
    for lane in order {
        room.limits.max_elements = limits.most_elements(lane);
        let jobs = &mut queue.lanes[lane as usize];
        while let Some(length) = next(jobs, &room) {
            // Behind it those of the batch's own length: nothing has to be filled in for them, so none is cheaper.
            let mut is_found = true;
            jobs.take(length, &mut taken, |facts| {
                let joins = std::mem::take(&mut is_found) || (length == room.length && room.fits(facts));
                if joins {
                    room.admit(facts);
                }
                joins
            });
        }
    }
    taken.iter().for_each(|waiting| queue.remove(&waiting.facts));
    taken
}

/// The length whose first job joins the batch next, if one does.
fn next<J>(jobs: &Jobs<J>, room: &Room) -> Option<usize> {
    if room.is_empty() {
        return jobs.oldest().map(|(length, _)| length);
    }
    let around = jobs.around(room.length).into_iter().flatten();
    let fitting = around.filter_map(|length| {
        let (first, count) = jobs.first(length)?;
        room.fits(&first.facts).then(|| (room.price(&first.facts, count), length))
    });
    fitting.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, length)| length)
}

/// A batch that is being filled.
struct Room {
    limits: Limits,
    worth: usize,
    rows: usize,
    /// Of its longest job.
    length: usize,
    /// Of the largest input that is filled up, elements of all jobs for each step of length.
    step: usize,
    /// Of the largest other input, elements of all jobs.
    fixed: usize,
    /// Of the largest input that is filled up, elements that came from jobs.
    real: usize,
}

impl Room {
    fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Elements with those that are filled in, if this job joined.
    fn padded(&self, facts: &Facts) -> usize {
        self.step.saturating_add(facts.step).saturating_mul(self.length.max(facts.length))
    }

    fn fits(&self, facts: &Facts) -> bool {
        let padded = self.padded(facts);
        let filling = padded - self.real.saturating_add(real(facts)).min(padded);
        self.rows + facts.rows <= self.limits.max_rows
            && padded.max(self.fixed.saturating_add(facts.fixed)) <= self.limits.max_elements
            && filling <= self.worth.max(padded / FILLING)
    }

    /// What has to be filled in for each row that joins, when all of this length do that fit. A longer job lengthens those that
    /// are in already, which the jobs of its length share the price of.
    fn price(&self, facts: &Facts, count: usize) -> f64 {
        if facts.length <= self.length {
            return (self.length - facts.length) as f64;
        }
        let rows = count.saturating_mul(facts.rows).min(self.limits.max_rows - self.rows).max(1);
        (self.rows * (facts.length - self.length)) as f64 / rows as f64
    }

    /// Takes a job's share. The first job is always admitted: route has checked it alone.
    fn admit(&mut self, facts: &Facts) {
        self.rows += facts.rows;
        self.length = self.length.max(facts.length);
        self.step = self.step.saturating_add(facts.step);
        self.fixed = self.fixed.saturating_add(facts.fixed);
        self.real = self.real.saturating_add(real(facts));
    }
}

fn real(facts: &Facts) -> usize {
    facts.step.saturating_mul(facts.length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const LIMITS: Limits = Limits {
        max_rows: 32,
        max_elements: usize::MAX,
        bulk_elements: usize::MAX,
        max_delay: std::time::Duration::ZERO,
        target: None,
    };

    fn facts(length: usize) -> Facts {
        let (lane, deadline, suspect) = (Lane::Online, None, None);
        Facts { lane, rows: 1, length, step: 1, fixed: 0, deadline, is_last: false, suspect }
    }

    fn queue(lengths: impl IntoIterator<Item = usize>) -> Queue<usize> {
        let (mut queue, mut since) = (Queue::default(), Instant::now());
        for length in lengths {
            queue.push(Waiting { job: length, facts: facts(length), since });
            since += std::time::Duration::from_micros(1);
        }
        queue
    }

    fn take(queue: &mut Queue<usize>, limits: &Limits, worth: usize) -> Vec<usize> {
        fill(queue, limits, Lane::ALL, worth).into_iter().map(|waiting| waiting.job).collect()
    }

    #[test]
    fn a_backlog_of_many_lengths_is_cut_into_batches_of_neighbours() {
        let mut random = fastrand::Rng::with_seed(1);
        // About log-normal, 4 to 128.
        let length = |random: &mut fastrand::Rng| {
            let normal: f64 = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
            (3.4 + 0.6 * normal).exp().clamp(4.0, 128.0) as usize
        };
        let mut queue = queue(std::iter::repeat_with(|| length(&mut random)).take(2048));
        let (mut real, mut padded, mut batches) = (0, 0, 0);
        while queue.rows() > 1024 {
            let batch = take(&mut queue, &LIMITS, 0);
            real += batch.iter().sum::<usize>();
            padded += batch.len() * batch.iter().max().unwrap();
            batches += 1;
        }
        assert!(padded - real < padded / 25, "{padded} elements for {real}");
        assert!(batches <= 36, "{batches} batches for 1024 rows: most are full");
    }

    #[test]
    fn the_oldest_comes_first_and_far_lengths_stay_behind() {
        let mut queue = queue([50, 128, 49, 4, 52, 51]);
        let batch = take(&mut queue, &LIMITS, 0);
        assert_eq!((batch[0], batch.len(), queue.rows()), (50, 4, 2), "{batch:?}");
        assert!([49, 51, 52].iter().all(|length| batch.contains(length)), "{batch:?}");
        assert_eq!(take(&mut queue, &LIMITS, 0), [128]);
        assert_eq!(take(&mut queue, &LIMITS, 0), [4]);
    }

    #[test]
    fn where_a_run_is_dear_more_is_filled_up() {
        let mut queue = queue([50, 128, 4]);
        assert_eq!(take(&mut queue, &LIMITS, 46), [50, 4]);
        assert_eq!(take(&mut queue, &LIMITS, 46), [128]);
    }

    #[test]
    fn what_is_filled_in_counts_as_elements() {
        let mut queue = queue([10, 10, 11, 11]);
        let limits = Limits { max_elements: 32, ..LIMITS };
        assert_eq!(take(&mut queue, &limits, 100), [10, 10], "three of 11 are 33");
    }

    #[test]
    fn an_input_that_is_not_filled_up_counts_as_it_is() {
        let (mut queue, since) = (Queue::default(), Instant::now());
        let features = |length| Facts { fixed: 2048, ..facts(length) };
        [16, 77, 60].into_iter().for_each(|job| queue.push(Waiting { job, facts: features(job), since }));
        let limits = Limits { max_elements: 3 * 2048, ..LIMITS };
        assert_eq!(take(&mut queue, &limits, 1000).len(), 3);
    }

    #[test]
    fn bulk_jobs_have_a_limit_of_their_own_and_online_jobs_none_of_theirs() {
        let mut queue = queue([10; 8]);
        let bulk = Facts { lane: Lane::Bulk, ..facts(10) };
        (0..8).for_each(|_| queue.push(Waiting { job: 10, facts: bulk, since: Instant::now() }));
        let limits = Limits { bulk_elements: 40, ..LIMITS };
        let lanes = |batch: Vec<Waiting<usize>>| {
            Lane::ALL.map(|lane| batch.iter().filter(|waiting| waiting.facts.lane == lane).count())
        };
        let mut take = |order| lanes(fill(&mut queue, &limits, order, 0));
        assert_eq!(take([Lane::Bulk, Lane::Online]), [8, 4], "online jobs do not wait for their turn behind it");
        assert_eq!(take(Lane::ALL), [0, 4]);
    }
}
