use gristmill_schemas::metric::{self, attribute as a};

use crate::panel::{Panel, Row, Unit};
use crate::query::{INSTANCE, Series, legend};

pub(super) fn row() -> Row {
    Row {
        title: "Process",
        panels: vec![ready(), uptime(), lag(), cpu(), memory(), handles(), connection(), rescues()],
    }
}

fn ready() -> Panel {
    let by = [INSTANCE, a::CHECK];
    Panel::lines(
        "Ready, by check",
        Unit::Count,
        "1 where the check holds. A 0 keeps the worker from being ready; `/readyz` of that worker says it in words. 0 for \
         a few seconds at start and in a drain is normal.",
    )
    .width(6)
    .query(Series::of(metric::READY).now().min(&by), legend(&by))
}

fn uptime() -> Panel {
    Panel::lines(
        "Time since the start",
        Unit::Seconds,
        "A saw is a crash loop: the log of the worker before the fall, and Rescues, say what it died of.",
    )
    .width(6)
    .query(Series::of(metric::PROCESS_UPTIME).now().max(&[INSTANCE]), legend(&[INSTANCE]))
}

fn lag() -> Panel {
    Panel::lines(
        "Runtime lag, P99",
        Unit::Seconds,
        "How late a timer wakes. Milliseconds mean that engines take the processors that the runtime needs: lower \
         models.threads, or give the worker more cores.",
    )
    .width(6)
    .query(Series::of(metric::RUNTIME_LAG).rate().sum(&[INSTANCE]).quantile(0.99), legend(&[INSTANCE]))
}

fn cpu() -> Panel {
    let by = [INSTANCE, a::CPU_MODE];
    Panel::stacked(
        "Processors used",
        Unit::Count,
        "Much system time: many small batches, or paging. Flat at the container's limit: it is throttled, and Runtime lag \
         grows.",
    )
    .width(6)
    .query(Series::of(metric::PROCESS_CPU_TIME).rate().sum(&by), legend(&by))
}

fn memory() -> Panel {
    Panel::lines(
        "Resident memory",
        Unit::Bytes,
        "Libtorch and models, plus at most limits.in_flight jobs. Growing without end while Jobs in flight does not is a \
         leak: in the model's code, or ours.",
    )
    .width(6)
    .query(Series::of(metric::PROCESS_MEMORY_USAGE).now().max(&[INSTANCE]), legend(&[INSTANCE]))
}

fn handles() -> Panel {
    Panel::lines(
        "Threads and file descriptors",
        Unit::Count,
        "Both are constant after the start. Growing file descriptors: connections to the admin port that are not closed, \
         or the collector's.",
    )
    .width(6)
    .query(Series::of(metric::PROCESS_THREAD_COUNT).now().max(&[INSTANCE]), format!("threads {}", legend(&[INSTANCE])))
    .query(
        Series::of(metric::PROCESS_FILE_DESCRIPTORS).now().max(&[INSTANCE]),
        format!("descriptors {}", legend(&[INSTANCE])),
    )
}

fn connection() -> Panel {
    Panel::stacked(
        "Connection faults",
        Unit::Count,
        "Over the time shown. Losses and forced_reconnect: the network, or the server's disk. client_rebuild: a job's \
         header killed the client, stop its sender. publish_retry: see Attempts to store.",
    )
    .width(6)
    .query(Series::of(metric::CONNECTION_FAULTS).growth().sum(&[a::FAULT]), legend(&[a::FAULT]))
}

fn rescues() -> Panel {
    Panel::stacked(
        "Rescues",
        Unit::Count,
        "Over the time shown. returned, recovered: a worker died and its jobs were saved. quarantined: a job killed \
         workers, `gristmill dlq ls --code quarantined` has it. swept: deliveries were used up.",
    )
    .width(6)
    .query(Series::of(metric::RESCUES).growth().sum(&[a::FAULT]), legend(&[a::FAULT]))
}
