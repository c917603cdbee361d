use gristmill_schemas::metric::{self, attribute as a};

use crate::panel::{Panel, Row, Shape, Unit};
use crate::query::{Series, legend};

pub(super) fn row() -> Row {
    Row { title: "Model versions", panels: vec![served(), loads()] }
}

fn served() -> Panel {
    Panel::new(
        "Models served",
        Shape::Table,
        Unit::Count,
        "Workers by model, version, digest and device. Two digests for one version: the file was replaced without a new \
         version. A model that is missing was refused: the log and `gristmill status` say why.",
    )
    .width(16)
    .query(Series::of(metric::MODEL_INFO).now().sum(&[a::MODEL, a::VERSION, a::DIGEST, a::DEVICE]), legend(&[a::MODEL]))
}

fn loads() -> Panel {
    let by = [a::MODEL, a::OUTCOME];
    Panel::lines(
        "Time to load, P99",
        Unit::Seconds,
        "Read, check, load, warm up. Long loads make long restarts: keep packages on a local disk, and give the start-up \
         probe the time.",
    )
    .query(Series::of(metric::MODEL_LOAD_DURATION).rate().sum(&by).quantile(0.99), legend(&by))
}
