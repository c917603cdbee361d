use gristmill_schemas::metric::{self, attribute as a};

use crate::panel::{Panel, Row, Unit};
use crate::query::{INSTANCE, Series, legend};

pub(super) fn row() -> Row {
    Row { title: "Device", panels: vec![busy(), run(), faults(), gpu(), memory(), share()] }
}

fn busy() -> Panel {
    let by = &[a::MODEL];
    let instances = Series::of(metric::ENGINE_INSTANCES).now().sum(by);
    Panel::lines(
        "Engines busy",
        Unit::Part,
        "Part of the time in which instances run a batch. Near 1 with a backlog: the device is the limit, add workers. \
         Low with a backlog: something before it is, see Latency.",
    )
    .query(format!("{} / {instances}", Series::of(metric::ENGINE_BUSY_TIME).rate().sum(by)), legend(&[a::MODEL]))
}

fn run() -> Panel {
    let by = [a::MODEL, a::DEVICE];
    let runs = Series::of(metric::DEVICE_DURATION).rate().sum(&by);
    Panel::lines(
        "Time of one batch on the device",
        Unit::Seconds,
        "Forward, with copies. Grows with rows per batch. Grows without them: another tenant of the device, thermal \
         limits, or too many threads (models.threads) on the CPU.",
    )
    .query(runs.quantile(0.5), format!("P50 {}", legend(&by)))
    .query(runs.quantile(0.99), format!("P99 {}", legend(&by)))
}

fn faults() -> Panel {
    Panel::stacked(
        "Engine faults",
        Unit::Count,
        "Over the time shown. run_error: the model threw on a job. out_of_memory: batches were halved. panic, rebuild: an \
         instance was loaded again, the log says why; more than 8 in a minute end the worker.",
    )
    .query(Series::of(metric::ENGINE_FAULTS).growth().sum(&[a::FAULT]), legend(&[a::FAULT]))
}

fn gpu() -> Panel {
    let by = [INSTANCE, a::GPU_ID, a::GPU_NAME];
    Panel::lines(
        "GPU busy",
        Unit::Part,
        "Part of the time in which any kernel ran (NVML). High with Engines busy low: somebody else uses the device. \
         Nothing here: no NVIDIA GPU, or NVML is not there.",
    )
    .query(Series::of(metric::GPU_UTILIZATION).now().max(&by), legend(&by))
}

fn memory() -> Panel {
    let by = [INSTANCE, a::GPU_ID];
    let own = [INSTANCE, a::MEMORY_STATE];
    Panel::lines(
        "GPU memory",
        Unit::Bytes,
        "In use by anybody (NVML), against what there is, and what the worker has of it: used is in tensors, cached was \
         freed and is kept by libtorch for the next, so that it does not fall by itself. All three far apart: somebody else \
         uses the device.",
    )
    .query(Series::of(metric::GPU_MEMORY_USAGE).now().max(&by), format!("used {}", legend(&by)))
    .query(Series::of(metric::GPU_MEMORY_LIMIT).now().max(&by), format!("all {}", legend(&by)))
    .query(Series::of(metric::DEVICE_MEMORY_USAGE).now().max(&own), legend(&own))
}

fn share() -> Panel {
    let by = [INSTANCE, a::GPU_ID];
    Panel::lines(
        "GPU memory used",
        Unit::Part,
        "Above 92 % the next large batch may not fit; it is halved and the ceiling falls (Most rows of a batch). Fewer \
         instances or a lower max_rows.",
    )
    .limit(0.92)
    .query(Series::of(metric::GPU_MEMORY_UTILIZATION).now().max(&by), legend(&by))
}
