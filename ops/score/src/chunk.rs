//! Which rows travel together as one job, and the job itself.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use anyhow::ensure;
use gristmill_schemas::manifest::{Input, Signature};
use gristmill_schemas::{Datatype, JobBody, Shape, Tensor};
use half::{bf16, f16};

use crate::lower::Lowered;

/// Padding that a chunk may have while it is small, as a share of its elements.
const WASTE: f64 = 0.05;

/// How much one job may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rows: the model's limit, or fewer.
    pub rows: usize,
    /// Elements of the largest input, padding included: the model's limit.
    pub elements: usize,
    /// Bytes of the body: the broker's limit, less what headers and keys take.
    pub bytes: usize,
}

impl Limits {
    /// Of a model, behind a broker that takes messages of `max_payload` bytes.
    pub fn new(signature: &Signature, max_payload: usize) -> Self {
        let batching = &signature.batching;
        // Headers count, too, and the results have to fit as well as the jobs.
        let bytes = max_payload.saturating_sub(16 << 10).max(1 << 10);
        let of_result: usize = signature.outputs.iter().map(|output| row_bytes(output.datatype, &output.shape)).sum();
        let rows = batching.max_rows.min((bytes / of_result.max(1)).max(1));
        Self { rows, elements: batching.max_padded_elements.unwrap_or(usize::MAX), bytes }
    }

    /// With jobs of so many rows, if that is no more than fits.
    pub fn with_rows(self, rows: usize) -> anyhow::Result<Self> {
        ensure!(rows <= self.rows, "--rows-per-job {rows} is more than this model and broker take, {} rows", self.rows);
        Ok(Self { rows, ..self })
    }
}

/// Bytes of one row, free dimensions counted as 1.
pub(crate) fn row_bytes(datatype: Datatype, shape: &[i64]) -> usize {
    let elements: i64 = shape.iter().skip(1).map(|dim| (*dim).max(1)).product();
    elements as usize * datatype.size().unwrap_or(1)
}

/// Rows of a window that travel as one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Their numbers in the window; ascending where no input has a free dimension.
    pub rows: Vec<u32>,
}

/// A chunk or, after an error, a part of it: what one job is made of. Its text is a part of the job's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Piece {
    /// Its window.
    pub window: u32,
    /// Its chunk in the window.
    pub chunk: u32,
    /// The first of the chunk's rows that is in it.
    pub from: u32,
    /// The one behind the last.
    pub to: u32,
}

impl Piece {
    /// Its rows' places in the chunk.
    pub fn range(self) -> Range<usize> {
        self.from as usize..self.to as usize
    }

    /// How many rows it has.
    pub fn rows(self) -> u32 {
        self.to - self.from
    }

    /// The piece in up to `parts` smaller ones.
    pub fn split(self, parts: u32) -> impl Iterator<Item = Self> {
        let step = self.rows().div_ceil(parts).max(1);
        (self.from..self.to).step_by(step as usize).map(move |from| Self { from, to: self.to.min(from + step), ..self })
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}-{}", self.window, self.chunk, self.from, self.to)
    }
}

impl FromStr for Piece {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split(['.', '-']).map(|part| part.parse().map_err(|_| ()));
        let mut next = || parts.next().unwrap_or(Err(()));
        let piece = Self { window: next()?, chunk: next()?, from: next()?, to: next()? };
        if piece.to_string() == text && piece.from < piece.to { Ok(piece) } else { Err(()) }
    }
}

/// Plans the jobs of a window: every row of `rows` is in exactly one chunk. Rows of different lengths are sorted, so that a
/// chunk hardly pads; where the model has no mask, a chunk has rows of one length.
pub(crate) fn plan(inputs: &[Lowered], signature: &Signature, limits: Limits, mut rows: Vec<u32>) -> Vec<Chunk> {
    let may_pad = signature.mask().is_some();
    let free: Vec<&Lowered> = inputs.iter().filter(|input| input.free_dim().is_some()).collect();
    let lengths = |row: u32| free.iter().map(|input| input.length(row)).collect::<Vec<_>>();
    let length = |row: u32| free.iter().map(|input| input.length(row)).max().unwrap_or(1);
    if !free.is_empty() {
        rows.sort_by_cached_key(|row| (length(*row), lengths(*row), *row));
    }
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut open = Open::default();
    for row in rows {
        let with = open.with(row, length(row), inputs);
        let fits = with.rows <= limits.rows && with.elements <= limits.elements && with.bytes <= limits.bytes;
        let is_like = |other: u32| {
            free.is_empty() || if may_pad { !with.wastes(limits.rows) } else { lengths(other) == lengths(row) }
        };
        match chunks.last_mut() {
            Some(chunk) if fits && is_like(chunk.rows[0]) => {
                chunk.rows.push(row);
                open = with;
            }
            _ => {
                chunks.push(Chunk { rows: vec![row] });
                open = Open::default().with(row, length(row), inputs);
            }
        }
    }
    chunks
}

/// What is in a chunk that may still grow.
#[derive(Debug, Clone, Copy, Default)]
struct Open {
    rows: usize,
    longest: usize,
    /// Of all rows, without padding.
    lengths: usize,
    /// Of the largest input, padded.
    elements: usize,
    bytes: usize,
}

impl Open {
    /// With one more row, which is no shorter than any before.
    fn with(self, row: u32, length: usize, inputs: &[Lowered]) -> Self {
        let (rows, longest) = (self.rows + 1, length.max(self.longest));
        let padded = |input: &Lowered| {
            let one = input.bytes(row).len() / input.length(row).max(1);
            rows * one * if input.free_dim().is_some() { longest } else { 1 }
        };
        let elements = inputs.iter().map(|input| padded(input) / input.size).max().unwrap_or(0);
        // A mask that is made may take as much again as the largest input has elements.
        let bytes = inputs.iter().map(padded).sum::<usize>() + if longest > 1 { elements * 8 } else { 0 };
        Self { rows, longest, lengths: self.lengths + length, elements, bytes }
    }

    /// Whether it is better closed than padded: it is no small chunk any more, and this row would have all others padded.
    fn wastes(self, max_rows: usize) -> bool {
        let padded = self.rows * self.longest;
        let waste = (padded - self.lengths) as f64 / padded.max(1) as f64;
        self.rows > max_rows / 4 && waste > WASTE
    }
}

/// The job of these rows.
pub(crate) fn body(inputs: &[Lowered], signature: &Signature, outputs: Option<&[String]>, rows: &[u32]) -> Vec<u8> {
    let longest = |input: &Lowered| rows.iter().map(|row| input.length(*row)).max().unwrap_or(1);
    let is_made = |input: &&Input| input.mask && inputs.iter().all(|known| known.spec.name != input.name);
    let mut tensors: Vec<Tensor<'_>> = inputs.iter().map(|input| tensor(input, rows, longest(input))).collect();
    let lengths = inputs.iter().find(|input| input.free_dim().is_some());
    // Of equal lengths nothing is padding: the worker makes the mask by itself.
    let is_padded = lengths.is_some_and(|input| rows.iter().any(|row| input.length(*row) < longest(input)));
    if let (Some(mask), Some(input), true) = (signature.inputs.iter().find(is_made), lengths, is_padded) {
        tensors.push(mask_of(mask, input, rows, longest(input)));
    }
    let outputs = outputs.map(|names| names.iter().map(String::as_str).collect());
    JobBody { id: None, inputs: tensors, outputs }.encode()
}

fn tensor<'a>(input: &'a Lowered, rows: &[u32], longest: usize) -> Tensor<'a> {
    let mut dims: Vec<usize> = input.spec.shape.iter().map(|dim| usize::try_from(*dim).unwrap_or(longest)).collect();
    dims[0] = rows.len();
    let (first, last) = (rows[0], rows[rows.len() - 1]);
    let free = input.free_dim();
    let is_even = free.is_none() || rows.iter().all(|row| input.length(*row) == longest);
    let follow = rows.is_sorted() && (last - first) as usize + 1 == rows.len();
    let data = match (is_even, follow) {
        (true, true) => Cow::Borrowed(input.span(first, last)),
        (true, false) => Cow::Owned(rows.iter().flat_map(|row| input.bytes(*row)).copied().collect()),
        (false, _) => Cow::Owned(padded(input, rows, &dims, free.unwrap_or(1))),
    };
    let shape =
        Shape::try_new(&dims).expect("the worker has checked that a shape has no more than MAX_RANK dimensions");
    Tensor { name: &input.spec.name, datatype: input.spec.datatype, shape, data }
}

/// Rows filled up along the free dimension.
fn padded(input: &Lowered, rows: &[u32], dims: &[usize], free: usize) -> Vec<u8> {
    let fill = element(input.spec.datatype, if input.spec.mask { 0.0 } else { input.spec.pad });
    let outer: usize = dims[1..free].iter().product();
    let inner: usize = dims[free + 1..].iter().product::<usize>() * input.size;
    let mut out = Vec::with_capacity(dims.iter().product::<usize>() * input.size);
    for &row in rows {
        let real = input.length(row) * inner;
        let missing = (dims[free] - input.length(row)) * inner / input.size;
        for at in 0..outer {
            out.extend_from_slice(&input.bytes(row)[at * real..(at + 1) * real]);
            (0..missing).for_each(|_| out.extend_from_slice(&fill));
        }
    }
    out
}

/// Ones where a row has data, zeros where it is filled up.
fn mask_of<'a>(mask: &'a Input, input: &Lowered, rows: &[u32], longest: usize) -> Tensor<'a> {
    let (one, zero) = (element(mask.datatype, 1.0), element(mask.datatype, 0.0));
    let mut data = Vec::with_capacity(rows.len() * longest * one.len());
    for &row in rows {
        (0..longest).for_each(|at| data.extend_from_slice(if at < input.length(row) { &one } else { &zero }));
    }
    let shape = Shape::try_new(&[rows.len(), longest]).expect("two dimensions are fewer than any limit");
    Tensor { name: &mask.name, datatype: mask.datatype, shape, data: Cow::Owned(data) }
}

fn element(datatype: Datatype, value: f64) -> Vec<u8> {
    match datatype {
        Datatype::Bool => vec![u8::from(value != 0.0)],
        Datatype::Uint8 => (value as u8).to_le_bytes().to_vec(),
        Datatype::Int8 => (value as i8).to_le_bytes().to_vec(),
        Datatype::Int16 => (value as i16).to_le_bytes().to_vec(),
        Datatype::Int32 => (value as i32).to_le_bytes().to_vec(),
        Datatype::Int64 => (value as i64).to_le_bytes().to_vec(),
        Datatype::Fp16 => f16::from_f64(value).to_le_bytes().to_vec(),
        Datatype::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
        Datatype::Fp32 => (value as f32).to_le_bytes().to_vec(),
        Datatype::Fp64 => value.to_le_bytes().to_vec(),
        Datatype::Bytes => Vec::new(),
    }
}
