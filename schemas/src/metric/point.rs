use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// One series of one metric at one time, as `/status` and a worker's answer on the status subject show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The metric's OpenTelemetry name.
    pub name: String,
    /// Attributes of the series.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Since the worker's start, for counters and distributions.
    #[serde(flatten)]
    pub value: Value,
}

/// What a series holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Value {
    /// Of a counter or gauge.
    Value(f64),
    /// Of a distribution.
    Histogram(Histogram),
}

/// A distribution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Number of values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// How many fell where.
    #[serde(flatten)]
    pub buckets: Buckets,
}

/// Counts of values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Buckets {
    /// Base-2 exponential, as in OTLP: bucket `i` holds values in `(b^(offset+i), b^(offset+i+1)]` with `b = 2^(2^-scale)`.
    Exponential {
        /// Resolution: each step halves the width of the buckets.
        scale: i32,
        /// Index of the first bucket.
        offset: i32,
        /// Number of values that are 0.
        zero: u64,
        /// One count for each bucket.
        counts: Vec<u64>,
    },
    /// With these upper bounds; one count more than bounds, for what is above the last.
    Explicit {
        /// Upper bounds, inclusive, ascending.
        bounds: Vec<f64>,
        /// One count for each bucket.
        counts: Vec<u64>,
    },
}

/// Most exponential buckets of a result. A distribution of a few values is as fine as can be (a million buckets to the
/// doubling), so two of them put side by side as they are would need millions. This many keep 30 doublings at 2 % each.
const MAX_BUCKETS: i64 = 1024;

impl Point {
    /// The number, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self.value {
            Value::Value(value) => Some(value),
            Value::Histogram(_) => None,
        }
    }

    /// The distribution, if it is one.
    pub fn histogram(&self) -> Option<&Histogram> {
        match &self.value {
            Value::Value(_) => None,
            Value::Histogram(histogram) => Some(histogram),
        }
    }

    /// An attribute, empty if there is none.
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

impl Histogram {
    /// Upper bound and count of each bucket that holds something, ascending.
    pub fn bars(&self) -> Vec<(f64, u64)> {
        let mut bars: Vec<(f64, u64)> = match &self.buckets {
            Buckets::Exponential { scale, offset, zero, counts } => {
                let bound = |index: usize| bound(*scale, i64::from(*offset) + index as i64 + 1);
                let bars = counts.iter().enumerate().map(|(index, count)| (bound(index), *count));
                [(0.0, *zero)].into_iter().chain(bars).collect()
            }
            Buckets::Explicit { bounds, counts } => {
                bounds.iter().copied().chain([f64::INFINITY]).zip(counts.iter().copied()).collect()
            }
        };
        bars.retain(|(_, count)| *count > 0);
        bars
    }

    /// How many values are at most `bound`. Exact where `bound` is one of the buckets' own, else a lower limit.
    pub fn at_most(&self, bound: f64) -> u64 {
        // A hair above: bounds are computed, and the same bound by another way may differ in its last bit.
        let bars = self.bars().into_iter().take_while(|(upper, _)| *upper <= bound * (1.0 + 1e-9));
        bars.fold(0, |total, (_, count)| total.saturating_add(count))
    }

    /// The value below which a part `q` (0 to 1) of the values lies, at most one bucket's width too high; `None` without
    /// values, or where it lies above the last explicit bound.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let bars = self.bars();
        // Saturating here and below: what comes over the network may be nonsense, and must not end its reader.
        let total = bars.iter().fold(0u64, |total, (_, count)| total.saturating_add(*count));
        let rank = (q.clamp(0.0, 1.0) * total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = bars.into_iter().find(|(_, count)| {
            seen = u64::saturating_add(seen, *count);
            seen >= rank
        });
        found.map(|(upper, _)| upper).filter(|upper| upper.is_finite())
    }

    /// The mean; `None` without values.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    /// What came since an earlier state of the same series; all of it where the earlier one is not an earlier state, as
    /// after a restart.
    pub fn since(&self, earlier: &Self) -> Self {
        let taken = earlier.count <= self.count;
        let buckets = if taken { self.buckets.combine(&earlier.buckets, u64::checked_sub) } else { None };
        match buckets {
            Some(buckets) => Self { count: self.count - earlier.count, sum: self.sum - earlier.sum, buckets },
            None => self.clone(),
        }
    }

    /// Both together; `self` alone where the bounds differ.
    pub fn merged(&self, other: &Self) -> Self {
        match self.buckets.combine(&other.buckets, u64::checked_add) {
            Some(buckets) => Self { count: self.count.saturating_add(other.count), sum: self.sum + other.sum, buckets },
            None => self.clone(),
        }
    }
}

/// `2^(index / 2^scale)`
fn bound(scale: i32, index: i64) -> f64 {
    (index as f64 * (-f64::from(scale)).exp2()).exp2()
}

impl Buckets {
    /// Applies `op` bucket by bucket; `None` where the two do not fit together or `op` fails.
    fn combine(&self, other: &Self, op: fn(u64, u64) -> Option<u64>) -> Option<Self> {
        match (self, other) {
            (
                Self::Exponential { scale, offset, zero, counts },
                Self::Exponential { scale: scale2, offset: offset2, zero: zero2, counts: counts2 },
            ) => {
                let common = (*scale).min(*scale2);
                // 33 steps down every index that fits its 32 bits is 0 or -1, so the search ends.
                let spread = |step: u32| {
                    let down = |scale: i32| scale.abs_diff(common).saturating_add(step);
                    let (a, b) = (spread(down(*scale), *offset, counts), spread(down(*scale2), *offset2, counts2));
                    let first = a.keys().chain(b.keys()).min().copied().unwrap_or(0);
                    let last = a.keys().chain(b.keys()).max().copied().unwrap_or(first - 1);
                    (a, b, first..=last, step)
                };
                let fits = |range: &RangeInclusive<i64>| range.end() - range.start() < MAX_BUCKETS;
                let (a, b, range, step) = (0..=33).map(spread).find(|(_, _, range, _)| fits(range))?;
                let at = |map: &BTreeMap<i64, u64>, index: i64| map.get(&index).copied().unwrap_or(0);
                let offset = i32::try_from(*range.start()).ok()?;
                let counts = range.map(|index| op(at(&a, index), at(&b, index))).collect::<Option<Vec<_>>>()?;
                Some(Self::Exponential {
                    scale: common.checked_sub_unsigned(step)?,
                    offset,
                    zero: op(*zero, *zero2)?,
                    counts,
                })
            }
            (Self::Explicit { bounds, counts }, Self::Explicit { bounds: bounds2, counts: counts2 }) => {
                let same = bounds == bounds2 && counts.len() == counts2.len();
                let counts = counts.iter().zip(counts2).map(|(a, b)| op(*a, *b)).collect::<Option<_>>();
                Some(Self::Explicit { bounds: bounds.clone(), counts: counts.filter(|_| same)? })
            }
            _ => None,
        }
    }
}

/// Counts by index, `down` steps coarser. Empty buckets are left out.
fn spread(down: u32, offset: i32, counts: &[u64]) -> BTreeMap<i64, u64> {
    let mut spread = BTreeMap::new();
    for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let index = i64::from(offset) + index as i64;
        let total = spread.entry(index >> down.min(62)).or_insert(0u64);
        *total = total.saturating_add(*count);
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An exponential histogram by the book: what an SDK would make of these values.
    fn exponential(scale: i32, values: &[f64]) -> Histogram {
        let index = |value: f64| (value.log2() * f64::from(scale).exp2()).ceil() as i32 - 1;
        let (zeros, positive): (Vec<f64>, Vec<f64>) = values.iter().partition(|value| **value == 0.0);
        let first = positive.iter().map(|value| index(*value)).min().unwrap_or(0);
        let last = positive.iter().map(|value| index(*value)).max().unwrap_or(0);
        let mut counts = vec![0; (last - first + 1) as usize];
        positive.iter().for_each(|value| counts[(index(*value) - first) as usize] += 1);
        let buckets = Buckets::Exponential { scale, offset: first, zero: zeros.len() as u64, counts };
        Histogram { count: values.len() as u64, sum: values.iter().sum(), buckets }
    }

    #[test]
    fn a_quantile_is_at_most_one_bucket_too_high() {
        let values: Vec<f64> = (1..=1000).map(|i| f64::from(i) / 1000.0).collect();
        let histogram = exponential(4, &values);
        for (q, exact) in [(0.5, 0.5), (0.99, 0.99), (0.999, 0.999), (0.0, 0.001), (1.0, 1.0)] {
            let found = histogram.quantile(q).unwrap();
            assert!(found >= exact && found <= exact * 1.045, "{q}: {found} for {exact}");
        }
        assert_eq!(exponential(4, &[]).quantile(0.5), None);
        assert_eq!(exponential(4, &[0.0, 0.0, 1.0]).quantile(0.5), Some(0.0));
    }

    #[test]
    fn an_explicit_histogram_ends_with_its_last_bound() {
        let buckets = Buckets::Explicit { bounds: vec![1.0, 2.0], counts: vec![3, 1, 1] };
        let histogram = Histogram { count: 5, sum: 10.0, buckets };
        assert_eq!((histogram.quantile(0.5), histogram.quantile(0.8)), (Some(1.0), Some(2.0)));
        assert_eq!((histogram.quantile(1.0), histogram.mean()), (None, Some(2.0)));
        assert_eq!(histogram.at_most(2.0), 4);
    }

    #[test]
    fn points_survive_json() {
        let attributes = [("gristmill.lane".to_owned(), "online".to_owned())].into();
        let value = Value::Histogram(exponential(3, &[0.25, 0.5, 3.0]));
        let point = Point { name: "gristmill.queue.duration".into(), attributes, value };
        let gauge = Point { name: "x".into(), attributes: BTreeMap::new(), value: Value::Value(2.5) };
        for point in [point, gauge] {
            let text = serde_json::to_string(&point).unwrap();
            assert_eq!(serde_json::from_str::<Point>(&text).unwrap(), point, "{text}");
        }
    }

    #[test]
    fn distributions_of_single_values_are_merged_without_a_bucket_for_all_between() {
        let (short, long) =
            (exponential(20, &[0.001]), exponential(20, &[0.001, 0.1]).since(&exponential(20, &[0.001])));
        let merged = short.merged(&long).merged(&exponential(20, &[100.0]));
        assert!(matches!(&merged.buckets, Buckets::Exponential { counts, .. } if counts.len() as i64 <= MAX_BUCKETS));
        for (q, exact) in [(0.1, 0.001), (0.5, 0.1), (1.0, 100.0)] {
            let found = merged.quantile(q).unwrap();
            assert!(found >= exact && found <= exact * 1.03, "{q}: {found} for {exact}");
        }
    }

    /// What a broken worker may send.
    fn hostile() -> impl Strategy<Value = Histogram> {
        let numbers = || prop_oneof![any::<i32>(), -30..30i32, Just(i32::MIN), Just(i32::MAX)];
        let counts = || prop::collection::vec(prop_oneof![any::<u64>(), 0..3u64], 0..6);
        let exponential = (numbers(), numbers(), any::<u64>(), counts())
            .prop_map(|(scale, offset, zero, counts)| Buckets::Exponential { scale, offset, zero, counts });
        let explicit = (prop::collection::vec(any::<f64>(), 0..6), counts())
            .prop_map(|(bounds, counts)| Buckets::Explicit { bounds, counts });
        (any::<u64>(), any::<f64>(), prop_oneof![4 => exponential, 1 => explicit])
            .prop_map(|(count, sum, buckets)| Histogram { count, sum, buckets })
    }

    fn values() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(prop_oneof![4 => 1e-6..1e3f64, 1 => Just(0.0)], 0..60)
    }

    proptest! {
        #[test]
        fn what_came_since_is_what_was_added(a in values(), b in values(), fine in 0..6i32, coarse in 0..6i32) {
            let earlier = exponential(fine.max(coarse), &a);
            let all: Vec<f64> = a.iter().chain(&b).copied().collect();
            let later = exponential(fine.min(coarse), &all);
            let since = later.since(&earlier);
            prop_assert_eq!(since.count, b.len() as u64);
            prop_assert_eq!(since.bars(), exponential(fine.min(coarse), &b).bars());
            let merged = earlier.merged(&since);
            prop_assert_eq!(merged.bars(), later.bars());
        }

        #[test]
        fn nonsense_ends_nobody(a in hostile(), b in hostile(), q in 0.0..1.0f64) {
            for found in [a.since(&b), a.merged(&b), b.since(&a).merged(&a)] {
                found.quantile(q);
                found.at_most(q);
                found.mean();
                if let Buckets::Exponential { counts, .. } = found.buckets {
                    prop_assert!(counts.len() as i64 <= MAX_BUCKETS);
                }
            }
        }

        #[test]
        fn counts_below_a_power_of_two_are_exact(values in values(), scale in 0..7i32, power in -10..10i32) {
            let bound = f64::from(power).exp2();
            let exact = values.iter().filter(|value| **value <= bound).count() as u64;
            prop_assert_eq!(exponential(scale, &values).at_most(bound), exact);
        }
    }
}
