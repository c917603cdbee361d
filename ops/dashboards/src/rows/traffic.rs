use gristmill_schemas::metric::{self, attribute as a};

use crate::panel::{Panel, Row, Unit};
use crate::query::{Series, legend};

pub(super) fn row() -> Row {
    Row { title: "Traffic", panels: vec![delivered(), answers(), refusals(), settlements(), stored(), dead_letters()] }
}

fn delivered() -> Panel {
    Panel::stacked(
        "Jobs delivered",
        Unit::PerSecond,
        "Deliveries by consumer, redeliveries among them. Falls to 0 while jobs are pending: see Queue, and whether \
         workers are ready (Process).",
    )
    .query(Series::of(metric::CONSUMED_MESSAGES).rate().sum(&[a::CONSUMER]), legend(&[a::CONSUMER]))
}

fn answers() -> Panel {
    let by = [a::MODEL, a::LANE];
    let answers = |matcher| Series::of(metric::REQUEST_DURATION).with(a::ERROR, matcher).rate().sum(&by).count();
    Panel::stacked(
        "Answers",
        Unit::PerSecond,
        "Results stored and confirmed, with and without an error. It should follow Jobs delivered; a lasting gap means \
         that jobs are given back or held: see Settlements.",
    )
    .query(answers(r#"="""#), format!("ok {}", legend(&by)))
    .query(answers(r#"!="""#), format!("error {}", legend(&by)))
}

fn refusals() -> Panel {
    Panel::stacked(
        "Refusals by code",
        Unit::PerSecond,
        "Jobs answered with an error. invalid_*, unknown_*, too_large and cancelled are the senders': tell them. \
         model_error, resource_exhausted, quarantined, internal and deadline_exceeded count against us: `gristmill dlq \
         ls --code ...` has the jobs of the first four.",
    )
    .query(Series::of(metric::REQUESTS_REJECTED).rate().sum(&[a::MODEL, a::ERROR]), legend(&[a::MODEL, a::ERROR]))
}

fn settlements() -> Panel {
    Panel::stacked(
        "Settlements",
        Unit::PerSecond,
        "How deliveries were answered for. nak is given back: normal during a drain, otherwise a crash loop or a stage \
         that drops jobs, see the log. in_progress grows with runs that take longer than a part of ack_wait.",
    )
    .query(Series::of(metric::SETTLEMENTS).rate().sum(&[a::VERDICT]), legend(&[a::VERDICT]))
}

fn stored() -> Panel {
    let by = [a::TEMPLATE, a::ERROR];
    Panel::stacked(
        "Attempts to store",
        Unit::PerSecond,
        "Publishes of results and dead letters; with an error type, those that JetStream did not confirm. These are \
         tried again with the same id, and intake stops meanwhile. Make room in the stream, or find its leader.",
    )
    .query(Series::of(metric::SENT_MESSAGES).rate().sum(&by), legend(&by))
}

fn dead_letters() -> Panel {
    Panel::lines(
        "Dead letters, redeliveries, duplicates",
        Unit::Count,
        "Over the time shown. Dead letters wait in the dlq stream: `gristmill dlq ls`. Redeliveries and duplicates come \
         of crashes, lost connections and an ack_wait that is too short.",
    )
    .query(Series::of(metric::DEAD_LETTERED).growth().sum(&[a::ERROR]), format!("dead letter {}", legend(&[a::ERROR])))
    .query(
        Series::of(metric::REDELIVERIES).growth().sum(&[a::CONSUMER]),
        format!("redelivered {}", legend(&[a::CONSUMER])),
    )
    .query(Series::of(metric::RESULT_DUPLICATES).growth().sum(&[]), "duplicate results")
}
