//! Rows of many jobs into one batch, and out again in the same order.

use bytes::Bytes;

use crate::signature::Signature;
use crate::tensor::{HostTensor, RowSlice};

/// One job's share of a batch.
#[derive(Debug, Clone)]
pub struct Part {
    /// Rows of the job.
    pub rows: usize,
    /// Its data, one entry for each input of the signature.
    pub inputs: Vec<Bytes>,
}

/// Puts the rows of `parts` behind each other: the one copy that tensor bytes make on their way in.
///
/// `tails` are the dimensions behind the rows, one entry for each input. The caller has checked every part against them.
pub fn stack<'a>(
    signature: &Signature,
    tails: &[Vec<usize>],
    parts: impl Iterator<Item = &'a Part> + Clone,
) -> Vec<HostTensor> {
    let rows = parts.clone().map(|part| part.rows).sum();
    let of_input = |(index, spec): (usize, &crate::InputSpec)| {
        let shape: Vec<usize> = std::iter::once(rows).chain(tails[index].iter().copied()).collect();
        let bytes = shape.iter().product::<usize>() * spec.dtype.size();
        let mut data = Vec::with_capacity(bytes);
        parts.clone().for_each(|part| data.extend_from_slice(&part.inputs[index]));
        debug_assert_eq!(data.len(), bytes, "every part was checked against its tail");
        HostTensor { dtype: spec.dtype, shape, data }
    };
    signature.inputs.iter().enumerate().map(of_input).collect()
}

/// Takes each job's rows out of a batch's outputs, without a copy: one entry for each of `rows`, in order.
///
/// The caller has checked that every output has as many rows as `rows` add up to.
pub fn split(outputs: Vec<HostTensor>, rows: impl ExactSizeIterator<Item = usize> + Clone) -> Vec<Vec<RowSlice>> {
    let mut jobs: Vec<Vec<RowSlice>> = rows.clone().map(|_| Vec::with_capacity(outputs.len())).collect();
    for output in outputs {
        let tail = output.shape.get(1..).unwrap_or_default().to_vec();
        let row_bytes = tail.iter().product::<usize>() * output.dtype.size();
        let mut rest = Bytes::from(output.data);
        for (job, rows) in jobs.iter_mut().zip(rows.clone()) {
            let shape = std::iter::once(rows).chain(tail.iter().copied()).collect();
            job.push(RowSlice { dtype: output.dtype, shape, data: rest.split_to(rows * row_bytes) });
        }
    }
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::signature::InputSpec;
    use proptest::prelude::*;

    fn signature(inputs: usize) -> Signature {
        let input =
            |i| InputSpec { name: format!("x{i}"), dtype: Dtype::I16, dims: vec![None], range: None, example: vec![1] };
        Signature { inputs: (0..inputs).map(input).collect(), outputs: vec![] }
    }

    proptest! {
        #[test]
        fn every_row_comes_back_to_its_job(
            rows in prop::collection::vec(1usize..18, 1..20),
            tails in prop::collection::vec(0usize..5, 1..4),
        ) {
            let bytes = |job: usize, input: usize, rows: usize| -> Bytes {
                (0..rows * tails[input] * 2).map(|i| (job * 31 + input * 7 + i) as u8).collect()
            };
            let parts: Vec<Part> = rows.iter().enumerate()
                .map(|(job, &rows)| Part { rows, inputs: (0..tails.len()).map(|i| bytes(job, i, rows)).collect() })
                .collect();
            let dims: Vec<Vec<usize>> = tails.iter().map(|&tail| vec![tail]).collect();
            let batch = stack(&signature(tails.len()), &dims, parts.iter());
            prop_assert!(batch.iter().all(|tensor| tensor.rows() == rows.iter().sum()));
            let jobs = split(batch, rows.iter().copied());
            for (part, slices) in parts.iter().zip(&jobs) {
                for (input, slice) in part.inputs.iter().zip(slices) {
                    prop_assert_eq!(slice.shape[0], part.rows);
                    prop_assert_eq!(&slice.data, input);
                }
            }
        }
    }
}
