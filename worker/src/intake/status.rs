//! What the server says about a pull, other than a job.

use async_nats::{Message, StatusCode};

/// A status message, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// The pull is over: it expired, or had no more to give.
    Ended,
    /// The pull cannot be served at present.
    Failed(String),
    /// The server is alive; the pull goes on.
    Heartbeat,
}

impl Status {
    /// Reads a message; `None` for a job.
    pub(super) fn of(message: &Message) -> Option<Self> {
        let status = message.status?;
        let description = message.description.as_deref().unwrap_or_default();
        Some(match status {
            StatusCode::IDLE_HEARTBEAT => Self::Heartbeat,
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => Self::Ended,
            StatusCode::NO_RESPONDERS => Self::Failed("the consumer is gone, or JetStream has no leader for it".into()),
            // 409 is used for ends as well as for errors.
            _ if description.eq_ignore_ascii_case("Batch Completed") => Self::Ended,
            _ if description.starts_with("Message Size Exceeds") => Self::Ended,
            other => Self::Failed(format!("{other} {description}")),
        })
    }
}
