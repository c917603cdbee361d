use gristmill_schemas::metric::{self, Metric, attribute as a};

use crate::panel::{Panel, Row, Unit};
use crate::query::{INSTANCE, Series, legend};

pub(super) fn row() -> Row {
    Row { title: "Telemetry", panels: vec![sent(), lost(), skipped(), lines()] }
}

/// What is exported, and the counter that says so.
const SIGNALS: [(&str, Metric); 3] = [
    ("spans", metric::SPANS_EXPORTED),
    ("log records", metric::LOGS_EXPORTED),
    ("data points", metric::METRICS_EXPORTED),
];

fn sent() -> Panel {
    let panel = Panel::lines(
        "Exported",
        Unit::PerSecond,
        "What the collector took. Nothing while the workers serve: OTEL_EXPORTER_OTLP_ENDPOINT is wrong or the collector \
         is down; then this dashboard has gaps, too.",
    );
    SIGNALS.into_iter().fold(panel, |panel, (name, metric)| {
        panel.query(Series::of(metric).with(a::ERROR, r#"="""#).rate().sum(&[]), name)
    })
}

fn lost() -> Panel {
    let by = [INSTANCE, a::ERROR];
    let queues = [("spans", metric::SPANS_PROCESSED), ("log records", metric::LOGS_PROCESSED)];
    let panel = Panel::lines(
        "Lost",
        Unit::PerSecond,
        "Should be 0. queue_full: the exporter is slower than what is recorded; sample less, or enlarge OTEL_BSP_* and \
         OTEL_BLRP_*. Other types: the collector refused or was not there, see its log.",
    );
    SIGNALS.into_iter().chain(queues).fold(panel, |panel, (name, metric)| {
        let lost = Series::of(metric).with(a::ERROR, r#"!="""#).rate().sum(&by);
        panel.query(lost, format!("{name} {}", legend(&by)))
    })
}

fn skipped() -> Panel {
    Panel::lines(
        "Jobs not recorded",
        Unit::PerSecond,
        "More jobs are sampled than telemetry.max_traces_per_s lets be recorded: senders mark too many, or the ratio is too \
         high. Metrics are complete all the same.",
    )
    .query(Series::of(metric::TRACES_SKIPPED).rate().sum(&[INSTANCE]), legend(&[INSTANCE]))
}

fn lines() -> Panel {
    Panel::lines(
        "Log lines dropped",
        Unit::PerSecond,
        "Standard output is not read fast enough. The worker drops rather than waits: log less (log.filter), or mend \
         what reads it.",
    )
    .query(Series::of(metric::LOG_LINES_DROPPED).rate().sum(&[INSTANCE]), legend(&[INSTANCE]))
}
