//! Limits of contract version 1. They bound what one message can make a reader do; the size of a whole body is a
//! setting of the reader, because brokers differ in it.

/// Inputs or outputs in one body. Far above any model we know; keeps a map of a million names from being built.
pub const MAX_TENSORS: usize = 64;

/// Dimensions of one tensor, the row dimension included.
pub const MAX_RANK: usize = 8;

/// Length of a tensor name, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// Length of a job id, in bytes. It travels in a header, and NATS bounds the header block to 64 KiB.
pub const MAX_ID_BYTES: usize = 256;

/// Length of a `tracestate` that is passed on, in bytes: what W3C asks to be passed on at least. A longer one is left out. With both of
/// these, a result's headers stay far below NATS's 64 KiB.
pub const MAX_TRACESTATE_BYTES: usize = 512;

/// Likewise of a `baggage`.
pub const MAX_BAGGAGE_BYTES: usize = 8192;

/// Nesting of arrays and maps in a body. The contract itself needs 5; `parameters` may nest a little more.
pub const MAX_DEPTH: usize = 16;

/// Longest timeout a job may ask for: 7 days, in milliseconds.
pub const MAX_TIMEOUT_MS: u64 = 7 * 24 * 3600 * 1000;

/// Elements of one tensor written as an array instead of `bin`. Arrays are for hand-written jobs; each element costs a
/// reader 24 bytes while it is checked.
pub const MAX_ARRAY_ELEMENTS: usize = 1 << 20;

/// Elements of one row of a model's input or output, free dimensions counted as 1: 1 GiB of FP32. A manifest beyond is a
/// mistake, and warming it up would take the worker down.
pub const MAX_ROW_ELEMENTS: i64 = 1 << 28;
