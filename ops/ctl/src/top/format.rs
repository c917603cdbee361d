//! Numbers in at most five characters, so that columns can be narrow and never overflow.

/// What stands where there is no value.
pub(super) const NONE: &str = "-";

/// A number of things: `9999`, `12.3k`, `1.20M`.
pub(super) fn count(value: f64) -> String {
    if value < 9999.5 {
        format!("{:.0}", value.max(0.0))
    } else {
        scaled(value, 1000.0, &["k", "M", "G", "T", "P", "E"])
    }
}

/// Things a second: as `count`, small ones with their decimals.
pub(super) fn rate(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        v if v < 99.95 => digits(v.max(0.0)),
        v => count(v),
    }
}

/// Bytes: `512B`, `1.5K`, `12.3M`, in steps of 1024.
pub(super) fn bytes(value: f64) -> String {
    if value < 999.5 {
        format!("{:.0}B", value.max(0.0))
    } else {
        scaled(value, 1024.0, &["K", "M", "G", "T", "P", "E"])
    }
}

/// A duration in seconds: `850us`, `1.2ms`, `12ms`, `1.23s`, `12.3s`, `3m`.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 999.5e-6 => format!("{:.0}us", s.max(0.0) * 1e6),
        s if s < 9.95e-3 => format!("{:.1}ms", s * 1e3),
        s if s < 999.5e-3 => format!("{:.0}ms", s * 1e3),
        s if s < 99.95 => format!("{}s", digits(s)),
        s => age(s),
    }
}

/// How long ago, in whole units: `42s`, `17m`, `5h`, `12d`.
pub(super) fn age(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{:.0}s", s.max(0.0)),
        s if s < 7200.0 => format!("{:.0}m", (s / 60.0).floor()),
        s if s < 172_800.0 => format!("{:.0}h", (s / 3600.0).floor()),
        s if s < 864e6 => format!("{:.0}d", (s / 86_400.0).floor()),
        _ => ">9999".to_owned(),
    }
}

/// A part of a whole, without the sign, which stands in the head of the column.
pub(super) fn percent(part: f64) -> String {
    format!("{:.0}", part.clamp(0.0, 1.0) * 100.0)
}

/// Three digits of a number below 1000.
fn digits(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let mut value = value;
    for unit in units {
        value /= step;
        if value < 999.5 {
            return format!("{}{unit}", digits(value));
        }
    }
    "huge".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(format: fn(f64) -> String, values: &[f64]) -> Vec<String> {
        values.iter().map(|value| format(*value)).collect()
    }

    #[test]
    fn numbers_are_rounded_to_what_fits() {
        assert_eq!(
            all(count, &[0.0, 9999.0, 9999.6, 99_960.0, 999_499.0, 999_500.0, 2.5e9]),
            ["0", "9999", "10.0k", "100k", "999k", "1.00M", "2.50G"]
        );
        assert_eq!(
            all(rate, &[0.0, 0.04, 9.994, 9.996, 99.94, 99.96, 12_345.0]),
            ["0", "0.04", "9.99", "10.0", "99.9", "100", "12.3k"]
        );
        assert_eq!(all(bytes, &[0.0, 512.0, 1000.0, 1536.0, 5e9]), ["0B", "512B", "0.98K", "1.50K", "4.66G"]);
        assert_eq!(
            all(duration, &[0.0, 85e-6, 999.6e-6, 0.00994, 0.0123, 0.9996, 1.234, 12.34, 99.96, 7200.0]),
            ["0us", "85us", "1.0ms", "9.9ms", "12ms", "1.00s", "1.23s", "12.3s", "100s", "2h"]
        );
        assert_eq!(
            all(age, &[0.4, 119.0, 120.0, 7199.0, 7200.0, 86_400.0, 1e6]),
            ["0s", "119s", "2m", "119m", "2h", "24h", "11d"]
        );
        assert_eq!(all(percent, &[-0.1, 0.004, 0.5, 1.2]), ["0", "0", "50", "100"]);
    }

    #[test]
    fn no_number_is_wider_than_its_column() {
        let odd = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MAX, f64::MIN_POSITIVE, -1e12, u64::MAX as f64];
        for format in [count, rate, bytes, duration, age, percent] {
            for value in odd.into_iter().chain((-80..80).map(|power| 1.9996 * 3f64.powi(power))) {
                let text = format(value);
                assert!(text.chars().count() <= 5, "{value}: {text:?}");
            }
        }
    }
}
