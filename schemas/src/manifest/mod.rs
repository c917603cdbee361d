//! `model.toml`: what a model package says of its model. TorchScript has no signature of its own, so this is the truth.

mod real;

use serde::{Deserialize, Serialize};

use crate::datatype::Datatype;
use crate::limits::{MAX_NAME_BYTES, MAX_RANK, MAX_ROW_ELEMENTS, MAX_TENSORS};
use crate::token::Token;

/// A checked `model.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Subject token of the model.
    pub name: Token,
    /// Subject token of the version.
    pub version: Token,
    /// How the file is to be run.
    pub format: Format,
    /// File name inside the package directory.
    pub file: String,
    /// SHA-256 of that file, 64 lower-case hex digits.
    pub sha256: String,
    /// In the order `forward` takes them.
    pub inputs: Vec<Input>,
    /// In the order of a tensor or tuple result; a dict result is matched by name.
    pub outputs: Vec<Output>,
    /// How jobs are batched.
    #[serde(default)]
    pub batching: Batching,
}

/// What a model takes and gives and how much of it at once: of a manifest, what a sender of jobs needs. Workers tell it in
/// their status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signature {
    /// In the order `forward` takes them.
    pub inputs: Vec<Input>,
    /// In the order of results.
    pub outputs: Vec<Output>,
    /// How jobs are batched.
    pub batching: Batching,
}

impl Signature {
    /// Whether jobs of different lengths share a batch, as [`Manifest::is_padded`].
    pub fn is_padded(&self) -> bool {
        is_padded(&self.inputs, &self.batching)
    }

    /// The input that is the mask.
    pub fn mask(&self) -> Option<&Input> {
        self.inputs.iter().find(|input| input.mask)
    }
}

/// What kind of program the model file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `torch.jit.save`.
    Torchscript,
    /// A `.pt2` package of AOTInductor.
    Aoti,
}

/// One input of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Name in jobs.
    pub name: String,
    /// Element type; BYTES has no libtorch counterpart and is refused.
    pub datatype: Datatype,
    /// Dimensions; -1 is free. The first is the row dimension and always -1.
    pub shape: Vec<i64>,
    /// What the free dimension is filled up with when jobs of different lengths share a batch.
    #[serde(default, with = "real::one")]
    pub pad: f64,
    /// Smallest and largest value allowed; a job outside is refused before it reaches the model. Datatypes of up to 32
    /// bits and INT64 within 2^53 are compared exactly.
    #[serde(default, with = "real::pair")]
    pub range: Option<[f64; 2]>,
    /// Whether this input is the mask: 1 where another input holds data, 0 where it is padding. Made for jobs that bring none.
    #[serde(default)]
    pub mask: bool,
    /// Sizes to warm up with, one for each dimension; the row dimension is ignored. Where it is missing, free
    /// dimensions warm up with 1.
    pub example_shape: Option<Vec<i64>>,
}

/// One output of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Name in results.
    pub name: String,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions; -1 is free, the first is the row dimension and always -1.
    pub shape: Vec<i64>,
}

/// When a batch is full and how long it may wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batching {
    /// Most rows in one forward pass; also the most rows one job may carry.
    pub max_rows: usize,
    /// Most elements of the largest input in one forward pass, padding included.
    pub max_padded_elements: Option<usize>,
    /// How long an idle engine waits for a fuller batch, in milliseconds. 0 takes what is there.
    pub max_delay_ms: u64,
    /// Whether batches end where more rows yield no more rows per second, which is learned; else only at the limits above.
    pub knee: bool,
    /// How soon, in milliseconds, online jobs are to be answered once a worker has them: while some come, bulk jobs share no run that
    /// is expected to take longer than a quarter of it (a job is not taken apart, and a run's own cost remains), and a delay that is
    /// shorter ends in time for a run. 0 for no such limit.
    pub target_ms: u64,
    /// Lengths that jobs are filled up to, ascending; where there are none, and an input is a mask, that of the longest in a batch.
    pub buckets: Vec<usize>,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            max_rows: 64,
            max_padded_elements: None,
            max_delay_ms: 0,
            knee: true,
            target_ms: 200,
            buckets: Vec::new(),
        }
    }
}

/// Why a `model.toml` is refused.
#[derive(Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum InvalidManifest {
    #[error("{0}")]
    Syntax(String),
    #[error("file {0:?} is not a plain file name inside the package")]
    File(String),
    #[error("sha256 {0:?} is not 64 lower-case hex digits")]
    Digest(String),
    #[error("{count} {side}, 1 to {MAX_TENSORS} are needed")]
    Count { side: &'static str, count: usize },
    #[error("name {0:?} is given twice or not 1 to {MAX_NAME_BYTES} bytes long")]
    Name(String),
    #[error("{name:?}: shape {shape:?} must start with -1 and have 1 to {MAX_RANK} dimensions of -1 or more than 0")]
    Shape { name: String, shape: Vec<i64> },
    #[error("{name:?}: one row of shape {shape:?} has more than {MAX_ROW_ELEMENTS} elements")]
    TooLarge { name: String, shape: Vec<i64> },
    #[error("{0:?}: libtorch has no tensors of BYTES")]
    Bytes(String),
    #[error("{name:?}: range [{low}, {high}] is empty")]
    Range { name: String, low: f64, high: f64 },
    #[error("{name:?}: example_shape {example:?} does not fit shape {shape:?}")]
    Example { name: String, example: Vec<i64>, shape: Vec<i64> },
    #[error("{name:?}: {why}")]
    Padding { name: String, why: &'static str },
    #[error("batching.{key} is {value}, {limit}")]
    Batching { key: &'static str, value: usize, limit: &'static str },
}

impl Manifest {
    /// The name every package gives this file.
    pub const FILE_NAME: &'static str = "model.toml";

    /// Reads and checks a `model.toml`. Unknown keys are refused: a misspelt limit must not be a silent default.
    pub fn parse(text: &str) -> Result<Self, InvalidManifest> {
        let manifest: Self = toml::from_str(text).map_err(|e| InvalidManifest::Syntax(e.to_string().trim().into()))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), InvalidManifest> {
        if self.file.is_empty() || self.file.starts_with('.') || self.file.contains(['/', '\\', '\0']) {
            return Err(InvalidManifest::File(self.file.clone()));
        }
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if self.sha256.len() != 64 || !self.sha256.bytes().all(hex) {
            return Err(InvalidManifest::Digest(self.sha256.clone()));
        }
        check_side("inputs", self.inputs.iter().map(|i| (&i.name, i.datatype, &i.shape)))?;
        check_side("outputs", self.outputs.iter().map(|o| (&o.name, o.datatype, &o.shape)))?;
        self.inputs.iter().try_for_each(Input::check)?;
        self.batching.check()?;
        self.check_padding()
    }
}

impl Manifest {
    /// What a sender needs to know.
    pub fn signature(&self) -> Signature {
        let (inputs, outputs, batching) = (self.inputs.clone(), self.outputs.clone(), self.batching.clone());
        Signature { inputs, outputs, batching }
    }

    /// Whether jobs of different lengths share a batch: the model has a mask to tell them apart by, or names buckets.
    pub fn is_padded(&self) -> bool {
        is_padded(&self.inputs, &self.batching)
    }

    /// Which dimension of an input is filled up to the length of its batch, counted from 0, which is the row dimension: its
    /// free one, if the model takes such batches.
    pub fn padded_dim(&self, input: &Input) -> Option<usize> {
        input.free_dim().filter(|_| self.is_padded())
    }

    fn check_padding(&self) -> Result<(), InvalidManifest> {
        let padding = |name: &str, why| Err(InvalidManifest::Padding { name: name.to_owned(), why });
        for input in self.inputs.iter().filter(|_| self.is_padded()) {
            let free = input.shape.iter().skip(1).filter(|dim| **dim == -1).count();
            if free > 1 {
                return padding(&input.name, "more than one free dimension, so that none is the length");
            }
            if input.mask && input.shape != [-1, -1] {
                return padding(&input.name, "a mask's shape is [-1, -1], rows and length");
            }
        }
        let is_length = |input: &Input| !input.mask && self.padded_dim(input).is_some();
        if self.is_padded() && !self.inputs.iter().any(is_length) {
            return padding(
                &self.inputs[0].name,
                "mask or buckets are given, but no input has a free dimension to fill up",
            );
        }
        Ok(())
    }
}

fn is_padded(inputs: &[Input], batching: &Batching) -> bool {
    !batching.buckets.is_empty() || inputs.iter().any(|input| input.mask)
}

fn check_side<'a>(
    side: &'static str,
    tensors: impl Iterator<Item = (&'a String, Datatype, &'a Vec<i64>)>,
) -> Result<(), InvalidManifest> {
    let mut names: Vec<&str> = Vec::new();
    for (name, datatype, shape) in tensors {
        if !(1..=MAX_NAME_BYTES).contains(&name.len()) || names.contains(&name.as_str()) {
            return Err(InvalidManifest::Name(name.clone()));
        }
        names.push(name);
        let elements = shape.iter().try_fold(1i64, |product, dim| product.checked_mul((*dim).max(1)));
        if elements.is_none_or(|elements| elements > MAX_ROW_ELEMENTS) {
            return Err(InvalidManifest::TooLarge { name: name.clone(), shape: shape.clone() });
        }
        let well_formed = shape.first() == Some(&-1) && shape.iter().all(|&dim| dim == -1 || dim > 0);
        if !well_formed || shape.len() > MAX_RANK {
            return Err(InvalidManifest::Shape { name: name.clone(), shape: shape.clone() });
        }
        if datatype == Datatype::Bytes {
            return Err(InvalidManifest::Bytes(name.clone()));
        }
    }
    match names.len() {
        1..=MAX_TENSORS => Ok(()),
        count => Err(InvalidManifest::Count { side, count }),
    }
}

impl Input {
    /// The first free dimension behind the rows, counted from 0, which is the row dimension.
    pub fn free_dim(&self) -> Option<usize> {
        self.shape.iter().skip(1).position(|dim| *dim == -1).map(|dim| dim + 1)
    }

    fn check(&self) -> Result<(), InvalidManifest> {
        if let Some([low, high]) = self.range
            && (low > high || low.is_nan() || high.is_nan())
        {
            return Err(InvalidManifest::Range { name: self.name.clone(), low, high });
        }
        let Some(example) = &self.example_shape else { return Ok(()) };
        let fits = |(&want, &have): (&i64, &i64)| have > 0 && (want == -1 || want == have);
        let elements = example.iter().skip(1).try_fold(1i64, |product, dim| product.checked_mul(*dim));
        if elements.is_none_or(|elements| elements > MAX_ROW_ELEMENTS) {
            return Err(InvalidManifest::TooLarge { name: self.name.clone(), shape: example.clone() });
        }
        if example.len() == self.shape.len() && self.shape.iter().zip(example).all(fits) {
            return Ok(());
        }
        let (name, shape) = (self.name.clone(), self.shape.clone());
        Err(InvalidManifest::Example { name, example: example.clone(), shape })
    }
}

impl Batching {
    fn check(&self) -> Result<(), InvalidManifest> {
        let millis = |millis: u64| usize::try_from(millis).unwrap_or(usize::MAX);
        let limits = [
            ("max_rows", self.max_rows, 1 << 20, "1 to 1048576 rows are allowed"),
            ("max_padded_elements", self.max_padded_elements.unwrap_or(1), 1 << 40, "1 to 2^40 are allowed"),
            ("max_delay_ms", millis(self.max_delay_ms), 60_000, "0 to 60000 are allowed"),
            ("target_ms", millis(self.target_ms), 3_600_000, "0 to 3600000 are allowed"),
        ];
        for (key, value, most, limit) in limits {
            let least = usize::from(!key.ends_with("_ms"));
            if !(least..=most).contains(&value) {
                return Err(InvalidManifest::Batching { key, value, limit });
            }
        }
        match self.buckets.is_sorted_by(|a, b| a < b) && self.buckets.first() != Some(&0) {
            true => Ok(()),
            false => Err(InvalidManifest::Batching {
                key: "buckets",
                value: self.buckets.len(),
                limit: "they must be greater than 0 and ascending",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "digits"
        version = "3"
        format = "torchscript"
        file = "model.pt"
        sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
        [[inputs]]
        name = "image"
        datatype = "FP32"
        shape = [-1, 1, 8, 8]
        [[outputs]]
        name = "scores"
        datatype = "FP32"
        shape = [-1, 10]
        [batching]
        max_rows = 32
    "#;

    #[test]
    fn a_manifest_is_read_with_its_defaults() {
        let manifest = Manifest::parse(GOOD).unwrap();
        assert_eq!(manifest.inputs[0].shape, [-1, 1, 8, 8]);
        assert_eq!((manifest.batching.max_rows, manifest.batching.max_delay_ms), (32, 0));
        assert_eq!((manifest.batching.knee, manifest.batching.target_ms), (true, 200));
    }

    #[test]
    fn a_signature_survives_json_with_its_infinities() {
        let text = GOOD.replace("[-1, 1, 8, 8]", "[-1, -1]\npad = -inf\nrange = [0, inf]");
        let signature = Manifest::parse(&text).unwrap().signature();
        assert_eq!(
            (signature.inputs[0].pad, signature.inputs[0].range),
            (f64::NEG_INFINITY, Some([0.0, f64::INFINITY]))
        );
        let json = serde_json::to_string(&signature).unwrap();
        assert_eq!(serde_json::from_str::<Signature>(&json).unwrap(), signature, "{json}");
    }

    #[test]
    fn each_fault_is_named() {
        for (from, to, says) in [
            ("max_rows", "max_row", "unknown field `max_row`"),
            ("= 32", "= 0", "batching.max_rows is 0, 1 to 1048576 rows are allowed"),
            ("model.pt", "../model.pt", "file \"../model.pt\" is not a plain file name"),
            ("0123456789abcdef0", "X", "is not 64 lower-case hex digits"),
            ("[-1, 1, 8, 8]", "[1, 8, 8]", "\"image\": shape [1, 8, 8] must start with -1"),
            ("[-1, 10]", "[-1, 0]", "\"scores\": shape [-1, 0] must start with -1"),
            ("FP32", "FP31", "datatype \"FP31\" is none of BOOL"),
            ("FP32", "BYTES", "\"image\": libtorch has no tensors of BYTES"),
            ("torchscript", "onnx", "unknown variant `onnx`"),
            ("\"digits\"", "\"a.b\"", "\"a.b\" is not a token"),
            ("name = \"digits\"", "", "missing field `name`"),
            ("[-1, 1, 8, 8]", "[-1, 1099511627776]", "has more than 268435456 elements"),
            ("max_rows = 32", "max_delay_ms = 60001", "batching.max_delay_ms is 60001, 0 to 60000 are allowed"),
            ("max_rows = 32", "target_ms = 3600001", "batching.target_ms is 3600001, 0 to 3600000 are allowed"),
            ("shape = [-1, 1, 8, 8]", "shape = [-1]\nrange = [2, 1]", "range [2, 1] is empty"),
            ("shape = [-1, 1, 8, 8]", "shape = [-1, -1, -1]\nmask = true", "more than one free dimension"),
            ("shape = [-1, 1, 8, 8]", "shape = [-1, -1, 3]\nmask = true", "a mask's shape is [-1, -1]"),
            ("max_rows = 32", "buckets = [8]", "no input has a free dimension to fill up"),
            ("shape = [-1, 1, 8, 8]", "shape = [-1, 4]\nexample_shape = [1, 5]", "does not fit shape [-1, 4]"),
        ] {
            let error = Manifest::parse(&GOOD.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
    }
}
