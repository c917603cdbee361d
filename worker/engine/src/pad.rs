//! Filling up what is shorter than its batch, and cutting it back.

use bytes::Bytes;

use crate::dtype::Dtype;
use crate::signature::Pad;

/// Appends a job's share of an input, filled up along `pad.dim` to the batch's `tail`. `share`: the rows, their length and
/// their bytes; without bytes the ones and zeros of a mask.
pub(crate) fn fill(
    out: &mut Vec<u8>,
    (dtype, pad): (Dtype, Pad),
    tail: &[usize],
    (rows, length, data): (usize, usize, Option<&Bytes>),
) {
    let outer = rows * tail[..pad.dim].iter().product::<usize>();
    let inner = tail[pad.dim + 1..].iter().product::<usize>();
    let (real, missing) = (length * inner, (tail[pad.dim] - length) * inner);
    let bytes = real * dtype.size();
    for at in 0..outer {
        match data {
            Some(data) => out.extend_from_slice(&data[at * bytes..(at + 1) * bytes]),
            None => repeat(out, dtype, 1.0, real),
        }
        repeat(out, dtype, if pad.is_mask { 0.0 } else { pad.value }, missing);
    }
}

fn repeat(out: &mut Vec<u8>, dtype: Dtype, value: f64, count: usize) {
    let mut element = Vec::with_capacity(8);
    dtype.write(value, &mut element);
    if element.iter().all(|byte| *byte == 0) {
        return out.resize(out.len() + count * element.len(), 0);
    }
    (0..count).for_each(|_| out.extend_from_slice(&element));
}

/// Cuts `rows` rows of `tail` down to `length` along one dimension.
pub(crate) fn crop(data: &[u8], size: usize, (rows, tail): (usize, &[usize]), dim: usize, length: usize) -> Vec<u8> {
    let outer = rows * tail[..dim].iter().product::<usize>();
    let inner = tail[dim + 1..].iter().product::<usize>() * size;
    let mut out = Vec::with_capacity(outer * length * inner);
    for at in 0..outer {
        let from = at * tail[dim] * inner;
        out.extend_from_slice(&data[from..from + length * inner]);
    }
    out
}
