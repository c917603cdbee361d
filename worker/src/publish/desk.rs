//! Every letter that is not settled yet, and what is done with each.

use std::time::Instant;

use async_nats::Message;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use gristmill_schemas::header;

use super::bundle::{self, Together};
use super::end::Teller;
use super::heads::Heads;
use super::letter::{Letter, Next};
use super::window::{Parcel, Window};
use super::word::Word;
use crate::burst;
use crate::link::{Current, Inbox};
use crate::message::Outcome;
use crate::ticket::{Ticket, Verdict};

mod send;

/// Owned by the publish task.
pub(super) struct Desk {
    nats: Current,
    inbox: Inbox,
    teller: Teller,
    heads: Heads,
    /// Parcel, and the server has not spoken.
    window: Window,
    /// To be sent again, each at its time.
    resting: Vec<(Instant, Box<Letter>)>,
    /// Being looked up: whether the job was answered before.
    looking: FuturesUnordered<BoxFuture<'static, (Box<Letter>, bool)>>,
    /// Answered since the settle task was last told.
    done: Vec<(Ticket, Verdict)>,
    /// The connection is up: what is sent meanwhile would pile up in the client.
    is_up: bool,
    is_stalled: bool,
    together: Together,
}

impl Desk {
    /// `together`: the results stream confirms what is sent together.
    pub(super) async fn open(nats: Current, teller: Teller, together: bool) -> Self {
        let inbox = Inbox::open(nats.clone()).await;
        let (window, resting, looking) = (Window::default(), Vec::new(), FuturesUnordered::new());
        let (heads, done, together) = (Heads::default(), Vec::new(), Together::new(together));
        Self { nats, inbox, teller, heads, window, resting, looking, done, is_up: true, is_stalled: false, together }
    }

    /// Letters that are not settled.
    pub(super) fn len(&self) -> usize {
        self.window.len() + self.resting.len() + self.looking.len()
    }

    /// Has the settle task answer for all that is done.
    pub(super) fn settle(&mut self) {
        if !self.done.is_empty() {
            Ticket::settle_all(burst::take(&mut self.done));
        }
    }

    /// The server's next word, or what was found in a stream. Loses nothing if it is dropped while it waits.
    pub(super) async fn event(&mut self) -> Event {
        tokio::select! {
            message = self.inbox.next() => Event::Word(message),
            Some((letter, was_answered)) = self.looking.next() => Event::Found(letter, was_answered),
        }
    }

    /// A word that is there already.
    pub(super) fn ready(&mut self) -> Option<Message> {
        self.inbox.ready()
    }

    /// Takes outcomes in.
    pub(super) async fn begin(&mut self, outcomes: impl Iterator<Item = Outcome>, now: Instant) {
        let is_due = self.is_up && self.together.is_due(now);
        let mut together = Vec::new();
        for outcome in outcomes {
            let (letter, next) = Letter::new(outcome, now);
            if is_due && letter.may_go_together() {
                together.push(letter);
            } else {
                self.follow(letter, next, now).await;
            }
        }
        // One that the client does not take is reason enough to send the next ones apart.
        while together.len() >= bundle::LEAST && self.together.is_due(now) {
            let rest = together.split_off(together.len().min(bundle::MOST));
            self.send_together(std::mem::replace(&mut together, rest), now).await;
        }
        for letter in together {
            self.follow(letter, Next::Send, now).await;
        }
    }

    /// Takes what the server says.
    pub(super) async fn hear(&mut self, message: &Message, now: Instant) {
        let Some(number) = self.number(message) else { return };
        let word = match self.window.get(number) {
            // Of a letter that was sent again meanwhile: its dedup id has the server say the same once more.
            None => return,
            Some(Parcel::Letter(letter)) => Some(Word::read(message, letter.stream(&self.teller.names))),
            Some(Parcel::Bundle(bundle)) => bundle.read(message, &self.teller.names.results),
        };
        if let Some((word, sent)) = word.and_then(|word| Some((word, self.window.take(number)?))) {
            self.judge_all(sent, word, now).await;
        }
    }

    /// Which number the server answers to: the first token behind our inbox.
    fn number(&self, message: &Message) -> Option<u64> {
        let behind = message.subject.get(self.inbox.prefix.len() + 1..)?;
        behind.split('.').next()?.parse().ok()
    }

    /// Takes what was found in the results stream.
    pub(super) async fn found(&mut self, mut letter: Box<Letter>, was_answered: bool, now: Instant) {
        if was_answered {
            return self.done.push((letter.envelope.ticket, Verdict::Done));
        }
        let next = letter.not_answered();
        self.follow(letter, next, now).await;
    }

    /// The connection is up, or down. `was_lost`: nobody will speak of what was sent on it.
    pub(super) async fn link(&mut self, is_up: bool, was_lost: bool, now: Instant) {
        self.is_up = is_up;
        if was_lost {
            for sent in self.window.empty() {
                self.judge_all(sent, Word::Lost, now).await;
            }
        }
        self.wake(now).await;
    }

    /// Sends again what is due, and what the server is silent about.
    pub(super) async fn wake(&mut self, now: Instant) {
        if !self.is_up {
            return;
        }
        for sent in self.window.overdue(now) {
            let why = "the server does not answer".to_owned();
            let word = if matches!(sent, Parcel::Bundle(_)) { Word::Apart(why) } else { Word::Refused(why) };
            self.judge_all(sent, word, now).await;
        }
        let due: Vec<_> = self.resting.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, letter) in due {
            self.follow(letter, Next::Send, now).await;
        }
    }

    async fn judge_all(&mut self, sent: Parcel, word: Word, now: Instant) {
        match (&sent, &word) {
            (Parcel::Bundle(_), Word::Apart(why)) => self.together.failed(why, now),
            (Parcel::Bundle(_), Word::Stored(_)) => self.together.succeeded(),
            _ => {}
        }
        for letter in sent.into_letters() {
            self.judge(letter, word.clone(), now).await;
        }
    }

    async fn judge(&mut self, letter: Box<Letter>, word: Word, now: Instant) {
        let (letter, next) = self.told(letter, word, now);
        self.follow(letter, next, now).await;
    }

    fn told(&mut self, mut letter: Box<Letter>, word: Word, now: Instant) -> (Box<Letter>, Next) {
        self.teller.attempted(&letter, &word, now);
        match &word {
            Word::Stored(_) => self.resume(),
            Word::TooLarge(why) => {
                // An answer of a stream that works.
                self.resume();
                self.teller.too_large(&letter, why);
            }
            Word::Refused(why) if self.is_up => self.stall(why),
            Word::Refused(_) | Word::Lost | Word::Apart(_) => {}
        }
        let next = letter.heard(word, now);
        (letter, next)
    }

    async fn follow(&mut self, letter: Box<Letter>, next: Next, now: Instant) {
        let mut todo = Some((letter, next));
        while let Some((mut letter, next)) = todo.take() {
            match next {
                Next::Refuse => {
                    self.teller.refused(&letter);
                    todo = Some((letter, Next::Send));
                }
                Next::Send if self.is_up => {
                    todo = self.send(letter, now).await.map(|(letter, word)| self.told(letter, word, now));
                }
                Next::Send => self.resting.push((now, letter)),
                // Jittered, so that a fleet does not come back in step.
                Next::Retry(pause) => {
                    let at = now + pause.mul_f64(0.5 + fastrand::f64() / 2.0);
                    self.resting.push((at, letter));
                }
                Next::Look(place) => self.look(letter, place),
                Next::Done(verdict) => {
                    self.teller.answered(&mut letter, now);
                    self.done.push((letter.envelope.ticket, verdict));
                }
            }
        }
    }

    /// Looks up what is stored in a place of the results stream.
    fn look(&self, letter: Box<Letter>, place: u64) {
        let (context, results) = (self.nats.context(), self.teller.names.results.clone());
        let look = async move {
            let found = match context.get_stream_no_info(&results).await {
                Ok(results) => results.get_raw_message(place).await.ok(),
                Err(_) => None,
            };
            let status = found.as_ref().and_then(|found| found.headers.get(header::STATUS));
            let was_answered = status.is_some_and(|status| status.as_str() == "ok");
            (letter, was_answered)
        };
        self.looking.push(look.boxed());
    }

    /// The stream is missing, full, or has no leader: no more jobs are asked for until something is stored again. What is
    /// here is held, and tried again.
    fn stall(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_stalled, true) {
            tracing::warn!(why, "results cannot be stored, no more jobs are asked for");
        }
        let stalled = &self.teller.vitals.health.stalled;
        stalled.send_if_modified(|stalled| stalled.replace(why.to_owned()).is_none());
    }

    fn resume(&mut self) {
        if std::mem::take(&mut self.is_stalled) {
            tracing::info!("results can be stored again");
            self.teller.vitals.health.stalled.send_replace(None);
        }
    }
}

/// What the publish task is told.
pub(super) enum Event {
    /// The server's.
    Word(Message),
    /// Whether a job was answered before.
    Found(Box<Letter>, bool),
}
