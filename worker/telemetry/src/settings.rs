//! The standard `OTEL_*` variables that the SDK leaves to the application, checked at start. Endpoints, headers, timeouts,
//! compression, resource attributes, queue sizes and intervals are read by the SDK itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::sampling::Sampling;
use crate::signal::Signal;

/// What is exported, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `OTEL_SDK_DISABLED`: nothing is recorded or exported.
    pub is_disabled: bool,
    /// By signal; `None` for one that is not exported.
    pub exports: [Option<Export>; 3],
    /// `OTEL_TRACES_SAMPLER`
    pub sampling: Sampling,
    /// `OTEL_PROPAGATORS`
    pub propagation: Propagation,
    /// `OTEL_SERVICE_NAME`, or `service.name` of `OTEL_RESOURCE_ATTRIBUTES`, is given.
    pub has_service_name: bool,
    /// `service.instance.id` of `OTEL_RESOURCE_ATTRIBUTES` is given.
    pub has_instance_id: bool,
    /// `OTEL_SPAN_LINK_COUNT_LIMIT`: most links of one span.
    pub max_links: usize,
    /// Whether `OTEL_BSP_MAX_QUEUE_SIZE`, `_MAX_EXPORT_BATCH_SIZE` and `_SCHEDULE_DELAY` are given.
    pub has_span_queue: [bool; 3],
    /// `service.version` of `OTEL_RESOURCE_ATTRIBUTES` is given.
    pub has_version: bool,
}

/// Which headers are understood and passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// `traceparent` and `tracestate`.
    pub trace_context: bool,
    /// `baggage`.
    pub baggage: bool,
}

impl Propagation {
    /// Whether any is.
    pub fn passes_on(self) -> bool {
        self.trace_context || self.baggage
    }
}

/// How one signal is exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// gRPC, or HTTP with protobuf.
    pub is_grpc: bool,
    /// Where to.
    pub endpoint: String,
    /// `OTEL_EXPORTER_OTLP_CERTIFICATE`: whom to trust, in place of the system's authorities.
    pub certificate: Option<PathBuf>,
    /// `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE` and `_CLIENT_KEY`.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// As the specification has it.
const DEFAULT_ENDPOINTS: [&str; 2] = ["http://localhost:4318", "http://localhost:4317"];

/// A batch may have more jobs than the SDK's default of 128 links; the worker's own default of in-flight jobs has not.
const DEFAULT_MAX_LINKS: usize = 1024;

struct Reader<'a> {
    environment: &'a BTreeMap<String, String>,
    faults: Vec<String>,
}

impl Reader<'_> {
    /// A variable; an empty one counts as not given, as the specification says.
    fn text(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    /// The variable of one signal, else that of all.
    fn of(&self, signal: Signal, name: &str) -> Option<&str> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.upper());
        self.text(&own).or_else(|| self.text(&format!("OTEL_EXPORTER_OTLP_{name}")))
    }

    fn export(&mut self, signal: Signal) -> Option<Export> {
        let selector = format!("OTEL_{}_EXPORTER", signal.upper());
        let endpoint = self.of(signal, "ENDPOINT").map(str::to_owned);
        match self.text(&selector) {
            // Not the specification's default, `otlp`: a worker without a collector should not complain of its absence.
            None if endpoint.is_none() => return None,
            None | Some("otlp") => {}
            Some("none") => return None,
            Some(other) => {
                self.faults.push(format!("{selector} is {other:?}: otlp or none is expected"));
                return None;
            }
        }
        let is_grpc = match self.of(signal, "PROTOCOL") {
            None | Some("http/protobuf") => false,
            Some("grpc") => true,
            Some(other) => {
                let text = format!("OTEL_EXPORTER_OTLP_PROTOCOL is {other:?}: grpc or http/protobuf is expected");
                self.faults.push(text);
                false
            }
        };
        let endpoint = endpoint.unwrap_or_else(|| DEFAULT_ENDPOINTS[usize::from(is_grpc)].to_owned());
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            // There may be a password in front of the host.
            let (signal, shown) = (signal.lower(), endpoint.rsplit('@').next().unwrap_or_default());
            let limit = "a URL with http:// or https:// is expected";
            self.faults.push(format!("OTEL_EXPORTER_OTLP_ENDPOINT is {shown:?} for {signal}: {limit}"));
        }
        let file = |name| self.of(signal, name).map(PathBuf::from);
        let (certificate, pair) = (file("CERTIFICATE"), (file("CLIENT_CERTIFICATE"), file("CLIENT_KEY")));
        let client = match pair {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                let text = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY: one is set, the other is not";
                self.faults.push(text.to_owned());
                None
            }
        };
        Some(Export { is_grpc, endpoint, certificate, client })
    }

    fn propagation(&mut self) -> Propagation {
        let mut propagation = Propagation { trace_context: false, baggage: false };
        let given = self.text("OTEL_PROPAGATORS").unwrap_or("tracecontext,baggage").to_owned();
        for name in given.split(',').map(str::trim) {
            match name {
                "tracecontext" => propagation.trace_context = true,
                "baggage" => propagation.baggage = true,
                "none" => {}
                other => self
                    .faults
                    .push(format!("OTEL_PROPAGATORS has {other:?}: tracecontext, baggage or none is expected")),
            }
        }
        propagation
    }

    fn number(&mut self, name: &str, default: usize) -> usize {
        let Some(text) = self.text(name) else { return default };
        let number = text.parse().map_err(|_| format!("{name} is {text:?}: a whole number is expected"));
        number.unwrap_or_else(|fault| {
            self.faults.push(fault);
            default
        })
    }
}

impl Settings {
    /// Nothing is recorded or exported.
    pub fn disabled() -> Self {
        let nothing = BTreeMap::from([("OTEL_SDK_DISABLED".to_owned(), "true".to_owned())]);
        Self::read(&nothing).expect("these variables are valid")
    }

    /// Reads the variables, or tells all that is wrong with them.
    pub fn read(environment: &BTreeMap<String, String>) -> Result<Self, Vec<String>> {
        let mut reader = Reader { environment, faults: Vec::new() };
        let is_disabled = reader.text("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let exports = if is_disabled { [None, None, None] } else { Signal::ALL.map(|signal| reader.export(signal)) };
        let sampling = Sampling::parse(reader.text("OTEL_TRACES_SAMPLER"), reader.text("OTEL_TRACES_SAMPLER_ARG"));
        let sampling = sampling.unwrap_or_else(|fault| {
            reader.faults.push(fault);
            Sampling::DEFAULT
        });
        let attributes = reader.text("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        let gives =
            |key: &str| attributes.split(',').any(|pair| pair.split('=').next().is_some_and(|k| k.trim() == key));
        let has_service_name = reader.text("OTEL_SERVICE_NAME").is_some() || gives("service.name");
        let has_instance_id = gives("service.instance.id");
        let has_version = gives("service.version");
        let queue = ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_SCHEDULE_DELAY"];
        let has_span_queue = queue.map(|name| reader.text(name).is_some());
        let propagation = reader.propagation();
        let max_links = reader.number("OTEL_SPAN_LINK_COUNT_LIMIT", DEFAULT_MAX_LINKS);
        let settings = Self {
            is_disabled,
            exports,
            sampling,
            propagation,
            has_service_name,
            has_instance_id,
            max_links,
            has_span_queue,
            has_version,
        };
        if reader.faults.is_empty() { Ok(settings) } else { Err(reader.faults) }
    }

    /// Which jobs to record: none where spans go nowhere. Then what the sender decided is passed on all the same.
    pub fn recorded(&self) -> Sampling {
        if self.exports[Signal::Traces as usize].is_some() { self.sampling } else { Sampling::OFF }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        Settings::read(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    fn protocols(settings: &Settings) -> [Option<bool>; 3] {
        settings.exports.each_ref().map(|export| export.as_ref().map(|export| export.is_grpc))
    }

    #[test]
    fn nothing_is_exported_unless_an_endpoint_or_an_exporter_is_named() {
        assert_eq!(protocols(&read(&[]).unwrap()), [None; 3]);
        let all = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")]).unwrap();
        assert_eq!(protocols(&all), [Some(false); 3]);
        let some = [("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
        let some = read(&some).unwrap();
        assert_eq!(protocols(&some), [Some(true), None, None]);
        assert_eq!(some.exports[0].as_ref().unwrap().endpoint, "http://localhost:4317");
    }

    #[test]
    fn a_signals_own_variable_wins() {
        let pairs = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://m:4317"),
            ("OTEL_LOGS_EXPORTER", "none"),
        ];
        let settings = read(&pairs).unwrap();
        assert_eq!(protocols(&settings), [Some(false), Some(true), None]);
        assert_eq!(settings.exports[1].as_ref().unwrap().endpoint, "https://m:4317");
    }

    #[test]
    fn disabled_means_disabled() {
        let pairs = [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")];
        let settings = read(&pairs).unwrap();
        assert!(settings.is_disabled && settings.exports.iter().all(Option::is_none));
        assert_eq!(settings.recorded(), Sampling::OFF);
        assert_eq!(settings, Settings { max_links: settings.max_links, ..Settings::disabled() });
    }

    #[test]
    fn every_fault_is_named_with_its_value() {
        let pairs = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_LOGS_EXPORTER", "console"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_PROPAGATORS", "b3,tracecontext"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k"),
            ("OTEL_SPAN_LINK_COUNT_LIMIT", "many"),
        ];
        let faults = read(&pairs).unwrap_err();
        for part in ["collector:4317\" for traces", "http/json", "console", "sometimes", "b3", "CLIENT_KEY", "many"] {
            assert!(faults.iter().any(|fault| fault.contains(part)), "{part}: {faults:?}");
        }
        assert_eq!(faults.len(), 7, "{faults:?}");
    }

    #[test]
    fn propagators_can_be_left_out() {
        let one = read(&[("OTEL_PROPAGATORS", "baggage")]).unwrap().propagation;
        assert_eq!(one, Propagation { trace_context: false, baggage: true });
        let none = read(&[("OTEL_PROPAGATORS", "none")]).unwrap().propagation;
        assert_eq!(none, Propagation { trace_context: false, baggage: false });
    }
}
