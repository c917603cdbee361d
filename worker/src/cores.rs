//! Which processors threads run on.

use std::str::FromStr;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Some of the processors that this process may use, in ascending order. In settings `0-3,8`, or `node:1` for those of a NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

/// Reads a setting: `all`, which is `None`, or some.
pub fn read(text: &str) -> Result<Option<Cores>, String> {
    if text == "all" { Ok(None) } else { text.parse().map(Some) }
}

impl Cores {
    /// How many; at least one.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// From now on the calling thread runs on these only, and so do the threads that it starts. Memory is of the NUMA node whose
    /// processor first writes to it.
    pub fn pin(&self) {
        let mut set = CpuSet::new();
        self.0.iter().for_each(|core| set.set(*core));
        if let Err(error) = sched_setaffinity(None, &set) {
            tracing::warn!(%error, cores = ?self.0, "a thread does not keep to its cores");
        }
    }
}

impl FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = sched_getaffinity(None).map_err(|error| format!("this process's own cannot be read: {error}"))?;
        let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        match text.strip_prefix("node:") {
            None => among(text, &allowed),
            Some(node) => {
                let node: usize = node.parse().map_err(|_| "node:N with a number is expected".to_owned())?;
                let list = std::fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist"));
                among(list.map_err(|error| format!("NUMA node {node}: {error}"))?.trim(), &allowed)
            }
        }
    }
}

/// Reads a list as the kernel writes it.
fn among(list: &str, allowed: &[usize]) -> Result<Cores, String> {
    let mut cores = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let [Ok(first), Ok(last)] = [first, last].map(str::parse::<usize>) else {
            return Err("numbers and ranges such as 0-3,8, node:N or all are expected".into());
        };
        if first > last {
            return Err(format!("{part} is no range"));
        }
        if let Some(other) = (first..=last).find(|core| !allowed.contains(core)) {
            return Err(format!("{other} is none of the processors that this process may use, {allowed:?}"));
        }
        cores.extend(first..=last);
    }
    cores.sort_unstable();
    cores.dedup();
    Ok(Cores(cores))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        let allowed: Vec<usize> = (0..16).collect();
        let read = |list| among(list, &allowed).map(|cores| cores.0);
        assert_eq!(read("0-3,8"), Ok(vec![0, 1, 2, 3, 8]));
        assert_eq!(read("8,1-2,2"), Ok(vec![1, 2, 8]));
        for (list, why) in [
            ("", "expected"),
            ("a", "expected"),
            ("-1", "expected"),
            ("1,", "expected"),
            ("3-1", "3-1 is no range"),
            ("15-18446744073709551615", "16 is none of the processors"),
            ("16", "16 is none of the processors"),
        ] {
            assert!(read(list).is_err_and(|error| error.contains(why)), "{list}");
        }
        assert!("node:x".parse::<Cores>().is_err_and(|error| error.contains("node:N")));
        assert!("node:9999".parse::<Cores>().is_err_and(|error| error.contains("NUMA node 9999")));
    }
}
