//! Deliveries for the tests of the stages, with what the settle task would hear of them.

use super::*;
use crate::ticket::Notice;
use gristmill_engine::{Dtype, InputSpec, OutputSpec};
use tokio::sync::mpsc;

/// A delivery of `payload` on the online lane of model `m`, stored just now.
pub(crate) fn delivery(payload: Vec<u8>, headers: &[(&str, &str)]) -> (Delivery, mpsc::Receiver<Vec<Notice>>) {
    let (notices, inbox) = mpsc::channel(4);
    let mut map = HeaderMap::new();
    headers.iter().for_each(|(name, value)| map.insert(*name, *value));
    let model: Token = "m".parse().unwrap();
    let consumer = Arc::new(Consumer { model, lane: Lane::Online, name: "m-online".into() });
    let origin = Origin {
        subject: "infer.jobs.m.online".into(),
        headers: Some(map),
        payload: payload.into(),
        consumer,
        sequence: 7,
        published: OffsetDateTime::now_utc(),
        deliveries: 1,
        pending: 0,
        received: Instant::now(),
        suspicion: Suspicion::ByDeliveries,
    };
    (Delivery { ticket: Ticket::new(7, None, notices), origin }, inbox)
}

/// An envelope around such a delivery. Nobody hears of its end.
pub(crate) fn envelope(id: &str) -> Box<Envelope> {
    let Delivery { ticket, origin } = delivery(vec![], &[]).0;
    let context = TraceContext { trace_id: [1; 16], span_id: [1; 8], flags: 0 };
    let trace = Trace { context, parent: None, is_recorded: false };
    let (id, reply, in_stream) = (id.to_owned(), "all".parse().unwrap(), Duration::ZERO);
    let marks = Marks { decoded: origin.received, queued: None, sealed: None, ran: None };
    Box::new(Envelope { ticket, origin, id, reply, no_dead_letter: false, passes_on: true, trace, in_stream, marks })
}

/// The seal of a batch of so many jobs.
pub(crate) fn seal(jobs: usize) -> Arc<Seal> {
    let (at, reason) = (Instant::now(), CloseReason::Idle);
    Arc::new(Seal { at, first_queued: at, reason, jobs, rows: jobs, trace: None, links: Vec::new() })
}

/// Instruments of a model that measure nothing.
pub(crate) fn meters() -> Arc<ModelMeters> {
    let (name, version) = ("m".parse().unwrap(), "1".parse().unwrap());
    crate::telemetry::Meters::off().model(&name, &version, "", "cpu", 64)
}

/// The model `m`: 64 numbers in, ten out.
pub(crate) fn served() -> Arc<Served> {
    let x = InputSpec {
        name: "x".into(),
        dtype: Dtype::F32,
        dims: vec![Some(64)],
        range: None,
        example: vec![64],
        pad: None,
    };
    let y = OutputSpec { name: "y".into(), dtype: Dtype::F32, dims: vec![Some(10)] };
    Arc::new(Served {
        name: "m".parse().unwrap(),
        version: "1".parse().unwrap(),
        digest: "sha256:0".into(),
        device: "cpu".into(),
        signature: Arc::new(Signature { inputs: vec![x], outputs: vec![y] }),
        max_rows: 256,
        max_elements: 1 << 20,
        max_delay: Duration::ZERO,
        to_knee: false,
        target: None,
        buckets: Vec::new(),
        meters: meters(),
    })
}

/// What a refusal says.
pub(crate) fn refusal(outcome: &Outcome) -> (ErrorCode, &str) {
    match &outcome.answer {
        Answer::Refused { code, message, .. } => (*code, message),
        Answer::Ok { .. } => panic!("{outcome:?}"),
    }
}
