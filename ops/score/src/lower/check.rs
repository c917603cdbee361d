//! What may be wrong with a row, by name, value and limit.

use arrow::buffer::NullBuffer;
use gristmill_schemas::Datatype;
use gristmill_schemas::manifest::Input;
use half::{bf16, f16};

use super::{Ends, Fault, Faults};

/// Collects what is wrong with rows.
pub(super) struct Check<'a> {
    pub(super) spec: &'a Input,
    pub(super) faults: &'a mut Faults,
    pub(super) rows: usize,
}

impl Check<'_> {
    pub(super) fn fault(&mut self, row: usize, what: String) {
        let (row, name) = (row as u32, &self.spec.name);
        self.faults.entry(row).or_insert_with(|| Fault::invalid(format!("input {name:?}: {what}")));
    }

    /// Rows that are null themselves.
    pub(super) fn nulls(&mut self, nulls: Option<&NullBuffer>) {
        let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) else { return };
        (0..self.rows).filter(|row| nulls.is_null(*row)).for_each(|row| self.fault(row, "the row is null".into()));
    }

    /// Rows that hold values which are none of the datatype.
    pub(super) fn values(&mut self, bad: Option<&NullBuffer>, ends: &Ends) {
        let Some(bad) = bad.filter(|bad| bad.null_count() > 0) else { return };
        for row in 0..self.rows {
            if let Some(at) = ends.range(row).position(|at| bad.is_null(at)) {
                self.fault(row, format!("value {at} is null or no {}", self.spec.datatype));
            }
        }
    }

    pub(super) fn lengths(&mut self, ends: &Ends, inner: usize, free: bool) {
        if matches!(ends, Ends::Even(width) if *width == inner && !free) {
            return;
        }
        for row in 0..self.rows {
            let have = ends.range(row).len();
            if !free && have != inner {
                self.fault(row, format!("the row has {have} values, the model takes {inner}"));
            } else if free && (have == 0 || !have.is_multiple_of(inner.max(1))) {
                let shape = &self.spec.shape[1..];
                self.fault(row, format!("the row has {have} values, which do not make up a shape of {shape:?}"));
            }
        }
    }

    /// A row of lists has as many of them as the model wants.
    pub(super) fn outer_lists(&mut self, lists: &Ends, want: i64) {
        for row in (0..self.rows).filter(|_| want != -1) {
            let have = lists.range(row).len();
            if have as i64 != want {
                self.fault(row, format!("the row has {have} lists, the model takes {want}"));
            }
        }
    }

    /// Rows that hold a list which is null.
    pub(super) fn null_lists(&mut self, nulls: Option<&NullBuffer>, ends: &Ends) {
        let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) else { return };
        for row in 0..self.rows {
            if ends.range(row).any(|at| nulls.is_null(at)) {
                self.fault(row, "a list within the row is null".into());
            }
        }
    }

    /// Lists within lists have to be as long as the model wants them.
    pub(super) fn inner_lists(&mut self, outer: &Ends, inner: &Ends, want: Option<i64>) {
        if matches!((inner, want), (Ends::Even(_), None))
            || matches!((inner, want), (Ends::Even(a), Some(b)) if *a as i64 == b)
        {
            return;
        }
        for row in 0..self.rows {
            let mut lengths = outer.range(row).map(|at| inner.range(at).len());
            let Some(first) = lengths.next() else { continue };
            let want = want.filter(|want| *want != -1).map_or(first, |want| want as usize);
            if let Some(other) = std::iter::once(first).chain(lengths).find(|length| *length != want) {
                self.fault(row, format!("a list within the row has {other} values, {want} are wanted"));
            }
        }
    }

    /// Values outside what the model takes. NaN is in no range.
    pub(super) fn range(&mut self, values: &[u8], ends: &Ends) {
        let Some([low, high]) = self.spec.range else { return };
        let size = self.spec.datatype.size().unwrap_or(1);
        for row in 0..self.rows {
            if self.faults.contains_key(&(row as u32)) {
                continue;
            }
            let range = ends.range(row);
            let outside = |value: f64| !(low..=high).contains(&value);
            if let Some((at, value)) = find(self.spec.datatype, &values[range.start * size..range.end * size], outside)
            {
                self.fault(row, format!("value {at} is {value}, the model takes {low} to {high}"));
            }
        }
    }
}

/// The first value that `is_wanted`.
fn find(datatype: Datatype, bytes: &[u8], is_wanted: impl Fn(f64) -> bool) -> Option<(usize, f64)> {
    macro_rules! look {
        ($size:literal, $read:expr) => {
            bytes.as_chunks::<$size>().0.iter().map(|bytes| $read(*bytes)).enumerate().find(|(_, v)| is_wanted(*v))
        };
    }
    match datatype {
        Datatype::Bool | Datatype::Uint8 => look!(1, |b: [u8; 1]| f64::from(b[0])),
        Datatype::Int8 => look!(1, |b| f64::from(i8::from_le_bytes(b))),
        Datatype::Int16 => look!(2, |b| f64::from(i16::from_le_bytes(b))),
        Datatype::Int32 => look!(4, |b| f64::from(i32::from_le_bytes(b))),
        Datatype::Int64 => look!(8, |b| i64::from_le_bytes(b) as f64),
        Datatype::Fp16 => look!(2, |b| f16::from_le_bytes(b).to_f64()),
        Datatype::Bf16 => look!(2, |b| bf16::from_le_bytes(b).to_f64()),
        Datatype::Fp32 => look!(4, |b| f64::from(f32::from_le_bytes(b))),
        Datatype::Fp64 => look!(8, f64::from_le_bytes),
        Datatype::Bytes => None,
    }
}
