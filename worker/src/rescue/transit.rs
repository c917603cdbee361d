//! Jobs that were on their way to a worker when it died: sent by the server, in no ledger yet.

use std::collections::HashMap;

use async_nats::jetstream::Context;
use gristmill_ledger::Found;

use super::left::Claim;

/// An ack subject, taken apart. Its last tokens are: deliveries, stream sequence, consumer sequence, time, jobs pending.
struct Ack<'a> {
    /// Up to the consumer's name.
    head: &'a str,
    stream: &'a str,
    consumer: &'a str,
    time: &'a str,
}

/// Sequences and ack subjects of the jobs that may have been on their way.
///
/// They are the sequences that a consumer has delivered beyond the last in the ledger, at most as many as it has
/// unanswered besides those, and as the dead worker had asked for. The server ignores an answer to what is not open. What another worker holds is delivered a
/// second time, and its second result is dropped as a duplicate: the price of nobody waiting for ack_wait.
pub(super) async fn in_transit(claim: &Claim<'_>, found: &[Found], asked: u64) -> Vec<(u64, String)> {
    let mut last: HashMap<&str, (u64, usize, Ack<'_>)> = HashMap::new();
    for Found { sequence, ack, .. } in found {
        let Some(parts) = Ack::parse(ack) else { continue };
        let (highest, count, _) = last.entry(parts.consumer).or_insert((0, 0, parts));
        (*highest, *count) = (*sequence.max(highest), *count + 1);
    }
    let mut acks = Vec::new();
    for (highest, count, ack) in last.into_values() {
        match unanswered(claim.context, &ack).await {
            Ok((delivered, consumer_sequence, pending)) => {
                let most = pending.saturating_sub(count).min(usize::try_from(asked).unwrap_or(0));
                let sequences = (highest + 1..=delivered).take(most);
                acks.extend(sequences.map(|sequence| (sequence, ack.of(sequence, consumer_sequence))));
            }
            Err(error) => tracing::warn!(%error, consumer = ack.consumer, "jobs on their way may wait for ack_wait"),
        }
    }
    acks
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Last stream and consumer sequence delivered, and the number of jobs delivered and not answered.
async fn unanswered(context: &Context, ack: &Ack<'_>) -> Result<(u64, u64, usize), Error> {
    let info = context.get_stream_no_info(ack.stream).await?.consumer_info(ack.consumer).await?;
    Ok((info.delivered.stream_sequence, info.delivered.consumer_sequence, info.num_ack_pending))
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

    /// The same consumer's, for another job. The server wants a consumer sequence that it has given out, no more.
    fn of(&self, sequence: u64, consumer_sequence: u64) -> String {
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
        assert_eq!(ack.of(8, 10), "$JS.ACK.INFER_JOBS.mlp-online.1.8.10.1700000000000000000.0");
        let domain = Ack::parse("$JS.ACK.hub.acc.INFER_JOBS.mlp-online.1.7.9.17.3.rnd").map(|ack| ack.head.to_owned());
        assert!(domain.is_some() && Ack::parse("$JS.ACK.x").is_none());
    }
}
