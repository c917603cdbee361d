//! What NVML says of the GPUs. It is asked by a thread of its own, since it may take long to answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gristmill_schemas::metric::{self, Metric, attribute};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use opentelemetry::KeyValue;

use crate::instruments::Instruments;

/// How often NVML is asked.
const INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
struct Reading {
    attributes: Vec<KeyValue>,
    used: f64,
    total: f64,
    busy: f64,
}

/// Reports the `hw.gpu.*` metrics from now on. Reports nothing where there is no driver.
pub fn watch(instruments: &Instruments) {
    let Ok(nvml) = Nvml::init() else { return };
    // Held for as long as it takes to copy a few numbers.
    let readings = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&readings);
    let watch = move || {
        loop {
            let found = read(&nvml).unwrap_or_default();
            *shared.lock().unwrap_or_else(PoisonError::into_inner) = found;
            std::thread::sleep(INTERVAL);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("nvml".into()).spawn(watch) {
        return tracing::warn!(%error, "GPUs are not watched");
    }
    let observe = |metric: &'static Metric, number: fn(&Reading) -> f64| {
        let readings = Arc::clone(&readings);
        instruments.observe(metric, move || {
            let readings = readings.lock().unwrap_or_else(PoisonError::into_inner);
            readings.iter().map(|reading| (number(reading), reading.attributes.clone())).collect()
        });
    };
    observe(&metric::GPU_MEMORY_USAGE, |reading| reading.used);
    observe(&metric::GPU_MEMORY_LIMIT, |reading| reading.total);
    observe(&metric::GPU_MEMORY_UTILIZATION, |reading| reading.used / reading.total.max(1.0));
    observe(&metric::GPU_UTILIZATION, |reading| reading.busy);
}

fn read(nvml: &Nvml) -> Result<Vec<Reading>, NvmlError> {
    let one = |index| {
        let device = nvml.device_by_index(index)?;
        let (memory, busy) = (device.memory_info()?, device.utilization_rates()?);
        let attributes = vec![
            KeyValue::new(attribute::GPU_ID, device.uuid()?),
            KeyValue::new(attribute::GPU_NAME, device.name()?),
            KeyValue::new(attribute::GPU_VENDOR, "NVIDIA"),
        ];
        let busy = f64::from(busy.gpu) / 100.0;
        Ok(Reading { attributes, used: memory.used as f64, total: memory.total as f64, busy })
    };
    (0..nvml.device_count()?).map(one).collect()
}
