use std::time::Duration;

use async_nats::jetstream::context::{AccountErrorKind, ConsumerInfoErrorKind, GetStreamErrorKind};
use async_nats::jetstream::{Context, ErrorCode, consumer, stream};

use super::compare::{self, Difference};
use super::wanted::Topology;

/// What `apply` would do about each stream and consumer, in order.
#[derive(Debug)]
pub struct Plan(pub Vec<(String, Step)>);

/// Everything a worker needs is there.
#[derive(Debug)]
pub struct Ready {
    /// What was found and done.
    pub plan: Plan,
    /// The shortest ack_wait among the consumers: an operator may have set another than ours.
    pub ack_wait: Duration,
    /// The smallest max_deliver among them.
    pub max_deliver: i64,
    /// When the jobs stream was made, in nanoseconds since 1970: tells it from others of its name.
    pub jobs_made: i128,
    /// Whether results that are sent together are confirmed together: the stream has `allow_batched`, and the server is one whose
    /// word about a batch holds across changes of its leader (nats-server 2.14.4, which ties proposals to the leader's term).
    pub batched_results: bool,
    /// Name of the consumer of advisories, see [`Topology::sweeper`].
    pub sweeper: String,
}

/// What one stream or consumer needs.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It is there and serves.
    Keep,
    /// It is missing.
    Create,
    /// It is there and would break a promise.
    Differs(Vec<Difference>),
}

/// Why streams and consumers could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A plain NATS server, or an account without JetStream.
    #[error("this NATS server offers no JetStream to this account (start it with -js, or enable it for the account)")]
    NoJetStream,
    /// Something exists that we neither may use nor may change.
    #[error("{}", list(.0))]
    Differs(Vec<Difference>),
    /// The server refused or did not answer.
    #[error("{object}: {source}")]
    Server {
        /// What was asked about.
        object: String,
        /// What the client said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn list(differences: &[Difference]) -> String {
    let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    format!("streams or consumers differ from what is needed:\n  {}", lines.join("\n  "))
}

fn server<E: std::error::Error + Send + Sync + 'static>(object: &str) -> impl FnOnce(E) -> Error {
    let object = object.to_owned();
    move |source| Error::Server { object, source: Box::new(source) }
}

/// Compares; changes nothing.
pub async fn plan(context: &Context, topology: &Topology) -> Result<Plan, Error> {
    context.query_account().await.map_err(|error| match error.kind() {
        AccountErrorKind::JetStreamUnavailable => Error::NoJetStream,
        AccountErrorKind::JetStream(reason) if disabled(&reason) => Error::NoJetStream,
        _ => server("JetStream account")(error),
    })?;
    let mut steps = Vec::new();
    for want in topology.streams() {
        steps.push((format!("stream {}", want.name), stream_step(context, topology, &want).await?));
    }
    let jobs_there = steps[0].1 != Step::Create;
    for want in topology.consumers() {
        let object = format!("consumer {}", want.durable_name.as_deref().unwrap_or_default());
        let step = if jobs_there { consumer_step(context, topology, &want).await? } else { Step::Create };
        steps.push((object, step));
    }
    Ok(Plan(steps))
}

fn disabled(reason: &async_nats::jetstream::Error) -> bool {
    let code = reason.error_code();
    code == ErrorCode::JETSTREAM_NOT_ENABLED || code == ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
}

async fn stream_step(context: &Context, topology: &Topology, want: &stream::Config) -> Result<Step, Error> {
    match context.get_stream(&want.name).await {
        Ok(found) => {
            let window = topology.config.least_window(topology.max_hold);
            Ok(judge(compare::stream(want, &found.cached_info().config, window)))
        }
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(reason) if reason.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(Step::Create)
            }
            _ => Err(server(&want.name)(error)),
        },
    }
}

async fn consumer_step(context: &Context, topology: &Topology, want: &consumer::pull::Config) -> Result<Step, Error> {
    let name = want.durable_name.as_deref().unwrap_or_default();
    let stream = topology.namespace.stream("JOBS");
    let jobs = context.get_stream_no_info(&stream).await.map_err(server(name))?;
    match jobs.consumer_info(name).await {
        Ok(found) => Ok(judge(compare::consumer(want, &found.config, &stream, topology.in_flight))),
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(Step::Create),
        Err(error) => Err(server(name)(error)),
    }
}

fn judge(differences: Vec<Difference>) -> Step {
    if differences.is_empty() { Step::Keep } else { Step::Differs(differences) }
}

/// Creates what is missing; refuses, before creating anything, where something differs.
pub async fn apply(context: &Context, topology: &Topology) -> Result<Ready, Error> {
    let mut plan = plan(context, topology).await?;
    let differences: Vec<Difference> = plan.0.iter_mut().flat_map(|(_, step)| step.take_differences()).collect();
    if !differences.is_empty() {
        return Err(Error::Differs(differences));
    }
    let mut steps = plan.0.iter();
    for want in topology.streams() {
        if steps.next().is_some_and(|(_, step)| *step == Step::Create) {
            let name = want.name.clone();
            context.create_stream(want).await.map_err(server(&name))?;
        }
    }
    let jobs = context.get_stream(topology.namespace.stream("JOBS")).await.map_err(server("jobs stream"))?;
    let results = context.get_stream(topology.namespace.stream("RESULTS")).await.map_err(server("results stream"))?;
    let is_allowed = results.cached_info().config.allow_batch_publish;
    let batched_results = is_allowed && context.client().is_server_compatible(2, 14, 4);
    let mut ack_wait = Duration::from_millis(topology.config.ack_wait_ms);
    let mut max_deliver = i64::MAX;
    for want in topology.consumers() {
        let name = want.durable_name.clone().unwrap_or_default();
        if steps.next().is_some_and(|(_, step)| *step == Step::Create) {
            max_deliver = max_deliver.min(want.max_deliver);
            jobs.create_consumer(want).await.map_err(server(&name))?;
        } else {
            let found = jobs.consumer_info(&name).await.map_err(server(&name))?;
            ack_wait = ack_wait.min(found.config.ack_wait);
            max_deliver = max_deliver.min(found.config.max_deliver);
        }
    }
    let advisories = topology.namespace.stream("ADVISORIES");
    let sweeper = topology.sweeper().durable_name.unwrap_or_default();
    let made = context.create_consumer_on_stream(topology.sweeper(), &advisories).await;
    made.map_err(server("consumer sweeper"))?;
    let jobs_made = jobs.cached_info().created.unix_timestamp_nanos();
    Ok(Ready { plan, ack_wait, max_deliver, jobs_made, batched_results, sweeper })
}

impl Step {
    fn take_differences(&mut self) -> Vec<Difference> {
        match self {
            Self::Differs(differences) => std::mem::take(differences),
            Self::Keep | Self::Create => Vec::new(),
        }
    }
}
