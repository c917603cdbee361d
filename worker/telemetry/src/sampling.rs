use gristmill_schemas::TraceContext;

/// Which traces are recorded. Pure, so that the decision can be made once, where a job is read.
///
/// The six samplers of the OpenTelemetry specification, by the values of `OTEL_TRACES_SAMPLER`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Whether the sender's decision goes before ours.
    pub follows_parent: bool,
    /// Part of the traces recorded, by their id, 0 to 1.
    pub ratio: f64,
}

impl Sampling {
    /// The sender decides; one in a hundred of those that bring no decision.
    pub const DEFAULT: Self = Self { follows_parent: true, ratio: 0.01 };

    /// Records nothing, whatever the sender says.
    pub const OFF: Self = Self { follows_parent: false, ratio: 0.0 };

    /// Whether to record the trace of this id, with the sender's context if there is one.
    pub fn takes(&self, parent: Option<&TraceContext>, trace_id: [u8; 16]) -> bool {
        match parent {
            Some(parent) if self.follows_parent => parent.is_sampled(),
            _ => self.takes_id(trace_id),
        }
    }

    /// The same id has the same answer in every process with the same ratio: the last eight bytes are compared with it.
    fn takes_id(&self, trace_id: [u8; 16]) -> bool {
        let [.., a, b, c, d, e, f, g, h] = trace_id;
        // 63 bits, as in the SDKs.
        let random = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
        self.ratio >= 1.0 || (random as f64) < self.ratio * (1u64 << 63) as f64
    }

    /// Reads `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.
    pub fn parse(name: Option<&str>, argument: Option<&str>) -> Result<Self, String> {
        let ratio = || match argument {
            None => Ok(Self::DEFAULT.ratio),
            Some(text) => text
                .parse::<f64>()
                .ok()
                .filter(|ratio| (0.0..=1.0).contains(ratio))
                .ok_or_else(|| format!("OTEL_TRACES_SAMPLER_ARG is {text:?}: a ratio from 0 to 1 is expected")),
        };
        let (follows_parent, ratio) = match name {
            None | Some("parentbased_traceidratio") => (true, ratio()?),
            Some("traceidratio") => (false, ratio()?),
            Some("parentbased_always_on") => (true, 1.0),
            Some("parentbased_always_off") => (true, 0.0),
            Some("always_on") => (false, 1.0),
            Some("always_off") => (false, 0.0),
            Some(other) => {
                return Err(format!(
                    "OTEL_TRACES_SAMPLER is {other:?}: always_on, always_off, traceidratio or one of them behind \
                     parentbased_ is expected"
                ));
            }
        };
        Ok(Self { follows_parent, ratio })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(flags: u8) -> TraceContext {
        TraceContext { trace_id: [9; 16], span_id: [1; 8], flags }
    }

    #[test]
    fn the_sender_decides_unless_told_otherwise() {
        let never = Sampling { follows_parent: true, ratio: 0.0 };
        assert!(never.takes(Some(&context(1)), [9; 16]) && !never.takes(Some(&context(2)), [9; 16]));
        assert!(!Sampling::OFF.takes(Some(&context(1)), [9; 16]));
        let always = Sampling { follows_parent: false, ratio: 1.0 };
        assert!(always.takes(Some(&context(0)), [0xff; 16]) && always.takes(None, [0xff; 16]));
    }

    #[test]
    fn a_ratio_takes_that_part_of_random_ids() {
        let tenth = Sampling { follows_parent: true, ratio: 0.1 };
        // Ids spread evenly.
        let taken = (0..1000u64).filter(|n| {
            let mut id = [0; 16];
            id[8..].copy_from_slice(&(n * (u64::MAX / 1000)).to_be_bytes());
            tenth.takes(None, id)
        });
        assert!((99..=101).contains(&taken.count()));
    }

    #[test]
    fn every_standard_sampler_is_known_and_others_are_named() {
        let parse = |name, argument| Sampling::parse(name, argument);
        assert_eq!(parse(None, None), Ok(Sampling::DEFAULT));
        assert_eq!(parse(None, Some("0.5")), Ok(Sampling { follows_parent: true, ratio: 0.5 }));
        assert_eq!(parse(Some("traceidratio"), Some("1")), Ok(Sampling { follows_parent: false, ratio: 1.0 }));
        assert_eq!(parse(Some("always_off"), None), Ok(Sampling::OFF));
        assert_eq!(parse(Some("parentbased_always_on"), None), Ok(Sampling { follows_parent: true, ratio: 1.0 }));
        assert!(parse(Some("jaeger_remote"), None).unwrap_err().contains("\"jaeger_remote\""));
        assert!(parse(None, Some("2")).unwrap_err().contains("OTEL_TRACES_SAMPLER_ARG is \"2\""));
    }
}
