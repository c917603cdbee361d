//! The file: a header page and slots of a fixed size, mapped and written with plain and atomic stores. Nothing is ever
//! synced: a dead process leaves its pages to the kernel, and a dead machine has lost the jobs' deliveries anyway.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapRaw;

/// First bytes of the file. The last digit is the version of the layout.
const MAGIC: u64 = u64::from_le_bytes(*b"GMLEDGR1");

/// Bytes of the header.
const HEADER: usize = 4096;

/// Bytes of one slot: four words, then the ack subject.
const SLOT: usize = 384;

/// Longest ack subject that fits. JetStream's have about 100 bytes, with the longest names we allow about 300.
pub(crate) const MAX_ACK: usize = SLOT - 4 * 8;

/// Words of the header.
#[derive(Clone, Copy)]
pub(crate) enum Header {
    /// [`MAGIC`].
    Magic = 0,
    /// When the owner was last seen alive, in milliseconds since 1970.
    Touched = 1,
    /// How long after that the server delivers the jobs again, in milliseconds.
    AckWait = 2,
    /// How the owner died and of which run, see [`crate::judge::Death`]; 0 if it did not say.
    Death = 3,
    /// Jobs asked for and not delivered yet.
    Asked = 4,
}

/// The mapped file.
pub(crate) struct Map {
    raw: MmapRaw,
    slots: usize,
}

impl Map {
    /// Maps a locked file with room for at least `slots`, reserving its blocks: a write to a mapped page that a full
    /// disk cannot back would kill the process. A file that is no ledger is emptied; the flag tells of that.
    pub(crate) fn open(file: &File, slots: usize) -> io::Result<(Self, bool)> {
        let found = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let held = found.saturating_sub(HEADER) / SLOT;
        let slots = slots.max(held);
        let bytes = HEADER + slots * SLOT;
        reserve(file, bytes)?;
        let map = Self { raw: MmapRaw::map_raw(file)?, slots };
        let magic = map.header(Header::Magic).load(Ordering::Acquire);
        let is_foreign = found > 0 && magic != MAGIC;
        if is_foreign {
            map.clear();
        }
        map.header(Header::Magic).store(MAGIC, Ordering::Release);
        Ok((map, is_foreign))
    }

    fn clear(&self) {
        // SAFETY: the mapping has this many bytes, and nobody else refers into it yet: it was mapped just now.
        unsafe { self.raw.as_mut_ptr().write_bytes(0, HEADER + self.slots * SLOT) }
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    pub(crate) fn header(&self, word: Header) -> &AtomicU64 {
        self.word(word as usize * 8)
    }

    /// The word that says what the slot's job is doing.
    pub(crate) fn state(&self, slot: usize) -> &AtomicU64 {
        self.slot_word(slot, 0)
    }

    fn slot_word(&self, slot: usize, word: usize) -> &AtomicU64 {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        self.word(HEADER + slot * SLOT + word * 8)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        // SAFETY: `at` is a multiple of 8 within the mapping, which is page-aligned and lives as long as `self`; every
        // access to it in this process is atomic, but for the bytes of an ack subject, which no word overlaps.
        unsafe { AtomicU64::from_ptr(self.raw.as_mut_ptr().add(at).cast()) }
    }

    fn ack_ptr(&self, slot: usize) -> *mut u8 {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        // SAFETY: within the mapping, as asserted.
        unsafe { self.raw.as_mut_ptr().add(HEADER + slot * SLOT + 4 * 8) }
    }

    /// Writes all of a slot but its state. Only the owner of a free slot may.
    pub(crate) fn write(&self, slot: usize, sequence: u64, ack: &[u8]) {
        assert!(ack.len() <= MAX_ACK, "an ack subject of {} bytes", ack.len());
        // SAFETY: the length was checked; the slot is free, so that nobody else reads or writes these bytes.
        unsafe { self.ack_ptr(slot).copy_from_nonoverlapping(ack.as_ptr(), ack.len()) }
        self.slot_word(slot, 1).store(sequence, Ordering::Relaxed);
        self.slot_word(slot, 2).store(ack.len() as u64, Ordering::Relaxed);
        self.slot_word(slot, 3).store(checksum(sequence, ack), Ordering::Relaxed);
    }

    /// Reads a slot; `None` where its parts do not belong together.
    pub(crate) fn read(&self, slot: usize) -> Option<(u64, String)> {
        let sequence = self.slot_word(slot, 1).load(Ordering::Relaxed);
        let length = usize::try_from(self.slot_word(slot, 2).load(Ordering::Relaxed)).ok()?;
        if length > MAX_ACK {
            return None;
        }
        // SAFETY: within the slot; read before any slot is handed out, so that nobody writes.
        let ack = unsafe { std::slice::from_raw_parts(self.ack_ptr(slot), length) }.to_vec();
        let whole = self.slot_word(slot, 3).load(Ordering::Relaxed) == checksum(sequence, &ack);
        String::from_utf8(ack).ok().filter(|_| whole).map(|ack| (sequence, ack))
    }
}

fn reserve(file: &File, bytes: usize) -> io::Result<()> {
    let length = i64::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: a system call on a descriptor that `file` keeps open.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Tells a slot written in full from one that is not. Fowler, Noll and Vo's hash (FNV-1a), a word at a time.
fn checksum(sequence: u64, ack: &[u8]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |word: u64| hash = (hash ^ word).wrapping_mul(PRIME).rotate_left(23);
    mix(sequence);
    mix(ack.len() as u64);
    for chunk in ack.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(u64::from_le_bytes(word));
    }
    hash
}
