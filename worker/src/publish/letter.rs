//! A job's end on its way to being stored: which message comes next, and what the server's word about it leads to. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gristmill_schemas::{ErrorCode, TraceContext};

use super::encode::{From, Keep, Message, Names};
use super::heads::Heads;
use super::word::{Stored, Word};
use crate::message::{Answer, Envelope, Outcome, Served};
use crate::ticket::Verdict;

/// First and longest pause between two attempts to store the same message.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Outputs of a result that is sent together with others.
const MAX_TOGETHER_BYTES: usize = 64 << 10;

/// The message that has to be stored next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The result.
    Result,
    /// The error result of a job that nobody is known to have answered. Its dedup id tells whether somebody did: its worker may
    /// have died, or lost its connection, before the acknowledgement, and such a job is no dead letter.
    Check,
    /// The dead letter, with so much of the job.
    Bury(Keep),
    /// The error result.
    Error,
}

/// How it went with one message.
#[derive(Debug, Clone)]
pub(super) struct Trail {
    /// From the first attempt to the last word.
    pub(super) interval: [Instant; 2],
    /// None before the first.
    pub(super) attempts: usize,
    /// Why it was not stored, if it was not.
    pub(super) error: Option<String>,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The message of the present step.
    Send,
    /// The same message, after a pause.
    Retry(Duration),
    /// What is stored in this place of the results stream: whether that is a success.
    Look(u64),
    /// The job was refused just now; then the message of the present step.
    Refuse,
    /// The end.
    Done(Verdict),
}

/// A job that has ended and is not settled.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) envelope: Box<Envelope>,
    pub(super) answer: Answer,
    /// The span that the answer is sent by: its ids stand on it.
    pub(super) context: TraceContext,
    pub(super) step: Step,
    /// Of the present message; its second instant is that of the last attempt until the server speaks.
    pub(super) trail: Trail,
    /// Of the dead letter, if one is stored.
    pub(super) buried: Option<Trail>,
    /// When the last attempt was made.
    pub(super) tried: Instant,
    /// What else travels in the sender's trace goes along, until it makes an answer too large.
    pub(super) passes_on: bool,
    pause: Duration,
}

impl Letter {
    /// Takes an outcome in. Returns what comes first.
    pub(super) fn new(Outcome { envelope, answer }: Outcome, now: Instant) -> (Box<Self>, Next) {
        let context = if envelope.trace.is_recorded { envelope.trace.child() } else { envelope.trace.context };
        let (step, next) = match &answer {
            Answer::Ok { .. } => (Step::Result, Next::Send),
            Answer::Refused { code: ErrorCode::Quarantined, .. } => (Step::Check, Next::Send),
            Answer::Refused { code, .. } => (refusal(*code, &envelope), Next::Refuse),
        };
        let trail = Trail { interval: [now; 2], attempts: 0, error: None };
        let (passes_on, pause) = (envelope.passes_on, BACKOFF.0);
        let letter = Self { envelope, answer, context, step, trail, buried: None, tried: now, passes_on, pause };
        (Box::new(letter), next)
    }

    /// The model that answered, if the job got as far as one.
    pub(super) fn model(&self) -> Option<&Arc<Served>> {
        match &self.answer {
            Answer::Ok { model, .. } => Some(model),
            Answer::Refused { model, .. } => model.as_ref(),
        }
    }

    /// Why there is no result, if there is none.
    pub(super) fn refusal(&self) -> Option<(ErrorCode, &str)> {
        match &self.answer {
            Answer::Ok { .. } => None,
            Answer::Refused { code, message, .. } => Some((*code, message)),
        }
    }

    /// Whether it may be sent together with others: a small result that is not likely to be stored already. What is large gains
    /// nothing by it and would be sent twice if the server did not confirm all; of what may be stored, the server tells only
    /// by itself where.
    pub(super) fn may_go_together(&self) -> bool {
        let Answer::Ok { outputs, .. } = &self.answer else { return false };
        self.envelope.origin.deliveries == 1 && self.trail.attempts == 0 && outputs.bytes() <= MAX_TOGETHER_BYTES
    }

    /// The message of the present step, for one more attempt.
    pub(super) fn message(&mut self, names: &Names, heads: &mut Heads, now: Instant) -> Message {
        if self.trail.attempts == 0 {
            self.trail.interval = [now; 2];
        }
        self.trail.attempts += 1;
        self.tried = now;
        let from = From { envelope: &self.envelope, context: self.context, passes_on: self.passes_on };
        let mut message = match (&self.answer, self.step) {
            (Answer::Ok { model, outputs, parameters }, _) => {
                names.result(from, (model, heads.of(names, model, &self.envelope.reply)), outputs, *parameters)
            }
            (Answer::Refused { code, message, .. }, Step::Bury(keep)) => {
                names.dead_letter(&self.envelope, *code, message, keep)
            }
            (Answer::Refused { model, code, message }, _) => names.error(from, model.as_deref(), *code, message),
        };
        // At first, which stream took it is seen in the answer. Should that be another, it does not get the message again and again.
        if self.trail.attempts > 1 {
            message.only_for(self.stream(names));
        }
        message
    }

    /// The stream that the message of the present step is for.
    pub(super) fn stream<'a>(&self, names: &'a Names) -> &'a str {
        if matches!(self.step, Step::Bury(_)) { &names.dlq } else { &names.results }
    }

    /// What the word about the last attempt leads to.
    pub(super) fn heard(&mut self, word: Word, now: Instant) -> Next {
        self.trail.interval[1] = now;
        match (word, self.step) {
            (Word::Lost | Word::Apart(_), _) => Next::Send,
            (Word::Refused(_), _) => {
                let pause = self.pause;
                self.pause = (pause * 2).min(BACKOFF.1);
                Next::Retry(pause)
            }
            (Word::Stored(_), Step::Result) => Next::Done(Verdict::Done),
            (Word::Stored(Stored::Before(place)), Step::Check) => Next::Look(place),
            (Word::Stored(Stored::Now) | Word::TooLarge(_), Step::Check) => self.not_answered(),
            (Word::Stored(_), Step::Bury(_)) => {
                self.buried = Some(self.trail.clone());
                self.go_on(Step::Error)
            }
            (Word::Stored(_), Step::Error) => Next::Done(self.verdict()),
            (Word::TooLarge(_), Step::Result | Step::Error) if self.passes_on => {
                self.passes_on = false;
                self.go_on(self.step)
            }
            (Word::TooLarge(why), Step::Result) => {
                let (model, code) = (self.model().cloned(), ErrorCode::TooLarge);
                self.answer = Answer::Refused { model, code, message: format!("the result is too large: {why}") };
                self.go_on(refusal(code, &self.envelope));
                Next::Refuse
            }
            (Word::TooLarge(_), Step::Bury(keep)) => match keep.less() {
                Some(less) => self.go_on(Step::Bury(less)),
                None => self.go_on(Step::Error),
            },
            (Word::TooLarge(why), Step::Error) => {
                self.trail.error = Some(why);
                Next::Done(self.verdict())
            }
        }
    }

    /// Nobody has answered the job: it is refused after all.
    pub(super) fn not_answered(&mut self) -> Next {
        self.go_on(refusal(ErrorCode::Quarantined, &self.envelope));
        Next::Refuse
    }

    fn go_on(&mut self, step: Step) -> Next {
        self.step = step;
        self.pause = BACKOFF.0;
        self.trail.attempts = 0;
        Next::Send
    }

    fn verdict(&self) -> Verdict {
        match self.refusal() {
            Some((code, _)) if is_kept(code, &self.envelope) => Verdict::Refused(code),
            _ => Verdict::Done,
        }
    }
}

/// What a refused job begins with.
fn refusal(code: ErrorCode, envelope: &Envelope) -> Step {
    if is_kept(code, envelope) { Step::Bury(Keep::All) } else { Step::Error }
}

/// Whether a dead letter keeps the job's bytes.
fn is_kept(code: ErrorCode, envelope: &Envelope) -> bool {
    code.keeps_dead_letter() && (!envelope.no_dead_letter || code.concerns_operators())
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::message::testing::envelope;

    /// A job that was refused.
    pub(in crate::publish) fn refused(id: &str) -> Box<Letter> {
        letter(id, ErrorCode::InvalidInput).0
    }

    pub(in crate::publish) fn letter(id: &str, code: ErrorCode) -> (Box<Letter>, Next) {
        Letter::new(Outcome::refused(envelope(id), None, code, "no"), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::testing::letter;
    use super::*;
    use crate::message::testing::{envelope, served};
    use gristmill_engine::{Dtype, HostTensor, Share, Split};
    use gristmill_schemas::Parameters;

    fn stored() -> Word {
        Word::Stored(Stored::Now)
    }

    fn too_large() -> Word {
        Word::TooLarge("limit".into())
    }

    #[test]
    fn a_refused_job_is_buried_before_it_is_answered_and_answered_before_it_ends() {
        let (mut letter, first) = letter("a", ErrorCode::InvalidInput);
        let now = Instant::now();
        assert_eq!((first, letter.step), (Next::Refuse, Step::Bury(Keep::All)));
        assert_eq!((letter.heard(stored(), now), letter.step), (Next::Send, Step::Error));
        assert!(letter.buried.is_some());
        assert_eq!(letter.heard(stored(), now), Next::Done(Verdict::Refused(ErrorCode::InvalidInput)));
    }

    #[test]
    fn small_results_go_together_on_their_first_delivery_and_first_attempt() {
        let result = |bytes: usize, deliveries: i64| {
            let (mut envelope, model) = (envelope("a"), served());
            envelope.origin.deliveries = deliveries;
            let output = HostTensor { dtype: Dtype::U8, shape: vec![1, bytes], data: vec![0; bytes] };
            let mut split = Split::new(&model.signature.outputs, vec![output], None, |_| true);
            let outputs = split.next(Share { rows: 1, length: 1, wanted: None });
            let answer = Answer::Ok { model, outputs, parameters: Parameters::default() };
            Letter::new(Outcome { envelope, answer }, Instant::now()).0
        };
        assert!(result(MAX_TOGETHER_BYTES, 1).may_go_together());
        assert!(!result(MAX_TOGETHER_BYTES + 1, 1).may_go_together(), "too large");
        assert!(!result(8, 2).may_go_together(), "it may be stored already");
        let mut again = result(8, 1);
        again.trail.attempts = 1;
        assert!(!again.may_go_together());
        assert!(!letter("a", ErrorCode::InvalidInput).0.may_go_together(), "no result");
    }

    #[test]
    fn nobody_waits_for_an_expired_job() {
        let (mut letter, _) = letter("a", ErrorCode::DeadlineExceeded);
        assert_eq!(letter.step, Step::Error);
        assert_eq!(letter.heard(stored(), Instant::now()), Next::Done(Verdict::Done));
    }

    #[test]
    fn a_sender_that_keeps_its_bytes_gets_no_dead_letter_unless_operators_have_to_see_it() {
        let letter = |code| {
            let mut envelope = envelope("a");
            envelope.no_dead_letter = true;
            Letter::new(Outcome::refused(envelope, None, code, "no"), Instant::now()).0
        };
        let mut own_fault = letter(ErrorCode::ModelError);
        assert_eq!(own_fault.step, Step::Error);
        assert_eq!(own_fault.heard(stored(), Instant::now()), Next::Done(Verdict::Done));
        assert_eq!(letter(ErrorCode::Internal).step, Step::Bury(Keep::All));
        let mut killer = letter(ErrorCode::Quarantined);
        killer.heard(stored(), Instant::now());
        assert_eq!(killer.step, Step::Bury(Keep::All));
    }

    #[test]
    fn a_dead_letter_that_does_not_fit_is_made_smaller_and_then_left_out() {
        let (mut letter, _) = letter("a", ErrorCode::InvalidInput);
        for keep in [Keep::All, Keep::Payload, Keep::Headers, Keep::Nothing] {
            assert_eq!(letter.step, Step::Bury(keep));
            assert_eq!(letter.heard(too_large(), Instant::now()), Next::Send);
        }
        assert_eq!((letter.step, letter.buried.is_none()), (Step::Error, true));
        assert_eq!(letter.heard(too_large(), Instant::now()), Next::Send, "without the sender's baggage");
        assert!(matches!(letter.heard(too_large(), Instant::now()), Next::Done(Verdict::Refused(_))));
    }

    #[test]
    fn a_quarantined_job_that_was_answered_is_no_dead_letter() {
        let (mut found, first) = letter("a", ErrorCode::Quarantined);
        assert_eq!((first, found.step), (Next::Send, Step::Check));
        assert_eq!(found.heard(Word::Stored(Stored::Before(9)), Instant::now()), Next::Look(9));
        let (mut unknown, _) = letter("b", ErrorCode::Quarantined);
        assert_eq!(unknown.heard(stored(), Instant::now()), Next::Refuse);
        assert_eq!(unknown.step, Step::Bury(Keep::All));
    }

    #[test]
    fn what_is_refused_is_tried_again_ever_more_slowly_and_what_was_lost_at_once() {
        let (mut letter, _) = letter("a", ErrorCode::InvalidInput);
        let now = Instant::now();
        let mut refuse = || letter.heard(Word::Refused("full".into()), now);
        assert_eq!([refuse(), refuse()], [Next::Retry(BACKOFF.0), Next::Retry(BACKOFF.0 * 2)]);
        assert_eq!((0..10).map(|_| refuse()).last(), Some(Next::Retry(BACKOFF.1)));
        assert_eq!((letter.heard(Word::Lost, now), letter.step), (Next::Send, Step::Bury(Keep::All)));
        assert_eq!(letter.heard(Word::Apart("a gap".into()), now), Next::Send, "at once, too");
        letter.heard(stored(), now);
        assert_eq!(
            letter.heard(Word::Refused("full".into()), now),
            Next::Retry(BACKOFF.0),
            "another message begins anew"
        );
    }
}
