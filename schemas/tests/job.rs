//! What the decoder takes, what it refuses and in which words. Bodies are written with `rmp`, not with our encoder.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use gristmill_schemas::{Datatype, ErrorCode, InvalidJob, JobBody, Shape, Tensor};
use proptest::prelude::*;
use rmp::encode as mp;

const LIMIT: usize = 1 << 20;

/// A body of one input, each part replaceable by raw MessagePack.
struct Body {
    datatype: &'static str,
    shape: Vec<i64>,
    data: Vec<u8>,
}

fn bin(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    mp::write_bin(&mut out, bytes).unwrap();
    out
}

fn floats(values: &[f32]) -> Vec<u8> {
    bin(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

fn array(write: impl Fn(&mut Vec<u8>, u32), count: u32) -> Vec<u8> {
    let mut out = Vec::new();
    mp::write_array_len(&mut out, count).unwrap();
    (0..count).for_each(|i| write(&mut out, i));
    out
}

impl Body {
    fn good() -> Self {
        Self { datatype: "FP32", shape: vec![2, 2], data: floats(&[1.0, 2.0, 3.0, 4.0]) }
    }

    fn tensor(&self, name: &str) -> Vec<u8> {
        let mut out = Vec::new();
        mp::write_map_len(&mut out, 4).unwrap();
        // Data first: a reader must not depend on the order of keys.
        mp::write_str(&mut out, "data").unwrap();
        out.extend(&self.data);
        mp::write_str(&mut out, "name").unwrap();
        mp::write_str(&mut out, name).unwrap();
        mp::write_str(&mut out, "datatype").unwrap();
        mp::write_str(&mut out, self.datatype).unwrap();
        mp::write_str(&mut out, "shape").unwrap();
        mp::write_array_len(&mut out, self.shape.len() as u32).unwrap();
        for &dim in &self.shape {
            mp::write_sint(&mut out, dim).unwrap();
        }
        out
    }

    fn bytes(&self) -> Vec<u8> {
        inputs(&[self.tensor("x")])
    }

    fn refusal(&self) -> String {
        JobBody::decode(&self.bytes(), LIMIT).unwrap_err().to_string()
    }
}

fn inputs(tensors: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    mp::write_map_len(&mut out, 1).unwrap();
    mp::write_str(&mut out, "inputs").unwrap();
    mp::write_array_len(&mut out, tensors.len() as u32).unwrap();
    tensors.iter().for_each(|tensor| out.extend(tensor));
    out
}

#[test]
fn bin_data_is_borrowed_from_the_payload() {
    let bytes = Body::good().bytes();
    let job = JobBody::decode(&bytes, LIMIT).unwrap();
    assert_eq!(job.rows(), 2);
    let std::borrow::Cow::Borrowed(data) = job.inputs[0].data else { panic!("the tensor bytes were copied") };
    assert!(bytes.as_ptr_range().contains(&data.as_ptr()));
}

#[test]
fn an_array_of_numbers_becomes_the_bytes_of_its_datatype() {
    let numbers = array(|out, i| mp::write_uint(out, u64::from(i)).map(drop).unwrap(), 4);
    for (datatype, bytes) in [
        ("UINT8", vec![0, 1, 2, 3]),
        ("INT16", vec![0, 0, 1, 0, 2, 0, 3, 0]),
        ("FP16", vec![0, 0, 0, 0x3c, 0, 0x40, 0, 0x42]),
        ("BF16", vec![0, 0, 0x80, 0x3f, 0, 0x40, 0x40, 0x40]),
    ] {
        let body = Body { datatype, data: numbers.clone(), ..Body::good() }.bytes();
        assert_eq!(*JobBody::decode(&body, LIMIT).unwrap().inputs[0].data, bytes, "{datatype}");
    }
    let strings = array(|out, _| mp::write_str(out, "ab").unwrap(), 4);
    let body = Body { datatype: "BYTES", data: strings, ..Body::good() }.bytes();
    assert_eq!(*JobBody::decode(&body, LIMIT).unwrap().inputs[0].data, [2, 0, 0, 0, b'a', b'b'].repeat(4));
}

#[test]
fn each_refusal_names_the_input_the_value_and_the_limit() {
    let good = Body::good;
    let number = |value: f64| array(move |out, _| mp::write_f64(out, value).unwrap(), 4);
    let nested = array(|out, _| mp::write_array_len(out, 0).map(drop).unwrap(), 4);
    for (body, says) in [
        (Body { data: floats(&[1.0; 3]), ..good() }, "input \"x\": 4 values of FP32 need 16 bytes, got 12"),
        (Body { datatype: "FP31", ..good() }, "input \"x\": datatype \"FP31\" is none of BOOL UINT8"),
        (Body { shape: vec![0, 2], ..good() }, "input \"x\": shape [0, 2] has 0 rows, at least 1 is needed"),
        (Body { shape: vec![2, -2], ..good() }, "input \"x\": dimension 1 of shape [2, -2] is negative"),
        (Body { shape: vec![], ..good() }, "input \"x\": shape [] has no row dimension"),
        (Body { shape: vec![1; 9], ..good() }, "input \"x\": 9 dimensions, the limit is 8"),
        (Body { shape: vec![i64::MAX, 4], ..good() }, "has more elements than memory has addresses"),
        (Body { shape: vec![i64::MAX], ..good() }, "values of FP32 need 18446744073709551615 bytes, got 16"),
        (Body { data: number(1.0), shape: vec![5], ..good() }, "input \"x\": shape [5] needs 5 values, got 4"),
        (Body { data: number(1.5), datatype: "INT8", ..good() }, "input \"x\": value 0 is 1.5, which is no INT8"),
        (Body { data: number(1.0), datatype: "BYTES", ..good() }, "value 0 is 1, which is no BYTES"),
        (Body { data: nested, ..good() }, "\"inputs\": \"data\": invalid type: sequence, expected a number"),
        (Body { data: bin(&[9, 0, 0, 0, 1]), datatype: "BYTES", ..good() }, "cut off in element 0 of 4"),
    ] {
        assert!(body.refusal().contains(says), "{} instead of {says}", body.refusal());
        assert_ne!(JobBody::decode(&body.bytes(), LIMIT).unwrap_err().code(), ErrorCode::Internal);
    }
}

#[test]
fn inputs_must_agree_with_each_other() {
    let (two, three) = (Body::good(), Body { shape: vec![1, 4], ..Body::good() });
    let body = inputs(&[two.tensor("a"), three.tensor("b")]);
    let error = JobBody::decode(&body, LIMIT).unwrap_err();
    assert_eq!(error.to_string(), "input \"b\" has 1 rows, input \"a\" has 2");
    let body = inputs(&[two.tensor("a"), two.tensor("a")]);
    assert_eq!(JobBody::decode(&body, LIMIT).unwrap_err().to_string(), "input \"a\" is given twice");
    assert_eq!(JobBody::decode(&inputs(&[]), LIMIT), Err(InvalidJob::NoInputs));
    let body = inputs(&vec![two.tensor("a"); 65]);
    assert!(JobBody::decode(&body, LIMIT).unwrap_err().to_string().contains("more than 64 elements"));
}

#[test]
fn what_is_no_map_is_an_invalid_message() {
    let deep: Vec<u8> = std::iter::repeat_n(0x91, 10_000).chain([0xc0]).collect();
    let mut deep_inside = Vec::new();
    mp::write_map_len(&mut deep_inside, 1).unwrap();
    mp::write_str(&mut deep_inside, "parameters").unwrap();
    deep_inside.extend(&deep);
    let mut trailing = Body::good().bytes();
    trailing.push(0xc0);
    for (bytes, says) in [
        (vec![], "body is not a job: it is cut off"),
        (vec![0x93, 1, 2, 3], "invalid type: sequence, expected a map with \"inputs\""),
        (vec![0xc1], "body is not a job"),
        (vec![0xdf, 0xff, 0xff, 0xff, 0xff], "it is cut off"),
        (deep, "invalid type: sequence"),
        (deep_inside, "nested deeper than 16 levels"),
        (trailing, "body has bytes behind its end"),
    ] {
        let error = JobBody::decode(&bytes, LIMIT).unwrap_err();
        assert!(error.to_string().contains(says), "{error} instead of {says}");
        assert_eq!(error.code(), ErrorCode::InvalidMessage);
    }
    let error = JobBody::decode(&Body::good().bytes(), 10).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooLarge);
    assert!(error.to_string().ends_with("the limit is 10"), "{error}");
}

#[test]
fn every_truncation_is_refused_and_none_panics() {
    let bytes = Body::good().bytes();
    for end in 0..bytes.len() {
        assert!(JobBody::decode(&bytes[..end], LIMIT).is_err(), "cut at {end}");
    }
}

fn tensor() -> impl Strategy<Value = (String, Vec<usize>, Vec<u8>)> {
    ("[a-z]{1,12}", prop::collection::vec(1usize..5, 0..4)).prop_flat_map(|(name, tail)| {
        let bytes = 3 * 4 * tail.iter().product::<usize>();
        let shape = [vec![3], tail].concat();
        (Just(name), Just(shape), prop::collection::vec(any::<u8>(), bytes))
    })
}

proptest! {
    #[test]
    fn any_job_survives_writing_and_reading(parts in prop::collection::vec(tensor(), 1..5), id in "[a-z0-9/]{1,20}") {
        let inputs: Vec<Tensor<'_>> = parts.iter().enumerate()
            .filter(|(i, part)| parts[..*i].iter().all(|other| other.0 != part.0))
            .map(|(_, (name, shape, data))| Tensor {
                name,
                datatype: Datatype::Int32,
                shape: Shape::try_new(shape).unwrap(),
                data: data.into(),
            })
            .collect();
        let job = JobBody { id: Some(&id), outputs: Some(vec!["y"]), inputs };
        let bytes = job.encode();
        prop_assert_eq!(JobBody::decode(&bytes, LIMIT), Ok(job));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(JobBody::decode(&bytes, LIMIT));
        drop(gristmill_schemas::Reply::decode(&bytes));
    }

    #[test]
    fn no_damage_to_a_good_body_makes_the_decoder_panic(at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = Body::good().bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        drop(JobBody::decode(&bytes, LIMIT));
    }
}
