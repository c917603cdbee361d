use std::num::NonZeroUsize;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args};
use gristmill_schemas::{ErrorCode, Token, dead_letter_header as dead};
use time::OffsetDateTime;

use super::letter::Letter;

/// Which dead letters; several conditions must hold together.
#[derive(Args)]
pub(super) struct Filter {
    /// Only those of this model
    #[arg(long, value_name = "NAME")]
    pub(super) model: Option<Token>,

    /// Only those with this error code; may be repeated
    #[arg(long, value_name = "CODE", value_parser = codes())]
    code: Vec<ErrorCode>,

    /// Only those that became dead letters longer ago than this: 30s, 15m, 2h, 7d
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,

    /// Only those that became dead letters less long ago than this
    #[arg(long, value_name = "AGE", value_parser = age)]
    newer_than: Option<Duration>,

    /// At most this many, the oldest first
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<NonZeroUsize>,
}

/// What is to be replayed or purged. Never everything by omission.
#[derive(Args)]
#[command(group = ArgGroup::new("choice").required(true).multiple(true)
    .args(["numbers", "all", "model", "code", "older_than", "newer_than"]))]
pub(super) struct Choice {
    /// Numbers, from `ls`
    #[arg(value_name = "NUMBER")]
    pub(super) numbers: Vec<u64>,

    #[command(flatten)]
    pub(super) filter: Filter,

    /// Every dead letter; needed where nothing else chooses
    #[arg(long)]
    all: bool,
}

impl Filter {
    /// Whether a dead letter has one of the codes and the age; the model is in its subject. `now` is the wall clock.
    pub(super) fn takes(&self, letter: &Letter, now: OffsetDateTime) -> bool {
        let code = letter.header(dead::CODE);
        // One from a clock ahead of ours is new.
        let age = Duration::try_from(now - letter.at()).unwrap_or_default();
        (self.code.is_empty() || self.code.iter().any(|wanted| wanted.as_str() == code))
            && self.older_than.is_none_or(|limit| age > limit)
            && self.newer_than.is_none_or(|limit| age < limit)
    }
}

fn codes() -> impl TypedValueParser<Value = ErrorCode> {
    PossibleValuesParser::new(ErrorCode::ALL.map(ErrorCode::as_str)).try_map(|code| code.parse::<ErrorCode>())
}

fn age(text: &str) -> Result<Duration, String> {
    let fault = || format!("{text:?} is no age: a number and s, m, h or d, as in 15m");
    let unit = text.chars().last().ok_or_else(fault)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(fault()),
    };
    // No sign, no fraction. The bound keeps the product within 64 bits; 136 years are enough.
    let count: u32 = text[..text.len() - 1].parse().map_err(|_| fault())?;
    Ok(Duration::from_secs(u64::from(count) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;
    use time::format_description::well_known::Rfc3339;

    fn now() -> OffsetDateTime {
        OffsetDateTime::parse("2026-01-01T12:00:00Z", &Rfc3339).unwrap()
    }

    fn letter(headers: &[(&'static str, &str)]) -> Letter {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.insert(*name, *value));
        let (subject, stored) = ("infer.dlq.m".to_owned(), now() - Duration::from_secs(60));
        Letter { sequence: 1, subject, headers: map, bytes: 0, stored }
    }

    fn filter() -> Filter {
        Filter { model: None, code: vec![], older_than: None, newer_than: None, limit: None }
    }

    #[test]
    fn an_age_is_a_number_and_a_unit() {
        let ages = ["30s", "15m", "2h", "7d"].map(|text| age(text).unwrap().as_secs());
        assert_eq!(ages, [30, 900, 7200, 604_800]);
        for text in ["", "s", "15", "1.5h", "-1s", "1w", "1h30m", "é", "5000000000d"] {
            assert!(age(text).unwrap_err().contains("is no age"), "{text}");
        }
    }

    #[test]
    fn age_is_that_of_the_dead_letter_and_without_it_that_of_the_record() {
        let minute = Duration::from_secs(60);
        let older = Filter { older_than: Some(30 * minute), ..filter() };
        let newer = Filter { newer_than: Some(30 * minute), ..filter() };
        for (at, is_old) in [("2026-01-01T11:00:00Z", true), ("2026-01-01T13:45:00+02:00", false), ("soon", false)] {
            let letter = letter(&[(dead::AT, at)]);
            assert_eq!((older.takes(&letter, now()), newer.takes(&letter, now())), (is_old, !is_old), "{at}");
        }
        assert!(newer.takes(&letter(&[]), now()) && !older.takes(&letter(&[]), now()));
        let ahead = letter(&[(dead::AT, "2026-01-01T12:00:05Z")]);
        assert!(newer.takes(&ahead, now()) && !older.takes(&ahead, now()));
    }

    #[test]
    fn any_of_several_codes_will_do() {
        let some = Filter { code: vec![ErrorCode::ModelError, ErrorCode::TooLarge], ..filter() };
        let taken =
            ["model_error", "too_large", "internal"].map(|code| some.takes(&letter(&[(dead::CODE, code)]), now()));
        assert_eq!(taken, [true, true, false]);
        assert!(!some.takes(&letter(&[]), now()));
        assert!(filter().takes(&letter(&[]), now()));
    }
}
