//! What stages hand on: many at once, at one wake-up.

/// Takes a burst out of where it was gathered. What gathers the next one has room for as many, so that it does not grow job by job.
pub fn take<T>(gathered: &mut Vec<T>) -> Vec<T> {
    let next = Vec::with_capacity(gathered.len());
    std::mem::replace(gathered, next)
}
