use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::datatype::Datatype;
use crate::headers::InvalidHeader;
use crate::limits::{MAX_ID_BYTES, MAX_NAME_BYTES, MAX_RANK};

/// Why a job has no result: the closed set of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The body or a header cannot be read.
    InvalidMessage,
    /// The body is readable, but its tensors are not what the contract or the model takes.
    InvalidInput,
    /// No such model here.
    UnknownModel,
    /// The model is here, the pinned version is not.
    UnknownVersion,
    /// The job or its result is over a size limit.
    TooLarge,
    /// The job's timeout passed before it ran.
    DeadlineExceeded,
    /// The model threw on this job.
    ModelError,
    /// The job alone does not fit the device's memory.
    ResourceExhausted,
    /// The job kept killing workers, or could not be delivered at all.
    Quarantined,
    /// The sender withdrew the job.
    Cancelled,
    /// A fault of the worker.
    Internal,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 11] = [
        Self::InvalidMessage,
        Self::InvalidInput,
        Self::UnknownModel,
        Self::UnknownVersion,
        Self::TooLarge,
        Self::DeadlineExceeded,
        Self::ModelError,
        Self::ResourceExhausted,
        Self::Quarantined,
        Self::Cancelled,
        Self::Internal,
    ];

    /// The code on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidMessage => "invalid_message",
            Self::InvalidInput => "invalid_input",
            Self::UnknownModel => "unknown_model",
            Self::UnknownVersion => "unknown_version",
            Self::TooLarge => "too_large",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ModelError => "model_error",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Quarantined => "quarantined",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }

    /// Whether the same job, sent again, could succeed.
    pub fn retryable(self) -> bool {
        matches!(self, Self::DeadlineExceeded | Self::ResourceExhausted | Self::Internal)
    }

    /// Whether operators have to see such a job, whatever its sender wants: it is not, or not only, the job's own fault.
    pub fn concerns_operators(self) -> bool {
        matches!(self, Self::Quarantined | Self::Internal)
    }

    /// Whether the job's bytes are kept as a dead letter: all but jobs that nobody waits for any more.
    pub fn keeps_dead_letter(self) -> bool {
        !matches!(self, Self::DeadlineExceeded | Self::Cancelled)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ErrorCode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|code| code.as_str() == text)
            .ok_or_else(|| format!("error code {text:?} is not in contract version 1"))
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What is wrong with a job, in the sender's terms. [`InvalidJob::code`] is what the error result carries.
#[derive(Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum InvalidJob {
    #[error(transparent)]
    Header(#[from] InvalidHeader),
    #[error("body has {bytes} bytes, the limit is {limit}")]
    BodyTooLarge { bytes: usize, limit: usize },
    #[error("body is not a job: {0}")]
    Syntax(String),
    #[error("body has bytes behind its end")]
    TrailingBytes,
    #[error("\"id\" has {bytes} bytes, the limit is {MAX_ID_BYTES}")]
    IdTooLong { bytes: usize },
    #[error("\"id\" has a control character")]
    IdControl,
    #[error("\"id\" is empty")]
    IdEmpty,
    #[error("output {name:?} is asked for twice")]
    DuplicateOutput { name: String },
    #[error("\"inputs\" is missing or empty")]
    NoInputs,
    #[error("input number {index} has no \"{key}\"")]
    MissingKey { index: usize, key: &'static str },
    #[error("an input name has {bytes} bytes, the limit is {MAX_NAME_BYTES}")]
    NameTooLong { bytes: usize },
    #[error("input {name:?} is given twice")]
    DuplicateInput { name: String },
    #[error("input {name:?}: datatype {datatype:?} is none of {}", known_datatypes())]
    UnknownDatatype { name: String, datatype: String },
    #[error("input {name:?}: {rank} dimensions, the limit is {MAX_RANK}")]
    RankTooHigh { name: String, rank: usize },
    #[error("input {name:?}: shape [] has no row dimension")]
    NoRowDimension { name: String },
    #[error("input {name:?}: dimension {index} of shape {shape:?} is negative")]
    NegativeDimension { name: String, index: usize, shape: Vec<i64> },
    #[error("input {name:?}: shape {shape:?} has 0 rows, at least 1 is needed")]
    ZeroRows { name: String, shape: Vec<i64> },
    #[error("input {name:?}: shape {shape:?} has more elements than memory has addresses")]
    ShapeOverflow { name: String, shape: Vec<i64> },
    #[error("input {name:?}: {elements} values of {datatype} need {need} bytes, got {got}")]
    ByteLength { name: String, elements: usize, datatype: Datatype, need: usize, got: usize },
    #[error("input {name:?}: shape {shape:?} needs {need} values, got {got}")]
    ElementCount { name: String, shape: Vec<i64>, need: usize, got: usize },
    #[error("input {name:?}: value {index} is {value}, which is no {datatype}")]
    Element { name: String, index: usize, value: String, datatype: Datatype },
    #[error("input {name:?}: BYTES data is cut off in element {index} of {need}")]
    BytesTruncated { name: String, index: usize, need: usize },
    #[error("input {name:?} has {rows} rows, input {first:?} has {first_rows}")]
    RowsDiffer { name: String, rows: usize, first: String, first_rows: usize },
}

fn known_datatypes() -> String {
    Datatype::ALL.map(Datatype::as_str).join(" ")
}

impl InvalidJob {
    /// The code an error result for this carries.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Header(_) | Self::Syntax(_) | Self::TrailingBytes => ErrorCode::InvalidMessage,
            Self::BodyTooLarge { .. } => ErrorCode::TooLarge,
            _ => ErrorCode::InvalidInput,
        }
    }
}
