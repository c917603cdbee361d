use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::poll::Poller;
use super::snapshot::Snapshot;
use super::view::View;
use crate::error;

/// How often the thread that reads keys looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(200);

/// The terminal while it is ours. Given back when dropped, whatever the reason; a panic gives it back before its message.
struct Screen(DefaultTerminal);

impl Screen {
    fn try_new() -> anyhow::Result<Self> {
        let terminal = ratatui::try_init().inspect_err(|_| drop(ratatui::try_restore()));
        Ok(Self(terminal.context("the terminal cannot be used")?))
    }

    fn draw(&mut self, view: &View) -> anyhow::Result<()> {
        self.0.draw(|frame| frame.render_widget(view, frame.area())).context("the terminal")?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A panic gave it back already. Twice would set the cursor back to above the message.
        if !std::thread::panicking() {
            // Where the terminal itself is gone, there is nothing to give back and nobody to tell.
            drop(ratatui::try_restore());
        }
    }
}

/// What the view is made of.
struct State {
    namespace: String,
    last: Option<Snapshot>,
    /// When `last` came.
    since: Instant,
    /// As it was when the last poll succeeded.
    good: View,
    shown: View,
}

impl State {
    fn new(namespace: String) -> Self {
        let blank = View::blank(&namespace);
        Self { namespace, last: None, since: Instant::now(), good: blank.clone(), shown: blank }
    }

    fn take(&mut self, polled: anyhow::Result<Snapshot>) {
        match polled {
            Ok(snapshot) => {
                self.good = View::new(&self.namespace, self.last.as_ref(), &snapshot);
                self.shown = self.good.clone();
                (self.last, self.since) = (Some(snapshot), Instant::now());
            }
            Err(error) => {
                let age = self.last.is_some().then(|| self.since.elapsed().as_secs_f64());
                self.shown = self.good.stale(age, &error::chain(&error));
            }
        }
    }
}

/// Shows one frame after the other until somebody leaves.
pub(super) async fn run(poller: Poller, namespace: String, period: Duration) -> anyhow::Result<()> {
    let mut ends = ends()?;
    let mut screen = Screen::try_new()?;
    let mut events = events()?;
    let mut polls = std::pin::pin!(poller.every(period));
    let mut state = State::new(namespace);
    loop {
        screen.draw(&state.shown)?;
        let [term, hangup, interrupt] = &mut ends;
        tokio::select! {
            event = events.recv() => match event {
                // A changed size needs a new frame, which follows.
                Some(event) if !leaves(&event) => {}
                // Without a terminal to read from nobody could leave.
                Some(_) | None => return Ok(()),
            },
            // Polls never end.
            Some(polled) = polls.next() => state.take(polled),
            _ = term.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// Signals that would end the process with the terminal left as it is.
fn ends() -> anyhow::Result<[Signal; 3]> {
    let listen = |kind| signal(kind).context("signals cannot be listened for");
    Ok([listen(SignalKind::terminate())?, listen(SignalKind::hangup())?, listen(SignalKind::interrupt())?])
}

/// Keys and changes of size, read by a thread of their own, as reading blocks. It ends within `LOOK` of its reader.
fn events() -> anyhow::Result<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(16);
    let read = move || {
        let mut goes_on = true;
        while goes_on && !sender.is_closed() {
            goes_on = match event::poll(LOOK) {
                Ok(true) => event::read().is_ok_and(|event| sender.blocking_send(event).is_ok()),
                Ok(false) => true,
                Err(_) => false,
            };
        }
    };
    std::thread::Builder::new().name("keys".into()).spawn(read).context("a thread for keys")?;
    Ok(receiver)
}

fn leaves(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind, .. }) = event else { return false };
    let control = modifiers.contains(KeyModifiers::CONTROL);
    *kind != KeyEventKind::Release
        && match code {
            KeyCode::Esc | KeyCode::Char('q' | 'Q') => true,
            KeyCode::Char('c') => control,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_escape_and_control_c_leave() {
        let key = |code, modifiers| leaves(&Event::Key(KeyEvent::new(code, modifiers)));
        assert!(key(KeyCode::Char('q'), KeyModifiers::NONE) && key(KeyCode::Esc, KeyModifiers::NONE));
        assert!(key(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!key(KeyCode::Char('c'), KeyModifiers::NONE) && !key(KeyCode::Up, KeyModifiers::NONE));
        assert!(!leaves(&Event::Resize(80, 24)));
    }

    #[test]
    fn an_outage_is_shown_above_the_numbers_of_before_and_passes() {
        let mut state = State::new("infer".into());
        state.take(Err(anyhow::anyhow!("cannot connect to NATS at 127.0.0.1:1")));
        assert_eq!(state.shown.faults, ["trying again: cannot connect to NATS at 127.0.0.1:1"]);
        state.take(Ok(Snapshot::default()));
        assert!(state.shown.faults.is_empty());
        state.take(Err(anyhow::anyhow!("lost")));
        state.take(Err(anyhow::anyhow!("lost")));
        assert_eq!(state.shown.faults, ["trying again: lost (numbers are 0s old)"]);
        state.take(Ok(Snapshot { at: 2.0, ..Snapshot::default() }));
        assert!(state.shown.faults.is_empty() && state.shown.title.contains("last 2.0 s"));
    }
}
