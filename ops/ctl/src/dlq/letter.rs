use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use gristmill_schemas::dead_letter_header as dead;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One dead letter without the job's bytes.
pub(super) struct Letter {
    pub(super) sequence: u64,
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    /// Size of the job's body.
    pub(super) bytes: usize,
    pub(super) stored: OffsetDateTime,
}

impl Letter {
    /// A header, empty if there is none.
    pub(super) fn header(&self, name: &str) -> &str {
        self.find(name).unwrap_or_default()
    }

    /// A header.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.as_str())
    }

    /// When the job was given up; what others put into the stream may not say so.
    pub(super) fn at(&self) -> OffsetDateTime {
        OffsetDateTime::parse(self.header(dead::AT), &Rfc3339).unwrap_or(self.stored)
    }
}

impl From<StreamMessage> for Letter {
    fn from(message: StreamMessage) -> Self {
        let StreamMessage { subject, sequence, headers, payload, time: stored, .. } = message;
        Self { sequence, subject: subject.into_string(), headers, bytes: payload.len(), stored }
    }
}

/// The answer to STREAM.MSG.DELETE.
#[derive(Deserialize)]
struct Deleted {
    success: bool,
}

/// Reads a dead letter with the job's bytes; `None` if there is none of this number.
pub(super) async fn read(stream: &Stream, sequence: u64) -> anyhow::Result<Option<StreamMessage>> {
    match stream.get_raw_message(sequence).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(anyhow::anyhow!("dead letter {sequence}: {error}")),
    }
}

/// Deletes one dead letter. Somebody else may have done so just before.
pub(super) async fn delete(context: &Context, stream: &Stream, sequence: u64) -> anyhow::Result<()> {
    // The client's own call has the server overwrite the bytes on disk first, 12 ms each and one after the other: for a
    // large replay a limit below --rate.
    let request = json!({ "seq": sequence, "no_erase": true });
    let subject = format!("STREAM.MSG.DELETE.{}", stream.cached_info().config.name);
    let failed = || format!("dead letter {sequence} was not deleted");
    match context.request(subject, &request).await.with_context(failed)? {
        Response::Ok(Deleted { success: true }) => Ok(()),
        // The code differs with what became of its neighbours, so ask.
        _ if read(stream, sequence).await?.is_none() => Ok(()),
        Response::Ok(_) => Err(anyhow::anyhow!(failed())),
        Response::Err { error } => Err(error).with_context(failed),
    }
}
