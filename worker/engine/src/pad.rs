//! Filling up what is shorter than its batch, and cutting it back.

use bytes::Bytes;

use crate::dtype::Dtype;
use crate::signature::Pad;

/// What is still to be written of an input.
pub(crate) struct Rest<'a>(pub(crate) &'a mut [u8]);

impl<'a> Rest<'a> {
    /// The next so many bytes.
    ///
    /// # Panics
    /// If there are fewer.
    fn take(&mut self, count: usize) -> &'a mut [u8] {
        let (next, rest) = std::mem::take(&mut self.0).split_at_mut(count);
        self.0 = rest;
        next
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.take(bytes.len()).copy_from_slice(bytes);
    }

    fn repeat(&mut self, dtype: Dtype, value: f64, count: usize) {
        let mut element = Vec::with_capacity(8);
        dtype.write(value, &mut element);
        let into = self.take(count * element.len());
        match element.iter().all(|byte| *byte == 0) {
            true => into.fill(0),
            false => into.chunks_exact_mut(element.len()).for_each(|place| place.copy_from_slice(&element)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes a job's share of an input, filled up along `pad.dim` to the batch's `tail`. `share`: the rows, their length and
/// their bytes; without bytes the ones and zeros of a mask.
pub(crate) fn fill(
    out: &mut Rest<'_>,
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
            Some(data) => out.put(&data[at * bytes..(at + 1) * bytes]),
            None => out.repeat(dtype, 1.0, real),
        }
        out.repeat(dtype, if pad.is_mask { 0.0 } else { pad.value }, missing);
    }
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
