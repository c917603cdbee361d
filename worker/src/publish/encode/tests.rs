//! How often a small job allocates on its way through the worker's own code, and how many instructions it takes there: numbers that no
//! machine's noise blurs. Not counted are the client's, before and behind, and the channels'.

use std::sync::Arc;

use allocation_counter::measure;
use gristmill_engine::{Dtype, HostTensor, Rows, Share, Split};
use gristmill_schemas::{Datatype, JobBody, Namespace, Parameters, Shape, Tensor, header};
use gristmill_steps::count;
use gristmill_telemetry::Propagation;
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::{From, Message, Names};
use crate::decode::Decoder;
use crate::decode::testing::decoder;
use crate::message::testing::{delivery, served};
use crate::message::{Delivery, Envelope, Served};
use crate::publish::heads::Heads;
use crate::route::{Routed, Routes};
use crate::ticket::Notice;

/// From a delivery to a job in its model's queue.
const IN: u64 = 9;

/// From rows to a message for the client.
const OUT: u64 = 6;

fn body() -> Vec<u8> {
    let shape = Shape::try_new(&[1, 64]).unwrap();
    let x = Tensor { name: "x", datatype: Datatype::Fp32, shape, data: vec![0; 256].into() };
    JobBody { id: None, inputs: vec![x], outputs: None }.encode()
}

fn names() -> Names {
    Names {
        namespace: Namespace::default(),
        worker: "worker".into(),
        jobs: "INFER_JOBS".into(),
        results: "INFER_RESULTS".into(),
        dlq: "INFER_DLQ".into(),
        propagation: Propagation { trace_context: true, baggage: true },
    }
}

/// What a small job meets on its way.
struct Way {
    decoder: Decoder,
    routes: Routes,
    names: Names,
    model: Arc<Served>,
    heads: Heads,
}

impl Way {
    /// One job has gone it: the first of a model makes what the others share.
    fn new() -> Self {
        let (decoder, names, model) = (decoder(), names(), served());
        let routes = Routes { models: [("m".parse().unwrap(), vec![Arc::clone(&model)])].into_iter().collect() };
        let mut way = Self { decoder, routes, names, model, heads: Heads::default() };
        let (delivery, _inbox) = small();
        let routed = way.take_in(delivery);
        way.send(&routed.job.envelope, &rows());
        way
    }

    fn take_in(&self, delivery: Delivery) -> Routed {
        let job = self.decoder.decode(delivery, OffsetDateTime::UNIX_EPOCH).unwrap();
        self.routes.route(job).ok().unwrap()
    }

    fn send(&mut self, envelope: &Envelope, rows: &Rows) -> Message {
        let from = From { envelope, context: envelope.trace.context, passes_on: envelope.passes_on };
        let head = self.heads.of(&self.names, &self.model, &envelope.reply);
        self.names.result(from, (&self.model, head), rows, Parameters::default())
    }
}

fn small() -> (Delivery, mpsc::Receiver<Vec<Notice>>) {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    delivery(body(), &[(header::MSG_ID, "7"), (header::JOB_ID, "7"), (header::TRACEPARENT, trace)])
}

fn rows() -> Rows {
    let output = HostTensor { dtype: Dtype::F32, shape: vec![1, 10], data: vec![0; 40] };
    Split::new(&served().signature.outputs, vec![output], None, |_| true).next(Share {
        rows: 1,
        length: 1,
        wanted: None,
    })
}

#[test]
fn a_small_job_allocates_no_more_than_it_did() {
    let ((delivery, _inbox), mut way) = (small(), Way::new());
    let mut routed = None;
    let taken_in = measure(|| routed = Some(way.take_in(delivery)));
    let (envelope, rows) = (routed.unwrap().job.envelope, rows());
    let sent = measure(|| drop(way.send(&envelope, &rows)));
    assert_eq!((taken_in.count_total, sent.count_total), (IN, OUT), "in, out");
}

#[test]
fn a_small_job_takes_no_more_instructions_than_it_did() {
    let test = "publish::encode::tests::a_small_job_takes_no_more_instructions_than_it_did";
    let ((delivery, _inbox), mut way) = (small(), Way::new());
    let routed = count(test, "decode and route", || way.take_in(delivery)).about(6799);
    let (envelope, rows) = (routed.job.envelope, rows());
    count(test, "encode", || way.send(&envelope, &rows)).about(4485);
}
