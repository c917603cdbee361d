//! Reading settings: defaults < TOML file < environment < flags, merged by the config crate. Every fault is collected, with
//! the name of its key, so that one start shows them all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use config::{Config, ConfigError, Environment, File, FileFormat, Value, ValueKind};

/// Prefix of environment variables; `__` separates it and the levels of a key: `GRISTMILL__NATS__URL`.
const PREFIX: &str = "GRISTMILL";

/// Where settings come from; injected, so that tests need no process environment.
#[derive(Debug, Default)]
pub struct Sources {
    /// Name and text of the TOML file, if one was given.
    pub file: Option<(String, String)>,
    /// The process environment, of which only `GRISTMILL__*` is read.
    pub environment: BTreeMap<String, String>,
    /// Key and value of each flag.
    pub flags: Vec<(String, String)>,
}

/// Merged settings, and what was found wrong in them so far.
pub struct Reader {
    values: BTreeMap<String, Value>,
    read: BTreeSet<String>,
    faults: Vec<String>,
}

/// Every fault, one to a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid(pub Vec<String>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wrong in the settings:\n  {}", self.0.len(), self.0.join("\n  "))
    }
}

impl Reader {
    /// Merges the sources. Fails at once only where a source as a whole cannot be read.
    pub fn try_new(sources: Sources) -> Result<Self, Invalid> {
        let name = sources.file.as_ref().map(|(name, _)| name.clone()).unwrap_or_default();
        let merged = merge(sources).map_err(|error| Invalid(vec![format!("{name}: {}", one_line(&error))]))?;
        let mut values = BTreeMap::new();
        flatten(String::new(), merged.cache, &mut values);
        Ok(Self { values, read: BTreeSet::new(), faults: Vec::new() })
    }

    /// The settings below `name`; the top level is `""`.
    pub fn section(&mut self, name: &'static str) -> Section<'_> {
        Section { reader: self, name }
    }

    /// Succeeds if every setting was understood and every given key was asked for.
    pub fn finish(mut self) -> Result<(), Invalid> {
        for (key, value) in &self.values {
            if !self.read.contains(key) {
                self.faults.push(format!("{key}{}: there is no such setting", origin(value)));
            }
        }
        if self.faults.is_empty() { Ok(()) } else { Err(Invalid(self.faults)) }
    }
}

fn merge(sources: Sources) -> Result<Config, ConfigError> {
    let mut builder = Config::builder();
    if let Some((_, text)) = &sources.file {
        builder = builder.add_source(File::from_str(text, FileFormat::Toml));
    }
    let environment = sources.environment.into_iter().collect();
    let environment = Environment::with_prefix(PREFIX).prefix_separator("__").separator("__").source(Some(environment));
    builder = builder.add_source(environment);
    for (key, value) in sources.flags {
        builder = builder.set_override(key, value)?;
    }
    builder.build()
}

fn one_line(error: &ConfigError) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn flatten(prefix: String, value: Value, out: &mut BTreeMap<String, Value>) {
    match value.kind {
        ValueKind::Table(table) => {
            for (key, value) in table {
                let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                flatten(key, value, out);
            }
        }
        _ => drop(out.insert(prefix, value)),
    }
}

fn origin(value: &Value) -> String {
    value.origin().map(|origin| format!(" ({origin})")).unwrap_or_default()
}

/// The settings of one part of the program.
pub struct Section<'a> {
    reader: &'a mut Reader,
    name: &'static str,
}

impl Section<'_> {
    fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Reports a value that only makes no sense beside another.
    pub fn fault(&mut self, key: &str, value: &str, limit: impl fmt::Display) {
        let key = self.key(key);
        self.reader.faults.push(format!("{key} is {value:?}: {limit}"));
    }

    /// A text; `None` where it is not given.
    pub fn text(&mut self, key: &str) -> Option<String> {
        let full = self.key(key);
        self.reader.read.insert(full.clone());
        let value = self.reader.values.get(&full)?;
        match value.clone().into_string() {
            Ok(text) => Some(text),
            Err(_) => {
                self.reader.faults.push(format!("{full}{}: a single value is expected here", origin(value)));
                None
            }
        }
    }

    /// A whole number within limits.
    pub fn number<T>(&mut self, key: &str, default: T, limits: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + fmt::Display + Copy,
    {
        let Some(text) = self.text(key) else { return default };
        match text.parse() {
            Ok(number) if limits.contains(&number) => number,
            _ => {
                self.fault(key, &text, format!("a number from {} to {} is expected", limits.start(), limits.end()));
                default
            }
        }
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &str) -> bool {
        let parsed = self.parsed(key, "false", |text| text.parse().map_err(|_| "true or false is expected"));
        parsed.unwrap_or_default()
    }

    /// A path, relative to the working directory.
    pub fn path(&mut self, key: &str, default: &str) -> PathBuf {
        self.text(key).unwrap_or_else(|| default.to_owned()).into()
    }

    /// A path; `None` where it is not given.
    pub fn file(&mut self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// Anything with a text form; `None` only beside a fault.
    pub fn parsed<T, E: fmt::Display>(
        &mut self,
        key: &str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(key).unwrap_or_else(|| default.to_owned());
        parse(&text).map_err(|error| self.fault(key, &text, error)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Sources {
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Vec<_>>();
        Sources {
            file: Some(("worker.toml".into(), file.into())),
            environment: own(environment).into_iter().collect(),
            flags: own(flags),
        }
    }

    #[test]
    fn flags_win_over_environment_over_file_over_default() {
        let file = "[limits]\na = 1\nb = 1\nc = 1";
        let environment = [("GRISTMILL__LIMITS__B", "2"), ("GRISTMILL__LIMITS__C", "2"), ("OTHER", "x")];
        let mut reader = Reader::try_new(sources(file, &environment, &[("limits.c", "3")])).unwrap();
        let mut limits = reader.section("limits");
        let read = ["a", "b", "c", "d"].map(|key| limits.number(key, 0, 0..=9));
        assert_eq!(read, [1, 2, 3, 0]);
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_key() {
        let file = "[limits]\nin_flight = 0\n[nats]\nurll = \"x\"";
        let environment = [("GRISTMILL__DEVICE", "gpu"), ("GRISTMILL__LIMITS__LEVEL", "many")];
        let mut reader = Reader::try_new(sources(file, &environment, &[])).unwrap();
        reader.section("limits").number("in_flight", 5, 1..=100);
        reader.section("limits").number("level", 5, 1..=100);
        reader.section("").parsed("device", "auto", |_| Err::<(), _>("none of auto, cpu"));
        let Invalid(faults) = reader.finish().unwrap_err();
        assert_eq!(faults[0], "limits.in_flight is \"0\": a number from 1 to 100 is expected");
        assert_eq!(faults[1], "limits.level is \"many\": a number from 1 to 100 is expected");
        assert_eq!(faults[2], "device is \"gpu\": none of auto, cpu");
        assert!(faults[3].starts_with("nats.urll") && faults[3].ends_with("there is no such setting"), "{}", faults[3]);
        assert_eq!(faults.len(), 4);
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let error = Reader::try_new(sources("[limits\n", &[], &[])).err().unwrap();
        assert!(error.to_string().contains("worker.toml: TOML parse error at line 1"), "{error}");
    }
}
