//! The eight environment variables. Takes the process environment once, gives typed settings. Never lets a misspelt name pass.

use crate::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Every variable that Wholestep reads, with what it does.
pub const VARIABLES: &[(&str, &str)] = &[
    ("WHOLESTEP_DEVICE", "cpu, cuda, wgpu or wgpu:1 ..: the device that Device::best() gives"),
    ("WHOLESTEP_LOG", "1 device, compile time and memory; 2 kernel times; 3 fusions refused, with reasons; 4 kernels"),
    ("WHOLESTEP_DUMP", "a folder: every stage of every compiled step as text, the graph as Graphviz dot"),
    ("WHOLESTEP_VERIFY", "1: compare each compiled step with the f64 oracle at batch size 2"),
    (
        "WHOLESTEP_NAN",
        "1: when a step makes a value that is not finite, name the node where that began, with its scope and line",
    ),
    ("WHOLESTEP_SEED", "the seed where a program gives none"),
    ("WHOLESTEP_THREADS", "threads of the cpu device; all cores if absent"),
    (
        "WHOLESTEP_CACHE",
        "a folder for choices of kernels and compiled pipelines, also of software GPUs; off: nothing is timed or kept; absent: the system's folder for caches",
    ),
];

/// The settings of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Env {
    /// `WHOLESTEP_DEVICE`, as it was given: "cuda", "wgpu:1"; absent: the best device there is.
    pub device: Option<String>,
    /// `WHOLESTEP_LOG`, 0 (nothing) to 4; 0 where it is absent.
    pub log: u8,
    /// `WHOLESTEP_DUMP`: the folder that stages are written to.
    pub dump: Option<PathBuf>,
    /// `WHOLESTEP_VERIFY`: whether each compiled step is compared with the f64 oracle, which takes long.
    pub verify: bool,
    /// `WHOLESTEP_NAN`: whether the node that first is not finite is looked for.
    pub nan: bool,
    /// `WHOLESTEP_SEED`; absent: a program's own seed, and 0 where it gives none.
    pub seed: Option<u64>,
    /// `WHOLESTEP_THREADS` of the cpu device, at least 1; absent: all cores.
    pub threads: Option<usize>,
    /// `WHOLESTEP_CACHE`: a folder, or "off"; absent: the system's folder for caches.
    pub cache: Option<String>,
}

/// The settings, read at the first call.
/// Errors: an unknown `WHOLESTEP_` name or a value that does not parse.
pub fn env() -> Result<&'static Env> {
    static ENV: OnceLock<std::result::Result<Env, String>> = OnceLock::new();
    let parsed = ENV.get_or_init(|| {
        parse(std::env::vars_os().map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned())))
    });
    parsed.as_ref().map_err(|message| Error::new(ErrorKind::Config, message.clone()))
}

fn parse(vars: impl Iterator<Item = (String, String)>) -> std::result::Result<Env, String> {
    let mut env = Env::default();
    for (name, value) in vars.filter(|(name, _)| name.starts_with("WHOLESTEP_")) {
        let number = |what: &str| value.parse::<u64>().map_err(|_| format!("{name}={value}: need {what}"));
        let switch = || match value.as_str() {
            "1" => Ok(true),
            "0" | "" => Ok(false),
            _ => Err(format!("{name}={value}: need 0 or 1")),
        };
        match name.as_str() {
            "WHOLESTEP_DEVICE" => env.device = Some(value),
            "WHOLESTEP_LOG" => {
                env.log = number("a level from 0 to 4")?
                    .try_into()
                    .ok()
                    .filter(|l| *l <= 4)
                    .ok_or(format!("{name}={value}: need a level from 0 to 4"))?;
            }
            "WHOLESTEP_DUMP" => env.dump = Some(value.into()),
            "WHOLESTEP_VERIFY" => env.verify = switch()?,
            "WHOLESTEP_NAN" => env.nan = switch()?,
            "WHOLESTEP_SEED" => env.seed = Some(number("a whole number")?),
            "WHOLESTEP_THREADS" => {
                let n = number("a number of threads, at least 1")? as usize;
                env.threads = Some(n).filter(|n| *n > 0);
                if env.threads.is_none() {
                    return Err(format!("{name}={value}: need at least 1 thread"));
                }
            }
            "WHOLESTEP_CACHE" if value.is_empty() => return Err(format!("{name} is empty: need a folder, or off")),
            "WHOLESTEP_CACHE" => env.cache = Some(value),
            _ => {
                let known: Vec<String> = VARIABLES.iter().map(|(n, what)| format!("  {n}  {what}")).collect();
                return Err(format!("{name} is no variable of Wholestep; there are:\n{}", known.join("\n")));
            }
        }
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn of(name: &str, value: &str) -> Result<super::Env, String> {
        parse([(name.to_string(), value.to_string())].into_iter())
    }

    #[test]
    fn names_and_values_are_checked() {
        assert_eq!(of("WHOLESTEP_SEED", "7").unwrap().seed, Some(7));
        assert_eq!(of("HOME", "x").unwrap(), super::Env::default());
        assert_eq!(of("WHOLESTEP_LOG", "9").unwrap_err(), "WHOLESTEP_LOG=9: need a level from 0 to 4");
        let unknown = of("WHOLESTEP_SEDE", "7").unwrap_err();
        assert!(
            unknown.starts_with("WHOLESTEP_SEDE is no variable of Wholestep; there are:\n  WHOLESTEP_DEVICE"),
            "{unknown}"
        );
        assert!(of("WHOLESTEP_THREADS", "0").is_err());
        assert_eq!(of("WHOLESTEP_CACHE", "").unwrap_err(), "WHOLESTEP_CACHE is empty: need a folder, or off");
    }
}
