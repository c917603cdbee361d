//! Rows of many jobs into one batch, and out again in the same order.

use std::sync::Arc;

use bytes::Bytes;

use crate::dtype::Dtype;
use crate::engine::Inputs;
use crate::pad::{Rest, crop, fill};
use crate::signature::{OutputSpec, Signature};
use crate::tensor::{HostTensor, Layout, RowSlice};

/// One job's share of a batch.
#[derive(Debug, Clone)]
pub struct Part {
    /// Rows of the job.
    pub rows: usize,
    /// Length of those of its inputs that can be filled up.
    pub length: usize,
    /// Its data, one entry for each input of the signature; `None` for a mask that is still to be made.
    pub inputs: Vec<Option<Bytes>>,
}

/// What a job gets of a batch's outputs.
#[derive(Debug, Clone)]
pub struct Share {
    /// Its rows.
    pub rows: usize,
    /// Its length: outputs are cut back to it.
    pub length: usize,
    /// Indices of the outputs it wants, in the order wanted; `None` for all.
    pub wanted: Option<Vec<usize>>,
}

impl Share {
    /// Whether the job gets this output.
    pub fn wants(&self, output: usize) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.contains(&output))
    }
}

/// The rows of many jobs behind each other, with what is shorter than the batch filled up: the one copy that tensor bytes make on
/// their way in is the one into the engine's memory.
#[derive(Debug)]
pub struct Stack<'a> {
    signature: &'a Signature,
    tails: &'a [Vec<usize>],
    parts: Vec<&'a Part>,
    rows: usize,
}

impl<'a> Stack<'a> {
    /// Of these parts. `tails` are the dimensions behind the rows, one entry for each input; the caller has checked every part
    /// against them.
    pub fn new(signature: &'a Signature, tails: &'a [Vec<usize>], parts: impl Iterator<Item = &'a Part>) -> Self {
        let parts: Vec<&Part> = parts.collect();
        let rows = parts.iter().map(|part| part.rows).sum();
        Self { signature, tails, parts, rows }
    }
}

impl Inputs for Stack<'_> {
    fn count(&self) -> usize {
        self.signature.inputs.len()
    }

    fn layout(&self, index: usize) -> Layout {
        let shape = std::iter::once(self.rows).chain(self.tails[index].iter().copied()).collect();
        Layout { dtype: self.signature.inputs[index].dtype, shape }
    }

    fn write(&self, index: usize, into: &mut [u8]) {
        let (spec, tail, mut rest) = (&self.signature.inputs[index], &self.tails[index], Rest(into));
        for part in &self.parts {
            match (&part.inputs[index], spec.pad) {
                (given, Some(pad)) if given.is_none() || part.length < tail[pad.dim] => {
                    fill(&mut rest, (spec.dtype, pad), tail, (part.rows, part.length, given.as_ref()));
                }
                (given, _) => rest.put(given.as_deref().unwrap_or_default()),
            }
        }
        // What is behind would be whatever the memory was used for before.
        assert!(rest.is_empty(), "every part was checked against its tail");
    }
}

/// The outputs of a batch, to be given out.
#[derive(Debug)]
pub struct Split {
    outputs: Arc<[Whole]>,
    /// Rows given out.
    given: usize,
}

impl Split {
    /// Of outputs that have as many rows as all shares together, and of which there are as many as `specs`: the caller has checked
    /// that. Outputs are cut back along free dimensions that are as long as `padded`, the batch's length: those are the jobs' own.
    /// What no job of the batch wants is let go of here.
    pub fn new(
        specs: &[OutputSpec],
        outputs: Vec<HostTensor>,
        padded: Option<usize>,
        is_wanted: impl Fn(usize) -> bool,
    ) -> Self {
        let outputs = specs.iter().zip(outputs).enumerate();
        let outputs = outputs.map(|(index, (spec, output))| Whole::new(spec, output, padded, is_wanted(index)));
        Self { outputs: outputs.collect(), given: 0 }
    }

    /// The rows of the next job, in the order in which jobs were stacked. The outputs it wants are there: the caller has checked.
    /// Copies only where something has to be cut back.
    pub fn next(&mut self, share: Share) -> Rows {
        let from = self.given;
        self.given += share.rows;
        if !self.outputs.iter().any(|output| output.is_longer(share.length)) {
            return Rows { outputs: Arc::clone(&self.outputs), from, share };
        }
        let own = |(index, output): (usize, &Whole)| output.cut_back(from, &share, share.wants(index));
        Rows { outputs: self.outputs.iter().enumerate().map(own).collect(), from: 0, share }
    }
}

/// A job's rows of the outputs it wants. Unless they were cut back, they are shared with its batch-mates: on the engine's thread no
/// memory is asked for that another one has to free.
#[derive(Debug, Clone)]
pub struct Rows {
    outputs: Arc<[Whole]>,
    /// The first.
    from: usize,
    share: Share,
}

impl Rows {
    /// Those of each output, in the order wanted.
    pub fn slices(&self) -> impl ExactSizeIterator<Item = RowSlice<'_>> {
        self.wanted().map(|output| self.outputs[output].rows(output, self.from, self.share.rows))
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.wanted().map(|output| self.outputs[output].row_bytes * self.share.rows).sum()
    }

    fn wanted(&self) -> impl ExactSizeIterator<Item = usize> {
        let wanted = self.share.wanted.as_deref();
        (0..wanted.map_or(self.outputs.len(), <[usize]>::len)).map(move |i| wanted.map_or(i, |wanted| wanted[i]))
    }
}

/// One output, of a batch or of one job.
#[derive(Debug)]
struct Whole {
    dtype: Dtype,
    tail: Vec<usize>,
    row_bytes: usize,
    /// Empty if nobody wants it.
    data: Vec<u8>,
    /// Dimensions behind the rows that are cut back to a job's length.
    cut: Vec<usize>,
}

impl Whole {
    fn new(
        spec: &OutputSpec,
        HostTensor { dtype, shape, data }: HostTensor,
        padded: Option<usize>,
        is_wanted: bool,
    ) -> Self {
        let tail = shape.get(1..).unwrap_or_default().to_vec();
        let is_cut = |dim: &usize| padded == Some(tail[*dim]) && spec.dims.get(*dim) == Some(&None);
        let cut = (0..tail.len()).filter(is_cut).collect();
        let row_bytes = tail.iter().product::<usize>() * dtype.size();
        // Here, on the engine's thread: where it is read, other batches' results wait.
        assert_eq!(data.len(), shape[0] * row_bytes, "an output of shape {shape:?}");
        Self { dtype, row_bytes, cut, tail, data: if is_wanted { data } else { Vec::new() } }
    }

    fn is_longer(&self, length: usize) -> bool {
        self.cut.iter().any(|dim| self.tail[*dim] > length)
    }

    /// One job's rows of it, as long as the job.
    fn cut_back(&self, from: usize, &Share { rows, length, .. }: &Share, is_wanted: bool) -> Self {
        let (mut data, mut tail) = (Vec::new(), self.tail.clone());
        if is_wanted {
            data = self.rows(0, from, rows).data.to_vec();
            for &dim in self.cut.iter().filter(|dim| self.tail[**dim] > length) {
                data = crop(&data, self.dtype.size(), (rows, &tail), dim, length);
                tail[dim] = length;
            }
        }
        let row_bytes = tail.iter().product::<usize>() * self.dtype.size();
        Self { dtype: self.dtype, row_bytes, cut: Vec::new(), tail, data }
    }

    fn rows(&self, output: usize, from: usize, rows: usize) -> RowSlice<'_> {
        let data = &self.data[from * self.row_bytes..(from + rows) * self.row_bytes];
        RowSlice { output, dtype: self.dtype, rows, tail: &self.tail, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::{InputSpec, Pad};
    use proptest::prelude::*;

    fn stack(signature: &Signature, tails: &[Vec<usize>], parts: &[Part]) -> Vec<HostTensor> {
        let stack = Stack::new(signature, tails, parts.iter());
        (0..stack.count()).map(|index| HostTensor::of(&stack, index)).collect()
    }

    fn signature(inputs: usize) -> Signature {
        let input = |i| InputSpec {
            name: format!("x{i}"),
            dtype: Dtype::I16,
            dims: vec![None],
            range: None,
            example: vec![1],
            pad: None,
        };
        let output = |i| OutputSpec { name: format!("y{i}"), dtype: Dtype::I16, dims: vec![None] };
        Signature { inputs: (0..inputs).map(input).collect(), outputs: (0..inputs).map(output).collect() }
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
                .map(|(job, &rows)| Part {
                    rows,
                    length: 1,
                    inputs: (0..tails.len()).map(|i| Some(bytes(job, i, rows))).collect(),
                })
                .collect();
            let dims: Vec<Vec<usize>> = tails.iter().map(|&tail| vec![tail]).collect();
            let signature = signature(tails.len());
            let batch = stack(&signature, &dims, &parts);
            prop_assert!(batch.iter().all(|tensor| tensor.rows() == rows.iter().sum()));
            // Every third job wants but one output, its last.
            let last = [tails.len() - 1];
            let wanted = |job: usize| job.is_multiple_of(3).then(|| last.to_vec());
            let shares = rows.iter().enumerate().map(|(job, &rows)| Share { rows, length: 1, wanted: wanted(job) });
            let mut split = Split::new(&signature.outputs, batch, None, |_| true);
            for (job, (part, share)) in parts.iter().zip(shares).enumerate() {
                let rows = split.next(share);
                prop_assert_eq!(rows.slices().len(), wanted(job).map_or(tails.len(), |wanted| wanted.len()));
                prop_assert_eq!(rows.bytes(), rows.slices().map(|slice| slice.data.len()).sum::<usize>());
                for slice in rows.slices() {
                    prop_assert_eq!((slice.rows, slice.tail), (part.rows, &tails[slice.output..=slice.output]));
                    prop_assert_eq!(Some(slice.data), part.inputs[slice.output].as_deref());
                }
            }
        }
    }

    fn padded() -> Signature {
        let input = |name: &str, dims, pad| InputSpec {
            name: name.into(),
            dtype: Dtype::I16,
            dims,
            range: None,
            example: vec![1],
            pad: Some(pad),
        };
        let tokens = Pad { dim: 1, value: -1.0, is_mask: false };
        let mask = Pad { dim: 0, value: 0.0, is_mask: true };
        Signature {
            inputs: vec![input("x", vec![Some(2), None], tokens), input("mask", vec![None], mask)],
            outputs: vec![OutputSpec { name: "y".into(), dtype: Dtype::I16, dims: vec![Some(2), None] }],
        }
    }

    fn shorts(data: &[u8]) -> Vec<i16> {
        data.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    #[test]
    fn what_is_shorter_is_filled_up_masked_and_cut_back() {
        let signature = padded();
        let bytes = |values: &[i16]| -> Bytes { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
        let parts = [
            Part { rows: 1, length: 3, inputs: vec![Some(bytes(&[1, 2, 3, 4, 5, 6])), None] },
            Part { rows: 2, length: 1, inputs: vec![Some(bytes(&[7, 8, 9, 10])), Some(bytes(&[1, 1]))] },
        ];
        let tails = signature.at_length(&[vec![2, 0], vec![0]], 3);
        let batch = stack(&signature, &tails, &parts);
        assert_eq!(shorts(&batch[0].data), [1, 2, 3, 4, 5, 6, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1, -1]);
        assert_eq!(shorts(&batch[1].data), [1, 1, 1, 1, 0, 0, 1, 0, 0]);
        let shares = parts.iter().map(|part| Share { rows: part.rows, length: part.length, wanted: None });
        let mut split = Split::new(&signature.outputs, vec![batch[0].clone()], Some(3), |_| true);
        let jobs: Vec<Rows> = shares.map(|share| split.next(share)).collect();
        let [first, second] = [0, 1].map(|job| jobs[job].slices().next().unwrap());
        assert_eq!((first.tail, shorts(first.data)), (&[2, 3][..], vec![1, 2, 3, 4, 5, 6]));
        assert_eq!((second.tail, shorts(second.data)), (&[2, 1][..], vec![7, 8, 9, 10]));
    }

    #[test]
    fn what_nobody_wants_is_let_go_of() {
        let output = || HostTensor { dtype: Dtype::I16, shape: vec![1, 2], data: vec![7; 4] };
        let share = Share { rows: 1, length: 1, wanted: Some(vec![1]) };
        let mut split = Split::new(&signature(2).outputs, vec![output(), output()], None, |output| share.wants(output));
        assert_eq!([0, 1].map(|output| split.outputs[output].data.len()), [0, 4]);
        let rows = split.next(share.clone());
        let slices: Vec<RowSlice<'_>> = rows.slices().collect();
        assert_eq!((slices.len(), slices[0].output, slices[0].data, rows.bytes()), (1, 1, &[7; 4][..], 4));
    }

    #[test]
    fn stacking_and_splitting_take_no_more_instructions_than_they_did() {
        let test = "rows::tests::stacking_and_splitting_take_no_more_instructions_than_they_did";
        let (signature, tails) = (signature(1), [vec![128]]);
        let part = |_| Part { rows: 1, length: 1, inputs: vec![Some(vec![1; 256].into())] };
        let parts: Vec<Part> = (0..128).map(part).collect();
        let mut into = vec![0; 128 * 256];
        let write = || Stack::new(&signature, &tails, parts.iter()).write(0, &mut into);
        gristmill_steps::count(test, "stacking 128 jobs", write).about(14_702);
        let output = || vec![HostTensor { dtype: Dtype::I16, shape: vec![128, 128], data: into.clone() }];
        let shares = || parts.iter().map(|part| Share { rows: part.rows, length: 1, wanted: None });
        let outputs = output();
        let jobs = gristmill_steps::count(test, "splitting for 128 jobs", || {
            let mut split = Split::new(&signature.outputs, outputs, None, |_| true);
            shares().map(|share| split.next(share)).collect::<Vec<_>>()
        });
        assert_eq!(jobs.about(11_841).len(), 128);
    }
}
