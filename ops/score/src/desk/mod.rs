//! What to send next, and what an answer means: all decisions of a run. Pure; receives `now`.

mod terms;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gristmill_schemas::{ErrorCode, Reply, TraceContext};
use sha2::{Digest, Sha256};

pub use self::terms::{Closed, Heard, Job, Room, Settings, Stop};
use crate::chunk::Piece;
use crate::gather::{Gathering, Unfit};
use crate::lower::Fault;

/// From the first open window to the last: others do not run on for ever while one is held up.
const MAX_SPAN: u32 = 16;

/// Windows that are open at once: one that is nearly done, two at work, one to come.
const MAX_OPEN: usize = 4;

/// How often a job is sent again whose error says that it might succeed.
const MAX_RETRIES: u32 = 3;

/// Pieces that a job with a bad row becomes: with 16, one bad row of 256 is found in 32 jobs.
const PARTS: u32 = 16;

/// Longest rest after an answer, however late that came.
const MAX_REST: Duration = Duration::from_secs(1);

/// Answers are kept for so many windows that are not open: those to jobs of an earlier process, which had its windows no
/// further apart.
const MAX_EARLY_WINDOWS: u32 = 2 * MAX_SPAN;

/// Owns the windows on their way.
pub struct Desk {
    settings: Settings,
    room: Room,
    windows: BTreeMap<u32, Gathering>,
    /// For each open window, what was read of the results when it was opened: its answers come behind.
    since: BTreeMap<u32, u64>,
    /// Windows that need no answers any more.
    closed: Closed,
    done: VecDeque<Gathering>,
    waiting: VecDeque<(Piece, u32)>,
    sent: HashMap<Piece, Sent>,
    sent_bytes: usize,
    /// No job is sent before.
    rests: Option<Instant>,
    /// Lengths of all rows sent, and what they were filled up to.
    lengths: [u64; 2],
    early: HashMap<Piece, Bytes>,
}

/// A job without an answer.
struct Sent {
    attempt: u32,
    bytes: usize,
    at: Instant,
    /// Where it is stored; none before the broker said so.
    sequence: Option<u64>,
    /// It was settled when last looked, and its answer was not here.
    is_suspect: bool,
}

impl Desk {
    /// Without windows.
    pub fn new(settings: Settings, room: Room, closed: Closed) -> Self {
        let (windows, since, done, waiting) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new(), VecDeque::new());
        Self {
            settings,
            room,
            windows,
            since,
            closed,
            done,
            waiting,
            sent: HashMap::new(),
            sent_bytes: 0,
            rests: None,
            lengths: [0; 2],
            early: HashMap::new(),
        }
    }

    /// From now on so much may be without an answer.
    pub fn set_room(&mut self, room: Room) {
        self.room = room;
        self.rests = self.rests.filter(|_| room.rest > 0.0);
    }

    /// When the next job may be sent, if there is one and it has to wait for a time.
    pub fn wakes(&self) -> Option<Instant> {
        self.rests.filter(|_| !self.waiting.is_empty())
    }

    /// Whether there is room for one more window.
    pub fn wants_window(&self) -> bool {
        let first = self.windows.keys().next().copied();
        let span = self.windows.keys().next_back().zip(first).map_or(0, |(last, first)| last - first);
        self.windows.len() + self.done.len() < MAX_OPEN && span < MAX_SPAN
    }

    /// When the job was sent that waits longest for its answer.
    pub fn oldest(&self) -> Option<Instant> {
        self.sent.values().map(|sent| sent.at).min()
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.done.is_empty()
    }

    /// Jobs without an answer.
    pub fn outstanding(&self) -> usize {
        self.sent.len()
    }

    /// How much of what was sent is padding.
    pub fn padding(&self) -> f64 {
        let [real, padded] = self.lengths;
        if padded == 0 { 0.0 } else { 1.0 - real as f64 / padded as f64 }
    }

    /// Rows of open windows that failed.
    pub fn errors(&self) -> usize {
        self.windows.values().chain(&self.done).map(Gathering::errors).sum()
    }

    /// Rows of open windows that have an answer or a fault.
    pub fn answered(&self) -> usize {
        self.windows.values().chain(&self.done).map(|window| window.rows() - window.open()).sum()
    }

    /// From which sequence on results are needed; none where all that were read are on disk, or will be.
    pub fn needed_from(&self) -> Option<u64> {
        // Answers that came before their windows are known to this process only.
        let of_windows = self.since.values().min().map(|read| read + 1);
        if self.early.is_empty() { of_windows } else { Some(1) }
    }

    /// Takes a window, when results were read up to this sequence.
    pub fn open(&mut self, window: Gathering, read: u64) {
        let read = if self.early.is_empty() { read } else { 0 };
        self.since.insert(window.index(), read);
        self.waiting.extend(window.pieces().map(|piece| (piece, 0)));
        self.windows.insert(window.index(), window);
        self.close_complete();
    }

    fn close_complete(&mut self) {
        let complete: Vec<u32> = self.windows.values().filter(|w| w.is_complete()).map(Gathering::index).collect();
        let windows = &mut self.windows;
        self.done.extend(complete.iter().filter_map(|index| windows.remove(index)));
    }

    /// A window whose every row is accounted for.
    pub fn complete(&mut self) -> Option<Gathering> {
        self.done.pop_front()
    }

    /// A window is on disk: its answers are not needed again.
    pub fn written(&mut self, window: u32) {
        self.since.remove(&window);
        self.closed.add(window);
        self.early.retain(|piece, _| piece.window != window);
    }

    /// The next job, if the outstanding ones leave room for it. Answers that are here already are taken instead of asked for.
    pub fn next(&mut self, now: Instant) -> Result<Option<Job>, Stop> {
        if self.rests.is_some_and(|until| now < until) {
            return Ok(None);
        }
        self.rests = None;
        while self.sent_bytes < self.room.bytes && self.sent.len() < self.room.jobs {
            let Some((piece, attempt)) = self.waiting.pop_front() else { return Ok(None) };
            if let Some(payload) = self.early.remove(&piece) {
                self.take(piece, attempt, &payload)?;
                continue;
            }
            let Some(window) = self.windows.get_mut(&piece.window) else { continue };
            let body = window.body(piece);
            if body.len() > self.settings.max_bytes {
                let (bytes, limit) = (body.len(), self.settings.max_bytes);
                let message = format!("the job has {bytes} bytes, the broker takes {limit}");
                self.give_up(piece, ErrorCode::TooLarge, message);
                continue;
            }
            let sent = Sent { attempt, bytes: body.len(), at: now, sequence: None, is_suspect: false };
            self.sent_bytes += body.len();
            let [real, padded] = window.lengths_of(piece);
            self.lengths = [self.lengths[0] + real, self.lengths[1] + padded];
            self.sent.insert(piece, sent);
            let (id, trace) = (self.id(piece), self.trace(piece));
            let message_id = if attempt == 0 { id.clone() } else { format!("{id}~{attempt}") };
            return Ok(Some(Job { piece, id, message_id, trace, body: body.into() }));
        }
        Ok(None)
    }

    /// A job's id: series and piece.
    fn id(&self, piece: Piece) -> String {
        format!("{}/{piece}", self.settings.series)
    }

    /// The same for the same piece, whenever it is sent: it may stand in the output.
    fn trace(&self, piece: Piece) -> TraceContext {
        let digest = Sha256::digest(format!("{}/{piece}", self.settings.run));
        let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
        trace_id.copy_from_slice(&digest[..16]);
        span_id.copy_from_slice(&digest[16..24]);
        let share = u64::from_be_bytes(span_id) as f64 / u64::MAX as f64;
        // Bit 1 says that the trace id is random, which a digest is as good as.
        TraceContext { trace_id, span_id, flags: 2 | u8::from(share < self.settings.trace_ratio) }
    }

    /// The broker has the job.
    pub fn stored(&mut self, piece: Piece, sequence: u64) {
        self.sent.get_mut(&piece).into_iter().for_each(|sent| sent.sequence = Some(sequence));
    }

    /// The broker has not said that it has the job: it is sent again, under the same id.
    pub fn not_stored(&mut self, piece: Piece) {
        if let Some(sent) = self.forget(piece) {
            self.waiting.push_front((piece, sent.attempt));
        }
    }

    fn forget(&mut self, piece: Piece) -> Option<Sent> {
        let sent = self.sent.remove(&piece)?;
        self.sent_bytes -= sent.bytes;
        Some(sent)
    }

    /// The piece of a job of this series.
    pub fn piece(&self, id: &str) -> Option<Piece> {
        id.strip_prefix(&self.settings.series)?.strip_prefix('/')?.parse().ok()
    }

    /// An answer: `id` is the job's. Answers of other series, and second ones, count nothing.
    pub fn reply(&mut self, id: &str, payload: &Bytes, now: Instant) -> Result<Heard, Stop> {
        let Some(piece) = self.piece(id) else { return Ok(Heard::default()) };
        let Some(sent) = self.forget(piece) else {
            self.keep(piece, payload);
            return Ok(Heard::default());
        };
        let heard = self.take(piece, sent.attempt, payload)?;
        let latency = now.saturating_duration_since(sent.at);
        if self.room.rest > 0.0 {
            self.rests = Some(now + latency.mul_f64(self.room.rest).min(MAX_REST));
        }
        Ok(Heard { latency: Some(latency), ..heard })
    }

    /// Keeps an answer that nobody asked for yet: the process before this one did.
    fn keep(&mut self, piece: Piece, payload: &Bytes) {
        let is_near = piece.window < self.closed.next + MAX_EARLY_WINDOWS;
        let is_awaited = self.waiting.iter().any(|(waiting, _)| *waiting == piece);
        let is_to_come = !self.windows.contains_key(&piece.window) && !self.closed.has(piece.window);
        // What ended the run before must not end it again.
        let is_stop = matches!(Reply::decode(payload), Ok(Reply::Error(error)) if is_stop(error.code));
        if is_near && (is_awaited || is_to_come) && !is_stop {
            self.early.insert(piece, payload.clone());
        }
    }

    fn take(&mut self, piece: Piece, attempt: u32, payload: &Bytes) -> Result<Heard, Stop> {
        let Some(window) = self.windows.get_mut(&piece.window) else { return Ok(Heard::default()) };
        let reply = Reply::decode(payload).map_err(|error| Stop::Unfit { piece, why: error.to_string() })?;
        let heard = match reply {
            Reply::Ok(result) => {
                window.answer(piece, payload, &result).map_err(|Unfit(why)| Stop::Unfit { piece, why })?;
                Heard { latency: None, batch_rows: result.parameters.batch_rows }
            }
            Reply::Error(error) => {
                let (code, message) = (error.code, error.message.to_owned());
                match code {
                    _ if is_stop(code) => return Err(Stop::Model(message)),
                    // A fault that may pass. More memory will not come by asking again: fewer rows may.
                    _ if code.retryable() && attempt < MAX_RETRIES && code != ErrorCode::ResourceExhausted => {
                        self.waiting.push_back((piece, attempt + 1));
                    }
                    _ => self.give_up(piece, code, message),
                }
                Heard::default()
            }
        };
        self.close_complete();
        Ok(heard)
    }

    /// The fault is that of some row: a job of several is sent in pieces, that of one is its row's.
    fn give_up(&mut self, piece: Piece, code: ErrorCode, message: String) {
        if piece.rows() > 1 {
            // At once: a window is not held up by the search for its bad rows longer than need be.
            let parts: Vec<Piece> = piece.split(PARTS).collect();
            parts.into_iter().rev().for_each(|part| self.waiting.push_front((part, 0)));
            return;
        }
        let trace_id = self.trace(piece).trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let fault = Fault { code, message, trace_id: Some(trace_id) };
        self.windows.get_mut(&piece.window).into_iter().for_each(|window| window.fail(piece, &fault));
        self.close_complete();
    }

    /// Every job up to this sequence of the jobs stream is settled, and every answer stored until then was read. Jobs whose
    /// answers are not here at two such looks are lost (removed by somebody, or too old to be kept) and sent anew.
    pub fn settled(&mut self, floor: u64) -> usize {
        let is_settled = |sent: &Sent| sent.sequence.is_some_and(|sequence| sequence <= floor);
        let lost: Vec<Piece> =
            self.sent.iter().filter(|(_, sent)| sent.is_suspect && is_settled(sent)).map(|(piece, _)| *piece).collect();
        self.sent.values_mut().for_each(|sent| sent.is_suspect = is_settled(sent));
        for piece in &lost {
            if let Some(sent) = self.forget(*piece) {
                self.waiting.push_front((*piece, sent.attempt + 1));
            }
        }
        lost.len()
    }
}

/// Whether the error is no job's, but ends the run.
fn is_stop(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::UnknownModel | ErrorCode::UnknownVersion)
}
