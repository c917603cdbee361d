use std::time::Duration;

use crate::subject::{Lane, Namespace};
use crate::token::Token;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};

/// The longest that a worker lets one run of a model take, unless set otherwise (`limits.max_hold_ms`).
pub const DEFAULT_MAX_HOLD: Duration = Duration::from_secs(300);

/// How missing streams and consumers are created. Those that exist keep what they have.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Copies of each stream; 3 or 5 on a cluster.
    pub replicas: usize,
    /// After this long without an answer or a keep-alive, the server delivers a job again. In milliseconds.
    pub ack_wait_ms: u64,
    /// Deliveries of one job before the server gives up on it. Counts crashes and drains too, so it is not small.
    pub max_deliver: i64,
    /// Jobs delivered and not yet settled, all workers of one consumer together.
    pub max_ack_pending: i64,
    /// How long the results stream remembers ids, in seconds: how late a redelivered job may be and still be stored once.
    pub duplicate_window_s: u64,
    /// How long results are kept, in seconds; 0 for ever.
    pub results_max_age_s: u64,
    /// How long dead letters are kept, in seconds; 0 for ever.
    pub dlq_max_age_s: u64,
    /// Most bytes of waiting jobs; publishers are refused beyond. -1 for no limit.
    pub jobs_max_bytes: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            replicas: 1,
            ack_wait_ms: 30_000,
            max_deliver: 20,
            max_ack_pending: 100_000,
            duplicate_window_s: 30 * 60,
            results_max_age_s: 7 * 24 * 3600,
            dlq_max_age_s: 30 * 24 * 3600,
            jobs_max_bytes: -1,
        }
    }
}

impl Config {
    /// `ack_wait_ms`.
    pub fn ack_wait(&self) -> Duration {
        Duration::from_millis(self.ack_wait_ms)
    }

    /// The shortest time that results must be remembered for, so that a job delivered again is stored once: two
    /// deliveries may each take ack_wait to be noticed as lost, one run may take `max_hold`, and a minute is for retries.
    pub fn least_window(&self, max_hold: Duration) -> Duration {
        self.ack_wait() * 2 + max_hold + Duration::from_secs(60)
    }
}

/// The streams of one namespace and the consumers of some models.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Prefix of subjects and streams.
    pub namespace: Namespace,
    /// How to create what is missing.
    pub config: Config,
    /// Models that get a consumer for each lane.
    pub models: Vec<Token>,
    /// Jobs one worker may hold; a consumer that allows fewer would stall it.
    pub in_flight: usize,
    /// The longest that a worker lets one run of a model take.
    pub max_hold: Duration,
}

impl Topology {
    /// The four streams.
    pub fn streams(&self) -> [stream::Config; 4] {
        let jobs = self.namespace.stream("JOBS");
        let advisory = |kind| format!("$JS.EVENT.ADVISORY.CONSUMER.{kind}.{jobs}.*");
        let seconds = Duration::from_secs;
        let dedup = seconds(self.config.duplicate_window_s);
        [
            stream::Config {
                retention: RetentionPolicy::WorkQueue,
                discard: DiscardPolicy::New,
                max_bytes: self.config.jobs_max_bytes,
                ..self.stream("JOBS", self.namespace.all_subjects("jobs"))
            },
            stream::Config {
                duplicate_window: dedup,
                max_age: seconds(self.config.results_max_age_s),
                // Results that are sent together can be confirmed together.
                allow_batch_publish: true,
                ..self.stream("RESULTS", self.namespace.all_subjects("results"))
            },
            stream::Config {
                duplicate_window: dedup,
                max_age: seconds(self.config.dlq_max_age_s),
                ..self.stream("DLQ", self.namespace.all_subjects("dlq"))
            },
            stream::Config {
                subjects: vec![advisory("MAX_DELIVERIES"), advisory("MSG_TERMINATED")],
                max_age: seconds(24 * 3600),
                ..self.stream("ADVISORIES", String::new())
            },
        ]
    }

    fn stream(&self, kind: &str, subject: String) -> stream::Config {
        stream::Config {
            name: self.namespace.stream(kind),
            subjects: vec![subject],
            storage: StorageType::File,
            num_replicas: self.config.replicas,
            max_bytes: -1,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_consumers: -1,
            max_message_size: -1,
            ..Default::default()
        }
    }

    /// One durable pull consumer for each model and lane.
    pub fn consumers(&self) -> impl Iterator<Item = pull::Config> + '_ {
        self.models.iter().flat_map(|model| Lane::ALL.map(|lane| self.consumer(model, lane)))
    }

    /// The consumer that all workers share to hear of jobs the server has given up delivering.
    pub fn sweeper(&self) -> pull::Config {
        let jobs = self.namespace.stream("JOBS");
        pull::Config {
            durable_name: Some("sweeper".into()),
            filter_subject: format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{jobs}.*"),
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_millis(self.config.ack_wait_ms),
            // Also the most jobs that sweepers hold in memory at once.
            max_ack_pending: 64,
            ..Default::default()
        }
    }

    fn consumer(&self, model: &Token, lane: Lane) -> pull::Config {
        pull::Config {
            durable_name: Some(Namespace::consumer(model, lane)),
            filter_subject: self.namespace.job_subject(model, lane),
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_millis(self.config.ack_wait_ms),
            max_deliver: self.config.max_deliver,
            max_ack_pending: self.config.max_ack_pending,
            ..Default::default()
        }
    }
}
