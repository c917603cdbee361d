use std::fmt;

use crate::dtype::Dtype;
use crate::tensor::HostTensor;

/// What a model takes and gives, in the order it takes and gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct Signature {
    /// Inputs, in the order of `forward`'s arguments.
    pub inputs: Vec<InputSpec>,
    /// Outputs, in the order of results.
    pub outputs: Vec<OutputSpec>,
}

/// One input.
#[derive(Debug, Clone, PartialEq)]
pub struct InputSpec {
    /// Name in jobs.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions behind the row dimension; `None` is free.
    pub dims: Vec<Option<usize>>,
    /// Smallest and largest value allowed.
    pub range: Option<(f64, f64)>,
    /// Sizes of `dims` for warm-up.
    pub example: Vec<usize>,
    /// How jobs of different lengths share a batch; `None` where they cannot.
    pub pad: Option<Pad>,
}

/// How an input is filled up to the length of the longest in the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pad {
    /// Index in `dims` of the dimension that is the length, the only free one.
    pub dim: usize,
    /// What it is filled up with; 0 for a mask.
    pub value: f64,
    /// It says what of the others is real: 1 there, 0 where they are filled up. Made here where a job brings none.
    pub is_mask: bool,
}

/// One output.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputSpec {
    /// Name in results.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions behind the row dimension; `None` is free.
    pub dims: Vec<Option<usize>>,
}

/// How a tensor falls short of its spec.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum Mismatch {
    #[error("{name:?} is {got}, the model has {want}")]
    Dtype { name: String, got: String, want: Dtype },
    #[error("{name:?} has shape {got:?}, the model has {want}")]
    Shape { name: String, got: Vec<usize>, want: String },
    #[error("{name:?}: value {index} is {value}, the model takes {low} to {high}")]
    Value { name: String, index: usize, value: f64, low: f64, high: f64 },
    #[error("the model gave {got} outputs, its manifest names {want}")]
    OutputCount { got: usize, want: usize },
}

impl InputSpec {
    /// Checks dimensions, the row dimension included.
    pub fn check_shape(&self, shape: &[usize]) -> Result<(), Mismatch> {
        check_shape(&self.name, &self.dims, shape)
    }

    /// Checks every value against the range; BOOL is always 0 or 1. NaN is in no range.
    ///
    /// A value that the model would index with must never reach it: there it may abort the process.
    pub fn check_values(&self, data: &[u8]) -> Result<(), Mismatch> {
        let range = if self.dtype == Dtype::Bool { Some((0.0, 1.0)) } else { self.range };
        let Some((low, high)) = range else { return Ok(()) };
        let outside = |index, value: f64| (!(low..=high).contains(&value)).then_some((index, value));
        match self.dtype.find(data, outside) {
            None => Ok(()),
            Some((index, value)) => Err(Mismatch::Value { name: self.name.clone(), index, value, low, high }),
        }
    }

    /// A tensor to warm up with: `rows` rows of the smallest allowed value of at least 0.
    pub fn example(&self, rows: usize) -> HostTensor {
        let shape: Vec<usize> = std::iter::once(rows).chain(self.example.iter().copied()).collect();
        let elements = shape.iter().product();
        // All of an example is real.
        let least = if self.pad.is_some_and(|pad| pad.is_mask) { 1.0 } else { 0f64 };
        let value = self.range.map_or(least, |(low, high)| least.clamp(low, high));
        let mut data = Vec::with_capacity(elements * self.dtype.size());
        (0..elements).for_each(|_| self.dtype.write(value, &mut data));
        HostTensor { dtype: self.dtype, shape, data }
    }
}

impl Signature {
    /// Whether jobs of different lengths share a batch.
    pub fn is_padded(&self) -> bool {
        self.inputs.iter().any(|input| input.pad.is_some())
    }

    /// `tails` with this length where inputs are filled up.
    pub fn at_length(&self, tails: &[Vec<usize>], length: usize) -> Vec<Vec<usize>> {
        let mut tails = tails.to_vec();
        for (tail, input) in tails.iter_mut().zip(&self.inputs) {
            input.pad.iter().for_each(|pad| tail[pad.dim] = length);
        }
        tails
    }

    /// Checks what the model gave for a batch of `rows` rows against its manifest.
    pub fn check_outputs(&self, outputs: &[HostTensor], rows: usize) -> Result<(), Mismatch> {
        if outputs.len() != self.outputs.len() {
            return Err(Mismatch::OutputCount { got: outputs.len(), want: self.outputs.len() });
        }
        for (spec, output) in self.outputs.iter().zip(outputs) {
            if spec.dtype != output.dtype {
                let (name, got) = (spec.name.clone(), output.dtype.to_string());
                return Err(Mismatch::Dtype { name, got, want: spec.dtype });
            }
            check_shape(&spec.name, &spec.dims, &output.shape)?;
            if output.rows() != rows {
                let want = format!("{rows} rows, one for each row that went in");
                return Err(Mismatch::Shape { name: spec.name.clone(), got: output.shape.clone(), want });
            }
        }
        Ok(())
    }
}

fn check_shape(name: &str, dims: &[Option<usize>], shape: &[usize]) -> Result<(), Mismatch> {
    let fits = |(want, &have): (&Option<usize>, &usize)| want.is_none_or(|want| want == have);
    match shape {
        [_, tail @ ..] if tail.len() == dims.len() && dims.iter().zip(tail).all(fits) => Ok(()),
        _ => Err(Mismatch::Shape { name: name.into(), got: shape.to_vec(), want: Dims(dims).to_string() }),
    }
}

/// Writes dimensions as a manifest does: `[-1, 1, 8, 8]`.
struct Dims<'a>(&'a [Option<usize>]);

impl fmt::Display for Dims<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[-1")?;
        for dim in self.0 {
            match dim {
                Some(size) => write!(f, ", {size}")?,
                None => f.write_str(", -1")?,
            }
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dtype: Dtype, range: Option<(f64, f64)>) -> InputSpec {
        InputSpec { name: "x".into(), dtype, dims: vec![None, Some(3)], range, example: vec![2, 3], pad: None }
    }

    #[test]
    fn a_shape_is_checked_behind_its_rows() {
        let spec = spec(Dtype::F32, None);
        assert_eq!(spec.check_shape(&[7, 5, 3]), Ok(()));
        let error = spec.check_shape(&[7, 5, 4]).unwrap_err();
        assert_eq!(error.to_string(), "\"x\" has shape [7, 5, 4], the model has [-1, -1, 3]");
        assert!(spec.check_shape(&[]).is_err() && spec.check_shape(&[7, 5]).is_err());
    }

    #[test]
    fn a_value_outside_its_range_is_named() {
        let ids: Vec<u8> = [0i64, 99, 100].iter().flat_map(|v| v.to_le_bytes()).collect();
        let error = spec(Dtype::I64, Some((0.0, 99.0))).check_values(&ids).unwrap_err();
        assert_eq!(error.to_string(), "\"x\": value 2 is 100, the model takes 0 to 99");
        assert!(spec(Dtype::F32, Some((0.0, 1.0))).check_values(&f32::NAN.to_le_bytes()).is_err());
        assert!(spec(Dtype::Bool, None).check_values(&[0, 1, 2]).is_err());
        assert!(spec(Dtype::U8, None).check_values(&[0, 1, 255]).is_ok());
    }

    #[test]
    fn warm_up_values_lie_in_the_range() {
        for dtype in [Dtype::I64, Dtype::F16, Dtype::Bf16, Dtype::I8, Dtype::F64] {
            let spec = spec(dtype, Some((5.0, 9.0)));
            let example = spec.example(4);
            assert_eq!((example.shape, example.data.len()), (vec![4, 2, 3], 24 * dtype.size()));
            assert_eq!(spec.check_values(&example.data), Ok(()));
        }
    }

    #[test]
    fn outputs_must_be_what_the_manifest_says() {
        let output = OutputSpec { name: "y".into(), dtype: Dtype::F32, dims: vec![Some(2)] };
        let signature = Signature { inputs: vec![], outputs: vec![output] };
        let tensor = |dtype, shape: &[usize]| [HostTensor { dtype, shape: shape.to_vec(), data: vec![] }];
        assert_eq!(signature.check_outputs(&tensor(Dtype::F32, &[3, 2]), 3), Ok(()));
        assert!(signature.check_outputs(&tensor(Dtype::F64, &[3, 2]), 3).is_err());
        assert!(signature.check_outputs(&tensor(Dtype::F32, &[3, 3]), 3).is_err());
        assert!(signature.check_outputs(&tensor(Dtype::F32, &[2, 2]), 3).is_err());
        assert!(signature.check_outputs(&[], 3).is_err());
    }
}
