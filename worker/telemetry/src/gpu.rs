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
    /// None where the device does not say: under MIG, for one.
    busy: Option<f64>,
}

/// Reports the `hw.gpu.*` metrics from now on, asking on a thread that begins with `on_start`. Reports nothing where there is no
/// driver.
pub fn watch(instruments: &Instruments, on_start: fn()) {
    if !instruments.is_on() {
        return;
    }
    // Held for as long as it takes to copy a few numbers.
    let readings = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&readings);
    let watch = move || {
        on_start();
        // A sick driver may take for ever.
        let Ok(nvml) = Nvml::init() else { return };
        loop {
            let found = read(&nvml);
            *shared.lock().unwrap_or_else(PoisonError::into_inner) = found;
            std::thread::sleep(INTERVAL);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("nvml".into()).spawn(watch) {
        return tracing::warn!(%error, "GPUs are not watched");
    }
    let observe = |metric: &'static Metric, number: fn(&Reading) -> Option<f64>| {
        let readings = Arc::clone(&readings);
        instruments.observe(metric, move || {
            let readings = readings.lock().unwrap_or_else(PoisonError::into_inner);
            readings.iter().filter_map(|reading| Some((number(reading)?, reading.attributes.clone()))).collect()
        });
    };
    observe(&metric::GPU_MEMORY_USAGE, |reading| Some(reading.used));
    observe(&metric::GPU_MEMORY_LIMIT, |reading| Some(reading.total));
    observe(&metric::GPU_MEMORY_UTILIZATION, |reading| Some(reading.used / reading.total.max(1.0)));
    observe(&metric::GPU_UTILIZATION, |reading| reading.busy);
}

/// A device that does not answer is left out.
fn read(nvml: &Nvml) -> Vec<Reading> {
    let one = |index| {
        let device = nvml.device_by_index(index)?;
        let (memory, busy) = (device.memory_info()?, device.utilization_rates().ok());
        let attributes = vec![
            KeyValue::new(attribute::GPU_ID, device.uuid()?),
            KeyValue::new(attribute::GPU_NAME, device.name()?),
            KeyValue::new(attribute::GPU_VENDOR, "NVIDIA"),
        ];
        let busy = busy.map(|busy| f64::from(busy.gpu) / 100.0);
        Ok::<_, NvmlError>(Reading { attributes, used: memory.used as f64, total: memory.total as f64, busy })
    };
    (0..nvml.device_count().unwrap_or(0)).filter_map(|index| one(index).ok()).collect()
}
