//! How the end is announced: the intake closes, and every stage ends when the one before it has.

use tokio::sync::watch;

/// Tells the intake to stop. Dropping it does so, too.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// The intake's end of [`Stopper`].
#[derive(Debug, Clone)]
pub struct Stopped(watch::Receiver<bool>);

/// A connected pair.
pub fn channel() -> (Stopper, Stopped) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stopped(receiver))
}

impl Stopper {
    /// Announces the end.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stopped {
    /// Waits for the announcement.
    pub async fn wait(&mut self) {
        // A dropped stopper means that the app is gone, which is an end as well.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }
}
