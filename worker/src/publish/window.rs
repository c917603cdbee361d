use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::letter::Letter;

/// The server has not said anything about a message for this long: it is sent again. Its dedup id makes that harmless.
const PATIENCE: Duration = Duration::from_secs(5);

/// Messages that the server has not spoken of yet, by the number under which each was sent. The server answers about in the
/// order in which it was asked, and a message that is sent again gets another number, so the oldest place is soon free.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Number of the first place.
    first: u64,
    places: VecDeque<Option<Box<Letter>>>,
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

    pub(super) fn put(&mut self, letter: Box<Letter>) {
        self.places.push_back(Some(letter));
        self.taken += 1;
    }

    /// The letter that was sent under this number, unless it was taken before.
    pub(super) fn take(&mut self, number: u64) -> Option<Box<Letter>> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let letter = self.places.get_mut(place)?.take()?;
        self.taken -= 1;
        self.trim();
        Some(letter)
    }

    /// Those that have waited for too long.
    #[allow(clippy::vec_box, reason = "letters are large and go on by pointer")]
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Box<Letter>> {
        let is_overdue = |letter: &Letter| now.saturating_duration_since(letter.tried) >= PATIENCE;
        let overdue: Vec<_> =
            self.places.iter_mut().map_while(|place| place.take_if(|letter| is_overdue(letter))).collect();
        self.taken -= overdue.len();
        self.trim();
        overdue
    }

    /// All of them: nobody will speak of them any more.
    #[allow(clippy::vec_box, reason = "letters are large and go on by pointer")]
    pub(super) fn empty(&mut self) -> Vec<Box<Letter>> {
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

    #[test]
    fn a_letter_is_found_under_its_number_once() {
        let mut window = Window::default();
        for id in ["a", "b", "c"] {
            window.put(refused(id));
        }
        assert_eq!((window.next(), window.len()), (3, 3));
        let id = |letter: Option<Box<Letter>>| letter.map(|letter| letter.envelope.id);
        assert_eq!(id(window.take(1)).as_deref(), Some("b"), "not in order");
        assert_eq!(id(window.take(1)), None);
        assert_eq!(id(window.take(0)).as_deref(), Some("a"));
        assert_eq!((window.first, window.len(), id(window.take(7))), (2, 1, None));
        window.put(refused("d"));
        assert_eq!(id(window.take(3)).as_deref(), Some("d"));
        assert_eq!(window.empty().len(), 1);
        assert_eq!(
            (window.next(), window.len(), id(window.take(2))),
            (4, 0, None),
            "an old number stays without meaning"
        );
    }

    #[test]
    fn what_the_server_is_silent_about_comes_back() {
        let (mut window, now) = (Window::default(), Instant::now());
        for age in [2, 1, 0] {
            let mut letter = refused("x");
            letter.tried = now - PATIENCE * age;
            window.put(letter);
        }
        assert_eq!((window.overdue(now).len(), window.len()), (2, 1));
        assert!(window.take(2).is_some());
    }
}
