//! Tables by stream sequence whose neighbours lie side by side. Jobs that come together mostly end together, and thousands are open:
//! at places chosen at random, each look would wait for memory.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table by sequence: numbers that only the server gives, so a hash that resists chosen keys would be wasted.
pub type BySequence<T> = HashMap<u64, T, BuildHasherDefault<Neighbours>>;

/// Sequences of one block keep their order; blocks are scattered. A block has to be smaller than the 16 places that the table looks at
/// together: what is removed from a longer run leaves a mark that every later look passes by, until the table is made anew.
const BLOCK_BITS: u32 = 3;

/// Scatters: 2^64 over the golden ratio, odd (Knuth, The Art of Computer Programming 3, 6.4).
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The table reads where to begin in the lower bits of a hash, and a tag to compare in its upper seven.
const TAG_BITS: u32 = 7;

/// A hash of one number.
#[derive(Debug, Default)]
pub struct Neighbours(u64);

impl Hasher for Neighbours {
    fn write(&mut self, bytes: &[u8]) {
        // Not for anything but numbers; what comes is told apart all the same.
        bytes.iter().for_each(|byte| self.write_u64(self.0 << 8 ^ u64::from(*byte)));
    }

    fn write_u64(&mut self, sequence: u64) {
        let block = (sequence >> BLOCK_BITS).wrapping_mul(SCATTER) >> 32;
        let place = block.wrapping_add(sequence & ((1 << BLOCK_BITS) - 1));
        let tag = sequence.wrapping_mul(SCATTER) >> (64 - TAG_BITS) << (64 - TAG_BITS);
        self.0 = place << TAG_BITS >> TAG_BITS | tag;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    fn places(sequences: impl Iterator<Item = u64>, table: u64) -> Vec<u64> {
        let hash = BySequence::<()>::default().hasher().clone();
        sequences.map(|sequence| hash.hash_one(sequence) % table).collect()
    }

    #[test]
    fn sequences_of_a_block_lie_side_by_side() {
        let places = places(8192..8200, 1024);
        assert!(places.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 1024), "{places:?}");
    }

    #[test]
    fn a_table_that_jobs_come_to_and_leave_is_made_anew_but_once() {
        for jobs in [300, 1000, 1700, 2048] {
            let mut open: BySequence<()> = (0..jobs).map(|sequence| (sequence, ())).collect();
            let (mut room, mut made_anew) = (open.capacity(), 0);
            for sequence in jobs..100_000 {
                open.insert(sequence, ());
                open.remove(&(sequence - jobs));
                // Marks of what was removed take room away.
                made_anew += usize::from(open.capacity() > room);
                room = open.capacity();
            }
            assert!(made_anew <= 1, "{made_anew} times, of {jobs} jobs");
        }
    }

    #[test]
    fn one_in_so_many_sequences_is_spread_too() {
        for step in [1, 2, 16, 256, 1000, 1024, 4096, 1 << 20, 1 << 40] {
            // The table looks at 16 places at once: a full group sends the look on to another.
            let mut groups = [0; 256];
            places((1..=2048).map(|i| i * step), 4096).iter().for_each(|place| groups[*place as usize / 16] += 1);
            assert!(groups.iter().all(|count| *count <= 32), "every {step}th: {groups:?}");
        }
    }

    #[test]
    fn tags_tell_neighbours_apart() {
        let hash = BySequence::<()>::default().hasher().clone();
        let tags: HashSet<u64> = (1000..1016).map(|sequence| hash.hash_one(sequence) >> 57).collect();
        assert!(tags.len() > 12, "{tags:?}");
    }
}
