use gristmill_schemas::metric::{self, attribute as a, label};

use crate::panel::{Panel, Row, Shape, Unit};
use crate::query::{JOB, Series, legend};
use crate::recorded;

pub(super) fn row() -> Row {
    Row { title: "SLO", panels: vec![budget(), burn(), tail(), alerts()] }
}

/// A recorded name, of the deployments and models chosen.
fn recorded_series(name: &str) -> String {
    format!(r#"{name}{{{JOB}=~"$job",{}=~"$model"}}"#, label(a::MODEL))
}

fn allowed() -> String {
    format!("(1 - scalar({}))", recorded::OBJECTIVE_AVAILABILITY)
}

fn budget() -> Panel {
    let (_, three_days) = recorded::ERRORS_RATIO[4];
    Panel::new(
        "Error budget left, 3 days",
        Shape::Number,
        Unit::Part,
        "What is left of the faults of ours that the objective allows, over the last 3 days. Below 0 the objective is \
         missed: see which codes grow under Traffic, and hold back changes until it is met again.",
    )
    .width(6)
    .query(format!("1 - {} / {}", recorded_series(three_days), allowed()), legend(&[a::MODEL]))
}

fn burn() -> Panel {
    let panel = Panel::lines(
        "Burn rate",
        Unit::Count,
        "How many times faster than allowed the error budget is spent; 1 spends it exactly. 14.4 over 1 h and 6 over 6 h \
         page, 3 over 1 d and 1 over 3 d make tickets. Look at Refusals for the code and at the log for the cause.",
    );
    recorded::ERRORS_RATIO[1..].iter().fold(panel.width(6), |panel, (window, name)| {
        panel.query(format!("{} / {}", recorded_series(name), allowed()), format!("{window} {}", legend(&[a::MODEL])))
    })
}

fn tail() -> Panel {
    let online = Series::of(metric::REQUEST_DURATION).with(a::LANE, r#"="online""#).with(a::ERROR, r#"="""#).rate();
    let online = online.sum(&[a::MODEL]);
    Panel::lines(
        "Online latency against the objectives",
        Unit::Seconds,
        "Stored job to stored answer, answers without an error. Above the objectives: the row Latency says which \
         stage it is. The stream (broker) means too few workers; queue, the batching delay; device, the model.",
    )
    .width(6)
    .query(online.quantile(0.99), format!("P99 {}", legend(&[a::MODEL])))
    .query(online.quantile(0.999), format!("P99.9 {}", legend(&[a::MODEL])))
    .query(recorded::OBJECTIVE_P99, "objective P99")
    .query(recorded::OBJECTIVE_P999, "objective P99.9")
}

fn alerts() -> Panel {
    Panel::new(
        "Alerts",
        Shape::Table,
        Unit::Count,
        "What fires or is about to. Each alert names its section in ops/README.md. Empty is good, unless Prometheus has \
         not loaded ops/alerts.",
    )
    .width(6)
    .query(r#"sum by (alertname, alertstate, severity) (ALERTS{alertname=~"Gristmill.*"})"#, "{{alertname}}")
}
