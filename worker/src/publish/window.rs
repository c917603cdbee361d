use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::bundle::Bundle;
use super::letter::Letter;

/// The server has not said anything about a message for this long: it is sent again. Its dedup id makes that harmless.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was sent under one number.
#[derive(Debug)]
pub(super) enum Parcel {
    /// One message.
    Letter(Box<Letter>),
    /// Messages that the server confirms together.
    Bundle(Bundle),
}

impl Parcel {
    fn len(&self) -> usize {
        self.letters().len()
    }

    /// Each of its letters.
    pub(super) fn into_letters(self) -> impl Iterator<Item = Box<Letter>> {
        let (one, many) = match self {
            Self::Letter(letter) => (Some(letter), Vec::new()),
            Self::Bundle(bundle) => (None, bundle.letters),
        };
        one.into_iter().chain(many)
    }

    fn letters(&self) -> &[Box<Letter>] {
        match self {
            Self::Letter(letter) => std::slice::from_ref(letter),
            Self::Bundle(bundle) => &bundle.letters,
        }
    }
}

/// Messages that the server has not spoken of yet, by the number under which each was sent. The server answers about in the
/// order in which it was asked, and a message that is sent again gets another number, so the oldest place is soon free.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Number of the first place.
    first: u64,
    places: VecDeque<Option<Parcel>>,
    /// Letters in them.
    taken: usize,
}

impl Window {
    pub(super) fn len(&self) -> usize {
        self.taken
    }

    /// The number that the next letter gets.
    pub(super) fn next(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    pub(super) fn put(&mut self, sent: Parcel) {
        self.taken += sent.len();
        self.places.push_back(Some(sent));
    }

    /// Uses up the next number: something has it that is not waited for.
    pub(super) fn skip(&mut self) {
        self.places.push_back(None);
        self.trim();
    }

    /// What was sent under this number, unless it was taken before.
    pub(super) fn get(&self, number: u64) -> Option<&Parcel> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.places.get(place)?.as_ref()
    }

    /// Takes it out.
    pub(super) fn take(&mut self, number: u64) -> Option<Parcel> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let sent = self.places.get_mut(place)?.take()?;
        self.taken -= sent.len();
        self.trim();
        Some(sent)
    }

    /// Those that have waited for too long.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Parcel> {
        let is_overdue = |letter: &Letter| now.saturating_duration_since(letter.tried) >= PATIENCE;
        let overdue: Vec<_> = self
            .places
            .iter_mut()
            .map_while(|place| place.take_if(|sent| sent.letters().iter().all(|letter| is_overdue(letter))))
            .collect();
        self.taken -= overdue.iter().map(Parcel::len).sum::<usize>();
        self.trim();
        overdue
    }

    /// All of them: nobody will speak of them any more.
    pub(super) fn empty(&mut self) -> Vec<Parcel> {
        self.first = self.next();
        self.taken = 0;
        self.places.drain(..).flatten().collect()
    }

    fn trim(&mut self) {
        while self.places.pop_front_if(|place| place.is_none()).is_some() {
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::letter::testing::refused;

    fn letter(id: &str) -> Parcel {
        Parcel::Letter(refused(id))
    }

    fn ids(sent: impl IntoIterator<Item = Parcel>) -> Vec<String> {
        sent.into_iter().flat_map(Parcel::into_letters).map(|letter| letter.envelope.id).collect()
    }

    #[test]
    fn a_letter_is_found_under_its_number_once() {
        let mut window = Window::default();
        ["a", "b", "c"].map(letter).into_iter().for_each(|sent| window.put(sent));
        assert_eq!((window.next(), window.len()), (3, 3));
        assert!(window.get(1).is_some() && window.get(3).is_none());
        assert_eq!(ids(window.take(1)), ["b"], "not in order");
        assert!(window.get(1).is_none() && window.take(1).is_none());
        assert_eq!(ids(window.take(0)), ["a"]);
        assert_eq!((window.first, window.len()), (2, 1));
        assert!(window.take(7).is_none());
        window.put(letter("d"));
        assert_eq!(ids(window.take(3)), ["d"]);
        assert_eq!(window.empty().len(), 1);
        assert_eq!((window.next(), window.len()), (4, 0));
        assert!(window.take(2).is_none(), "an old number stays without meaning");
        window.skip();
        assert_eq!((window.next(), window.len()), (5, 0));
        window.put(letter("e"));
        window.skip();
        assert_eq!((window.next(), ids(window.take(5))), (7, vec!["e".to_owned()]));
    }

    #[test]
    fn a_bundle_has_one_number_and_counts_as_its_letters() {
        let mut window = Window::default();
        window.put(letter("a"));
        window.put(Parcel::Bundle(Bundle::new("w1".into(), ["b", "c", "d"].map(refused).into())));
        assert_eq!((window.next(), window.len()), (2, 4));
        assert_eq!((ids(window.take(1)), window.len()), (["b", "c", "d"].map(str::to_owned).into(), 1));
        window.put(Parcel::Bundle(Bundle::new("w2".into(), ["e", "f"].map(refused).into())));
        assert_eq!((ids(window.empty()), window.len()), (["a", "e", "f"].map(str::to_owned).into(), 0));
    }

    #[test]
    fn what_the_server_is_silent_about_comes_back() {
        let (mut window, now) = (Window::default(), Instant::now());
        let aged = |age| {
            let mut letter = refused("x");
            letter.tried = now - PATIENCE * age;
            letter
        };
        window.put(Parcel::Letter(aged(2)));
        window.put(Parcel::Bundle(Bundle::new("w1".into(), vec![aged(1), aged(1)])));
        window.put(Parcel::Letter(aged(0)));
        assert_eq!((ids(window.overdue(now)).len(), window.len()), (3, 1));
        assert!(window.take(2).is_some());
    }
}
