//! How often a small job allocates on its way through the worker's own code: a number that no machine's noise blurs. Not counted are
//! the client's, before and behind, and the channels'.

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use bytes::Bytes;
use gristmill_engine::{Dtype, InputSpec, OutputSpec, RowSlice, Signature};
use gristmill_schemas::{Datatype, JobBody, Namespace, Parameters, Shape, Tensor, header};
use gristmill_telemetry::Propagation;
use time::OffsetDateTime;

use super::{From, Heads, Names};
use crate::decode::testing::decoder;
use crate::message::Served;
use crate::message::testing::{delivery, meters};
use crate::route::Routes;

/// From a delivery to a job in its model's queue.
const IN: u64 = 10;

/// From rows to a message for the client.
const OUT: u64 = 23;

fn served() -> Arc<Served> {
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

#[test]
fn a_small_job_allocates_no_more_than_it_did() {
    let (decoder, names, model) = (decoder(), names(), served());
    let routes = Routes { models: [("m".parse().unwrap(), vec![Arc::clone(&model)])].into() };
    let mut heads = Heads::default();
    // The first of a model makes what the others share.
    for is_first in [true, false] {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let headers = [(header::MSG_ID, "7"), (header::JOB_ID, "7"), (header::TRACEPARENT, trace)];
        let (delivery, _inbox) = delivery(body(), &headers);
        let now = OffsetDateTime::now_utc();
        let mut job = None;
        let taken_in = measure(|| job = decoder.decode(delivery, now).ok().and_then(|job| routes.route(job).ok()));
        let envelope = job.unwrap().job.envelope;
        let rows =
            RowSlice { output: 0, dtype: Dtype::F32, rows: 1, tail: [10].into(), data: Bytes::from(vec![0; 40]) };
        let sent = measure(|| {
            let from = From { envelope: &envelope, context: envelope.trace.context };
            let head = heads.of(&names, &model, &envelope.reply);
            drop(names.result(from, (&model, head), &[rows], Parameters::default()));
        });
        if !is_first {
            assert_eq!((taken_in.count_total, sent.count_total), (IN, OUT), "in, out");
        }
    }
}
