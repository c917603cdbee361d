//! Jobs that were on their way to a worker when it died: sent by the server, in no ledger yet.

use std::collections::{HashMap, HashSet};

use async_nats::jetstream::Context;
use gristmill_ledger::{Bookmark, Found, Ledger, Reached, Slot};

use super::left::Claim;

/// Between two jobs on their way to one worker there may lie as many, less one, of other consumers and other workers.
const SPREAD: usize = 8;

/// An ack subject, taken apart. Its last tokens are: deliveries, stream sequence, consumer sequence, time, jobs pending.
struct Ack<'a> {
    /// Up to the consumer's name.
    head: &'a str,
    stream: &'a str,
    consumer: &'a str,
    time: &'a str,
}

/// What a consumer has delivered so far.
struct Delivered {
    sequence: u64,
    consumer_sequence: u64,
    /// Not answered yet.
    open: usize,
}

/// Jobs that may have been on their way are entered in the ledger and given back.
///
/// They are those that a consumer has delivered beyond the dead worker's bookmark, some [`SPREAD`] times as many as that had asked
/// for at most. The server ignores an answer to what is not open. What another worker holds is delivered a second time,
/// and its second result is dropped as a duplicate: the price of nobody waiting for ack_wait.
///
/// Returns them and, by consumer, the bookmarks, which are beyond them now.
pub(super) async fn recall(
    claim: &Claim<'_>,
    ledger: &mut Ledger,
    (found, mut reached): (&[Found], Vec<Reached>),
    asked: u64,
) -> (Vec<(u64, Slot)>, HashMap<String, Bookmark>) {
    let held: HashSet<u64> = found.iter().map(|found| found.sequence).collect();
    let most = usize::try_from(asked).unwrap_or(0) * SPREAD;
    let (mut returned, mut bookmarks) = (Vec::new(), HashMap::new());
    // Of several that dead workers of one consumer left, the first covers the others.
    reached.sort_by_key(|reached| reached.bookmark.sequence());
    for Reached { ack: furthest, mut bookmark } in reached {
        let Some(ack) = Ack::parse(&furthest).filter(|ack| !bookmarks.contains_key(ack.consumer)) else {
            bookmark.clear();
            continue;
        };
        match delivered(claim.context, &ack).await {
            Ok(delivered) => {
                let held_here = found.iter().filter(|found| ack.is_of_same(&found.ack)).count();
                let sequences = on_the_way(bookmark.sequence(), &delivered, &held, held_here, most);
                let acks: Vec<_> = sequences.iter().map(|sequence| ack.of(*sequence, &delivered)).collect();
                for (sequence, ack) in sequences.iter().zip(&acks) {
                    returned.extend(ledger.open(*sequence, ack).map(|slot| (*sequence, slot)));
                }
                bookmark.set(delivered.sequence, &ack.of(delivered.sequence, &delivered));
                for ack in acks {
                    claim.give_back(ack).await;
                }
            }
            Err(error) => tracing::warn!(%error, consumer = ack.consumer, "jobs on their way may wait for ack_wait"),
        }
        bookmarks.insert(ack.consumer.to_owned(), bookmark);
    }
    (returned, bookmarks)
}

/// The sequences of the jobs that may have been on their way.
fn on_the_way(reached: u64, delivered: &Delivered, held: &HashSet<u64>, held_here: usize, most: usize) -> Vec<u64> {
    if delivered.open <= held_here {
        return Vec::new();
    }
    (reached + 1..=delivered.sequence).take(most).filter(|sequence| !held.contains(sequence)).collect()
}

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn delivered(context: &Context, ack: &Ack<'_>) -> Result<Delivered, Error> {
    let info = context.get_stream_no_info(ack.stream).await?.consumer_info(ack.consumer).await?;
    let (sequence, consumer_sequence) = (info.delivered.stream_sequence, info.delivered.consumer_sequence);
    Ok(Delivered { sequence, consumer_sequence, open: info.num_ack_pending })
}

impl<'a> Ack<'a> {
    fn parse(ack: &'a str) -> Option<Self> {
        let mut tokens = ack.rsplitn(6, '.');
        let (_pending, time, _, _, _) =
            (tokens.next()?, tokens.next()?, tokens.next()?, tokens.next()?, tokens.next()?);
        let head = tokens.next()?;
        let mut names = head.rsplit('.');
        let (consumer, stream) = (names.next()?, names.next()?);
        Some(Self { head, stream, consumer, time })
    }

    fn is_of_same(&self, other: &str) -> bool {
        Ack::parse(other).is_some_and(|other| other.consumer == self.consumer)
    }

    /// The same consumer's, for another job. The server wants a consumer sequence that it has given out, no more.
    fn of(&self, sequence: u64, Delivered { consumer_sequence, .. }: &Delivered) -> String {
        format!("{}.1.{sequence}.{consumer_sequence}.{}.0", self.head, self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ack_subject_of_either_form_is_made_anothers() {
        let plain = "$JS.ACK.INFER_JOBS.mlp-online.1.7.9.1700000000000000000.3";
        let ack = Ack::parse(plain).unwrap();
        assert_eq!((ack.stream, ack.consumer), ("INFER_JOBS", "mlp-online"));
        let delivered = Delivered { sequence: 8, consumer_sequence: 10, open: 1 };
        assert_eq!(ack.of(8, &delivered), "$JS.ACK.INFER_JOBS.mlp-online.1.8.10.1700000000000000000.0");
        assert!(ack.is_of_same(&ack.of(8, &delivered)) && !ack.is_of_same("$JS.ACK.INFER_JOBS.mlp-bulk.1.7.9.17.3"));
        let domain = Ack::parse("$JS.ACK.hub.acc.INFER_JOBS.mlp-online.1.7.9.17.3.rnd").map(|ack| ack.head.to_owned());
        assert!(domain.is_some() && Ack::parse("$JS.ACK.x").is_none());
    }

    /// Jobs up to 500 were entered and answered, but for two; 501 to 540 were sent.
    #[test]
    fn on_the_way_is_what_lies_beyond_the_bookmark_however_old_the_jobs_that_are_held() {
        let delivered = |open| Delivered { sequence: 540, consumer_sequence: 700, open };
        let held = HashSet::from([3, 77]);
        assert_eq!(on_the_way(500, &delivered(42), &held, 2, 1000), (501..=540).collect::<Vec<_>>());
        assert_eq!(
            on_the_way(500, &delivered(42), &held, 2, 8),
            (501..=508).collect::<Vec<_>>(),
            "no more than may be"
        );
        assert_eq!(on_the_way(500, &delivered(42), &HashSet::from([3, 502]), 2, 3), [501, 503]);
        assert!(on_the_way(500, &delivered(2), &held, 2, 1000).is_empty(), "all that is open is held");
        assert!(on_the_way(540, &delivered(42), &held, 2, 1000).is_empty());
    }
}
