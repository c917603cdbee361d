use std::fmt;
use std::ops::Deref;

use crate::limits::MAX_RANK;

/// The dimensions of a tensor, row-major, rows first; at most [`MAX_RANK`] of them. Lives on the stack.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The shape with these dimensions; `None` past [`MAX_RANK`].
    pub fn try_new(dims: &[usize]) -> Option<Self> {
        let mut all = [0; MAX_RANK];
        all.get_mut(..dims.len())?.copy_from_slice(dims);
        Some(Self { dims: all, rank: dims.len() as u8 })
    }

    /// So many rows of these further dimensions; `None` past [`MAX_RANK`].
    pub fn of_rows(rows: usize, tail: &[usize]) -> Option<Self> {
        let mut all = [0; MAX_RANK];
        let (first, rest) = all.split_first_mut()?;
        *first = rows;
        rest.get_mut(..tail.len())?.copy_from_slice(tail);
        Some(Self { dims: all, rank: 1 + tail.len() as u8 })
    }

    /// Number of elements; `None` where the product overflows.
    pub fn elements(&self) -> Option<usize> {
        self.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))
    }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.dims[..usize::from(self.rank)]
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
