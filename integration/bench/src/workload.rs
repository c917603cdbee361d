//! What is asked of the contestants. Made from fixed seeds: every run sees the same jobs.

use std::path::PathBuf;

use gristmill_integration::root;
use gristmill_schemas::{Datatype, JobBody, Shape, Tensor};

/// A kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// One row of 64 floats through a small MLP: nothing but overhead.
    Mlp,
    /// 64 such rows in each job.
    Rows,
    /// One picture of 3x224x224 bytes through a small CNN.
    Image,
    /// 4 to 128 token ids through an encoder of 6 layers, width 384, 12 heads; lengths about log-normal around 32.
    Encoder,
}

/// How many jobs, and how a contestant batches them.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Jobs of a run of a fast contestant; the Python worker gets a fifth.
    pub jobs: usize,
    /// Rows of one job.
    pub rows: usize,
    /// Jobs that the Python worker puts into a batch.
    pub python_batch: usize,
    /// Rows of a batch of raw libtorch: the `max_rows` of the package.
    pub best_rows: usize,
}

impl Workload {
    /// Its name, and that of its model.
    pub fn name(self) -> &'static str {
        ["mlp", "rows", "image", "encoder"][self as usize]
    }

    /// The model that it runs on.
    pub fn model(self) -> &'static str {
        match self {
            Self::Rows => "mlp",
            other => other.name(),
        }
    }

    /// Its package.
    pub fn package(self) -> PathBuf {
        root().join("target/bench/models").join(self.model())
    }

    /// How much of it.
    pub fn size(self) -> Size {
        match self {
            Self::Mlp => Size { jobs: 100_000, rows: 1, python_batch: 256, best_rows: 256 },
            Self::Rows => Size { jobs: 20_000, rows: 64, python_batch: 64, best_rows: 256 },
            Self::Image => Size { jobs: 1_500, rows: 1, python_batch: 16, best_rows: 16 },
            Self::Encoder => Size { jobs: 1_500, rows: 1, python_batch: 32, best_rows: 32 },
        }
    }

    /// The body of a job.
    pub fn body(self, index: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(index as u64);
        let floats = |random: &mut fastrand::Rng, count: usize| {
            (0..count).flat_map(|_| (random.f32() * 2.0 - 1.0).to_le_bytes()).collect::<Vec<u8>>()
        };
        let (name, datatype, shape, data) = match self {
            Self::Mlp | Self::Rows => {
                let rows = self.size().rows;
                ("x", Datatype::Fp32, vec![rows, 64], floats(&mut random, rows * 64))
            }
            Self::Image => {
                let bytes = std::iter::repeat_with(|| random.u8(..)).take(3 * 224 * 224).collect();
                ("image", Datatype::Uint8, vec![1, 3, 224, 224], bytes)
            }
            Self::Encoder => {
                let length = length(&mut random);
                let ids = (0..length).flat_map(|_| random.i64(0..30_000).to_le_bytes()).collect();
                ("ids", Datatype::Int64, vec![1, length], ids)
            }
        };
        let shape = Shape::try_new(&shape).expect("a workload has few dimensions");
        JobBody { id: None, inputs: vec![Tensor { name, datatype, shape, data: data.into() }], outputs: None }.encode()
    }
}

/// As in `python/raw.py`: exp(N(ln 32, 0.6)), 4 to 128.
fn length(random: &mut fastrand::Rng) -> usize {
    // Box and Muller, A note on the generation of random normal deviates, 1958.
    let normal = (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (std::f64::consts::TAU * random.f64()).cos();
    (32f64.ln() + 0.6 * normal).exp().clamp(4.0, 128.0) as usize
}
