//! What is read only when metrics are collected: states and totals that others write anyway.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use gristmill_schemas::Lane;
use gristmill_schemas::metric::{self, Metric, attribute as a};
use gristmill_telemetry::{KeyValue, Observed, observe_process, watch_gpus};

use super::Vitals;
use super::counters::{Count, Counters};
use super::health::{Health, Lag};
use super::meters::{Meters, ModelMeters};

/// Totals that become one series of a metric, under this fault.
const FAULTS: [(&Metric, &[(Count, &str)]); 3] = [
    (
        &metric::ENGINE_FAULTS,
        &[
            (Count::RunErrors, "run_error"),
            (Count::OutOfMemory, "out_of_memory"),
            (Count::Panics, "panic"),
            (Count::Rebuilds, "rebuild"),
        ],
    ),
    (
        &metric::CONNECTION_FAULTS,
        &[
            (Count::ClientRebuilds, "client_rebuild"),
            (Count::ForcedReconnects, "forced_reconnect"),
            (Count::PullsLost, "pull_lost"),
            (Count::PublishRetries, "publish_retry"),
        ],
    ),
    (
        &metric::RESCUES,
        &[
            (Count::Returned, "returned"),
            (Count::Recovered, "recovered"),
            (Count::Quarantined, "quarantined"),
            (Count::Swept, "swept"),
        ],
    ),
];

/// Totals of answers to the server, by verdict.
const SETTLED: [(Count, &str); 4] =
    [(Count::Acked, "ack"), (Count::Terminated, "term"), (Count::GivenBack, "nak"), (Count::KeepAlives, "in_progress")];

/// One number of a consumer's lag.
type Number = fn(&Lag) -> u64;

fn one(value: f64) -> Observed {
    vec![(value, Vec::new())]
}

/// By state; nothing where models run in the host's memory.
fn memory(health: &Health) -> Observed {
    let bytes = health.device_memory.each_ref().map(|bytes| bytes.load(Ordering::Relaxed) as f64);
    let states = bytes.into_iter().zip(["used", "cached"]);
    let found = states.map(|(bytes, state)| (bytes, vec![KeyValue::new(a::MEMORY_STATE, state)]));
    if bytes == [0.0; 2] { Vec::new() } else { found.collect() }
}

impl Vitals {
    /// Has states and totals reported. `permits`: most jobs accepted and not settled. Call once.
    pub fn observe(&self, permits: usize) {
        let Self { health, counters, meters, tracing, .. } = self;
        let instruments = meters.instruments();
        observe_process(instruments);
        watch_gpus(instruments, gristmill_ledger::enter_ours);
        instruments.observe(&metric::QUEUE_LIMIT, move || one(permits as f64));
        let kept = Arc::clone(health);
        instruments.observe(&metric::REQUESTS_ACTIVE, move || one(kept.in_flight.load(Ordering::Relaxed) as f64));
        let kept = Arc::clone(counters);
        instruments.observe(&metric::RESULT_DUPLICATES, move || one(kept.get(Count::DuplicateResults) as f64));
        let kept = Arc::clone(health);
        instruments.observe(&metric::READY, move || {
            let checks = kept.checks().into_iter();
            let number = |holds: bool| f64::from(u8::from(holds));
            checks.map(|(name, fault)| (number(fault.is_none()), vec![KeyValue::new(a::CHECK, name)])).collect()
        });
        let kept = Arc::clone(health);
        instruments.observe(&metric::DEVICE_MEMORY_USAGE, move || memory(&kept));
        let limiter = Arc::clone(&tracing.limiter);
        instruments.observe(&metric::TRACES_SKIPPED, move || one(limiter.skipped() as f64));
        meters.observe_settled(counters);
        meters.observe_faults(health, counters);
        meters.observe_lags(health);
        meters.observe_windows();
        meters.observe_models();
    }
}

impl Meters {
    fn observe_settled(self: &Arc<Self>, counters: &Arc<Counters>) {
        let (meters, counters) = (Arc::clone(self), Arc::clone(counters));
        self.instruments().observe(&metric::SETTLEMENTS, move || {
            let with = |verdict| meters.of_jobs().into_iter().chain([KeyValue::new(a::VERDICT, verdict)]).collect();
            SETTLED.iter().map(|(count, verdict)| (counters.get(*count) as f64, with(*verdict))).collect()
        });
    }

    fn observe_faults(&self, health: &Arc<Health>, counters: &Arc<Counters>) {
        for (metric, faults) in FAULTS {
            let (counters, health) = (Arc::clone(counters), Arc::clone(health));
            self.instruments().observe(metric, move || {
                let fault = |name: &'static str| vec![KeyValue::new(a::FAULT, name)];
                let mut found: Observed =
                    faults.iter().map(|(count, name)| (counters.get(*count) as f64, fault(name))).collect();
                if *metric == metric::CONNECTION_FAULTS {
                    found.push((health.link.borrow().losses as f64, fault("loss")));
                }
                found
            });
        }
    }

    fn observe_lags(self: &Arc<Self>, health: &Arc<Health>) {
        let numbers: [(&Metric, Number); 5] = [
            (&metric::CONSUMER_PENDING, |lag| lag.pending),
            (&metric::CONSUMER_ACK_PENDING, |lag| lag.ack_pending),
            (&metric::CONSUMER_ACK_LIMIT, |lag| lag.ack_limit),
            (&metric::CONSUMER_REDELIVERED, |lag| lag.redelivered),
            (&metric::CONSUMER_WAITING, |lag| lag.waiting),
        ];
        for (metric, number) in numbers {
            let (meters, health) = (Arc::clone(self), Arc::clone(health));
            self.instruments().observe(metric, move || {
                let lags = health.lags.borrow();
                lags.iter().map(|lag| (number(lag) as f64, meters.of_consumer(&lag.consumer))).collect()
            });
        }
    }

    fn observe_windows(self: &Arc<Self>) {
        let meters = Arc::clone(self);
        self.instruments().observe(&metric::CONSUMER_WINDOW, move || {
            let windows = meters.windows.lock().unwrap_or_else(PoisonError::into_inner);
            let of = |(name, jobs): &(String, Arc<AtomicUsize>)| {
                (jobs.load(Ordering::Relaxed) as f64, meters.of_consumer(name))
            };
            windows.iter().map(of).collect()
        });
    }

    fn observe_models(self: &Arc<Self>) {
        self.observe_each(&metric::QUEUE_DEPTH, |model| {
            let depth = |lane: Lane| model.queued[lane as usize].load(Ordering::Relaxed) as f64;
            Lane::ALL.map(|lane| (depth(lane), model.with(a::LANE, lane.as_str()))).into()
        });
        self.observe_each(&metric::BATCH_LIMIT, |model| {
            vec![(model.limit.load(Ordering::Relaxed) as f64, model.attributes.to_vec())]
        });
        self.observe_each(&metric::BATCH_KNEE, |model| {
            let known = Some(model.knee.load(Ordering::Relaxed)).filter(|knee| *knee > 0);
            known.map(|knee| (knee as f64, model.attributes.to_vec())).into_iter().collect()
        });
        self.observe_each(&metric::BATCH_COST_RUN, |model| model.cost(0));
        self.observe_each(&metric::BATCH_COST_ELEMENT, |model| model.cost(1));
        self.observe_each(&metric::MODEL_INFO, |model| {
            let mut attributes = model.with(a::DIGEST, &model.digest);
            attributes.push(KeyValue::new(a::DEVICE, model.device_name.clone()));
            vec![(1.0, attributes)]
        });
        self.observe_each(&metric::ENGINE_INSTANCES, |model| {
            let clocks = model.clocks.lock().unwrap_or_else(PoisonError::into_inner);
            vec![(clocks.len() as f64, model.attributes.to_vec())]
        });
        self.observe_each(&metric::ENGINE_BUSY_TIME, |model| {
            let clocks = model.clocks.lock().unwrap_or_else(PoisonError::into_inner);
            vec![(clocks.iter().map(|clock| clock.busy().as_secs_f64()).sum(), model.attributes.to_vec())]
        });
    }

    fn observe_each(self: &Arc<Self>, metric: &'static Metric, read: fn(&ModelMeters) -> Observed) {
        let meters = Arc::clone(self);
        self.instruments().observe(metric, move || {
            let models = meters.models.lock().unwrap_or_else(PoisonError::into_inner);
            models.iter().flat_map(|model| read(model)).collect()
        });
    }
}

impl ModelMeters {
    fn cost(&self, index: usize) -> Observed {
        vec![(f64::from_bits(self.cost[index].load(Ordering::Relaxed)), self.attributes.to_vec())]
    }

    fn with(&self, key: &'static str, value: &str) -> Vec<KeyValue> {
        self.attributes.iter().cloned().chain([KeyValue::new(key, value.to_owned())]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_device_is_told_by_state_where_there_is_one() {
        let health = Health::default();
        assert_eq!(memory(&health), []);
        health.device_memory[0].store(3, Ordering::Relaxed);
        let state = |name: &'static str| vec![KeyValue::new("gristmill.memory.state", name)];
        assert_eq!(memory(&health), [(3.0, state("used")), (0.0, state("cached"))]);
    }
}
