//! The bytes of contract version 1, which both implementations must read and write. See `schemas/golden/README.md`.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::path::Path;

use gristmill_schemas::{Datatype, ErrorCode, JobBody, Reply};

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1").join(name)).unwrap()
}

#[test]
fn every_golden_body_is_written_as_it_was_read() {
    for name in ["job_minimal", "job_full", "job_types"] {
        let bytes = golden(&format!("{name}.msgpack"));
        let job = JobBody::decode(&bytes, bytes.len()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(job.encode(), bytes, "{name}");
    }
    for name in ["result", "error"] {
        let bytes = golden(&format!("{name}.msgpack"));
        let written = match Reply::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}")) {
            Reply::Ok(result) => result.encode(),
            Reply::Error(error) => error.encode(),
        };
        assert_eq!(written, bytes, "{name}");
    }
}

#[test]
fn the_golden_bodies_say_what_they_are_meant_to_say() {
    let bytes = golden("job_minimal.msgpack");
    let job = JobBody::decode(&bytes, bytes.len()).unwrap();
    let input = &job.inputs[0];
    assert_eq!((input.name, input.datatype, &*input.shape), ("x", Datatype::Fp32, &[2usize, 3][..]));
    let values: Vec<f32> = input.data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert_eq!(values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let bytes = golden("job_types.msgpack");
    let job = JobBody::decode(&bytes, bytes.len()).unwrap();
    let datatypes: Vec<Datatype> = job.inputs.iter().map(|input| input.datatype).collect();
    assert_eq!(datatypes, Datatype::ALL);
    let bytes = golden("result.msgpack");
    let Reply::Ok(result) = Reply::decode(&bytes).unwrap() else { panic!("an error") };
    assert_eq!((result.id, result.model_name, result.model_version), ("job-1", "digits", "3"));
    let bytes = golden("error.msgpack");
    let Reply::Error(error) = Reply::decode(&bytes).unwrap() else { panic!("no error") };
    assert_eq!(
        (error.code, error.message),
        (ErrorCode::InvalidInput, "input \"x\": 64 values of FP32 need 256 bytes, got 250")
    );
}
