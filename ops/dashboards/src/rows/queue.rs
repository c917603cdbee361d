use gristmill_schemas::metric::{self, attribute as a, label};

use crate::panel::{Panel, Row, Unit};
use crate::query::{INSTANCE, JOB, Series, legend};
use crate::recorded;

pub(super) fn row() -> Row {
    Row { title: "Queue", panels: vec![pending(), age(), drain_time(), unsettled(), pulls(), in_worker(), permits()] }
}

fn pending() -> Panel {
    Panel::lines(
        "Jobs waiting in the stream",
        Unit::Count,
        "Not delivered yet. Online should stay near 0; bulk may be millions as long as it falls. Growing: more workers. \
         Jobs of models without any consumer are not in here: `gristmill status` shows those.",
    )
    .width(6)
    .query(Series::of(metric::CONSUMER_PENDING).now().max(&[a::CONSUMER]), legend(&[a::CONSUMER]))
}

fn age() -> Panel {
    let stored = Series::of(metric::BROKER_DURATION).rate().sum(&[a::CONSUMER]);
    Panel::lines(
        "Time in the stream, P99",
        Unit::Seconds,
        "Stored to received, of jobs that were received. For the online lane this is latency lost before a worker has \
         seen the job: more workers, or see why they do not pull.",
    )
    .width(6)
    .query(stored.quantile(0.99), legend(&[a::CONSUMER]))
}

fn drain_time() -> Panel {
    let chosen = format!(r#"{{{JOB}=~"$job",{}=~"($model)-($lane)"}}"#, label(a::CONSUMER));
    Panel::lines(
        "Time until the backlog is done",
        Unit::Seconds,
        "Jobs waiting over jobs delivered per second, if nothing more came. Infinite where nothing is delivered: see \
         whether workers are ready and pull.",
    )
    .width(6)
    .query(format!("{}{chosen} / {}{chosen}", recorded::PENDING, recorded::CONSUMED), legend(&[a::CONSUMER]))
}

fn unsettled() -> Panel {
    let max = |metric| Series::of(metric).now().max(&[a::CONSUMER]);
    Panel::lines(
        "Delivered and not settled",
        Unit::Count,
        "Over all workers. At the limit the server delivers nothing more: raise max_ack_pending, or find the worker that \
         holds them. Redelivered ones are retries of jobs that somebody did not settle.",
    )
    .width(6)
    .query(max(metric::CONSUMER_ACK_PENDING), format!("unsettled {}", legend(&[a::CONSUMER])))
    .query(max(metric::CONSUMER_ACK_LIMIT), format!("limit {}", legend(&[a::CONSUMER])))
    .query(max(metric::CONSUMER_REDELIVERED), format!("redelivered {}", legend(&[a::CONSUMER])))
}

fn pulls() -> Panel {
    Panel::lines(
        "Open pulls",
        Unit::Count,
        "Requests for jobs that wait at the consumer. 0 while jobs are pending: its workers are gone, full, or hold back \
         because results cannot be stored.",
    )
    .query(Series::of(metric::CONSUMER_WAITING).now().max(&[a::CONSUMER]), legend(&[a::CONSUMER]))
}

fn in_worker() -> Panel {
    let by = [a::MODEL, a::LANE];
    Panel::stacked(
        "Jobs waiting for a batch",
        Unit::Count,
        "Inside the workers. Full here and idle on the device would be a fault of ours; full here and busy on the device \
         is load.",
    )
    .query(Series::of(metric::QUEUE_DEPTH).now().sum(&by), legend(&by))
}

fn permits() -> Panel {
    Panel::lines(
        "Jobs in flight against the permits",
        Unit::Count,
        "The bound of memory, limits.in_flight. At its window a worker asks for no more of a consumer: what it does not run \
         soon waits in the stream. Raise the limit only if the device idles at it.",
    )
    .query(Series::of(metric::REQUESTS_ACTIVE).now().sum(&[INSTANCE]), format!("in flight {}", legend(&[INSTANCE])))
    .query(Series::of(metric::QUEUE_LIMIT).now().sum(&[INSTANCE]), format!("limit {}", legend(&[INSTANCE])))
    .query(Series::of(metric::CONSUMER_WINDOW).now().sum(&[a::CONSUMER]), format!("window {}", legend(&[a::CONSUMER])))
}
