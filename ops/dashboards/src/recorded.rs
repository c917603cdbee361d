//! Names that `ops/alerts/recorded.yml` records. A test holds them against that file.

/// Part of the answers that should be without a fault of ours.
pub const OBJECTIVE_AVAILABILITY: &str = "gristmill:objective:availability";
/// Most seconds that 99 % of the online answers should take.
pub const OBJECTIVE_P99: &str = "gristmill:objective:p99_seconds";
/// Most seconds that 99.9 % of the online answers should take.
pub const OBJECTIVE_P999: &str = "gristmill:objective:p999_seconds";
/// Part of the answers that failed by a fault of ours, over windows of the burn rate alerts, shortest first.
pub const ERRORS_RATIO: [(&str, &str); 5] = [
    ("5m", "gristmill:errors:ratio_5m"),
    ("1h", "gristmill:errors:ratio_1h"),
    ("6h", "gristmill:errors:ratio_6h"),
    ("1d", "gristmill:errors:ratio_1d"),
    ("3d", "gristmill:errors:ratio_3d"),
];
/// Jobs that the consumer has not delivered yet.
pub const PENDING: &str = "gristmill:pending";
/// Jobs delivered per second.
pub const CONSUMED: &str = "gristmill:consumed:rate5m";
