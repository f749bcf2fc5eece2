//! The service table, `/etc/capsule/init.json`.
//!
//! The file is part of the immutable image, so a fault in it is a fault of the build: `check-config` refuses it there.
//! At run time PID 1 must neither exit (a kernel panic) nor guess: a service with a fault is left out, everything that is
//! valid runs, and every fault is on the console, in init's log and in `status`. With no valid table at all PID 1 still
//! runs, so that the machine can be asked for its status and be rebooted into its other slot.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One supervised service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    pub name: String,
    /// Absolute path of the program and its arguments.
    pub argv: Vec<String>,
    /// Added to the environment that every service gets.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Services that must be ready before this one starts, and that stop after it.
    #[serde(default)]
    pub after: Vec<String>,
    /// Unix socket that accepts a connection once the service is ready; without it, it is ready when started.
    pub ready_socket: Option<PathBuf>,
    /// File that must exist before the service starts.
    pub requires: Option<PathBuf>,
    /// From SIGTERM to SIGKILL.
    #[serde(default = "default_stop_timeout_ms")]
    pub stop_timeout_ms: u64,
    /// -1000..=1000, see proc_pid_oom_score_adj(5).
    pub oom_score_adj: Option<i32>,
    /// Not in a container, whose host does this: devices, disks, links, the clock.
    #[serde(default)]
    pub machine_only: bool,
}

impl ServiceSpec {
    pub fn stop_timeout(&self) -> Duration {
        Duration::from_millis(self.stop_timeout_ms)
    }

    fn fault(&self) -> Option<String> {
        let name_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if self.name.is_empty() || self.name.len() > 63 || !self.name.bytes().all(name_byte) {
            return Some("name: 1 to 63 of a-z, 0-9 and - are needed".into());
        }
        if self.name == "init" {
            return Some("name: \"init\" is PID 1's own log".into());
        }
        match self.argv.first() {
            Some(program) if program.starts_with('/') => {}
            _ => return Some("argv: an absolute path of a program is needed".into()),
        }
        let nul = |text: &String| text.contains('\0');
        if self.argv.iter().any(nul)
            || self
                .env
                .iter()
                .any(|(key, value)| nul(key) || nul(value) || key.is_empty() || key.contains('='))
        {
            return Some("argv, env: a NUL byte or an impossible variable name".into());
        }
        if self.oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
            return Some("oomScoreAdj: -1000 to 1000".into());
        }
        if self.stop_timeout_ms > 3_600_000 {
            return Some("stopTimeoutMs: at most one hour".into());
        }
        None
    }
}

/// The whole table. `services` is in start order: each comes after everything in its `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub services: Vec<ServiceSpec>,
    pub log_dir: PathBuf,
    /// Bytes per log file.
    pub log_max_bytes: u64,
    /// Files per log, the current one included.
    pub log_files: u32,
    pub watchdog: Option<PathBuf>,
    /// Every fault found, for people.
    pub faults: Vec<String>,
}

fn default_stop_timeout_ms() -> u64 {
    10_000
}

impl Config {
    /// Reads the file; never fails, see the top of this file.
    pub fn load(path: &Path) -> Self {
        match std::fs::read(path) {
            Ok(text) => Self::parse(&text),
            Err(error) => {
                let mut config = Self::empty();
                config.faults.push(format!("{}: {error}", path.display()));
                config
            }
        }
    }

    fn empty() -> Self {
        Self {
            services: Vec::new(),
            log_dir: "/perm/log".into(),
            log_max_bytes: 4 * 1024 * 1024,
            log_files: 4,
            watchdog: None,
            faults: Vec::new(),
        }
    }

    /// Takes what is valid and lists the rest in `faults`.
    pub fn parse(text: &[u8]) -> Self {
        let mut config = Self::empty();
        let fields = match serde_json::from_slice::<Map<String, Value>>(text) {
            Ok(fields) => fields,
            Err(error) => {
                config.faults.push(format!("not a JSON object: {error}"));
                return config;
            }
        };
        let mut services = Vec::new();
        for (key, value) in fields {
            if let Err(fault) = config.field(&key, value, &mut services) {
                config.faults.push(format!("{key}: {fault}"));
            }
        }
        config.services = order(services, &mut config.faults);
        config
    }

    fn field(&mut self, key: &str, value: Value, services: &mut Vec<ServiceSpec>) -> Result<(), String> {
        let wrong = |error: serde_json::Error| error.to_string();
        match key {
            "services" => {
                let entries: Vec<Value> = serde_json::from_value(value).map_err(wrong)?;
                for (index, entry) in entries.into_iter().enumerate() {
                    self.service(index, entry, services);
                }
            }
            "logDir" => {
                let dir: PathBuf = serde_json::from_value(value).map_err(wrong)?;
                if !dir.is_absolute() {
                    return Err("an absolute path is needed".into());
                }
                self.log_dir = dir;
            }
            "logMaxBytes" => {
                let bytes: u64 = serde_json::from_value(value).map_err(wrong)?;
                if bytes == 0 {
                    return Err("at least 1".into());
                }
                self.log_max_bytes = bytes;
            }
            "logFiles" => {
                let files: u32 = serde_json::from_value(value).map_err(wrong)?;
                if !(1..=1000).contains(&files) {
                    return Err("1 to 1000".into());
                }
                self.log_files = files;
            }
            "watchdog" => self.watchdog = serde_json::from_value(value).map_err(wrong)?,
            _ => return Err("unknown field".into()),
        }
        Ok(())
    }

    fn service(&mut self, index: usize, entry: Value, services: &mut Vec<ServiceSpec>) {
        let name = entry.get("name").and_then(Value::as_str).unwrap_or("?").to_owned();
        let fault = match serde_json::from_value::<ServiceSpec>(entry) {
            Err(error) => error.to_string(),
            Ok(spec) => match spec.fault() {
                Some(fault) => fault,
                None if services.iter().any(|other| other.name == spec.name) => "a second service of this name".into(),
                None => {
                    services.push(spec);
                    return;
                }
            },
        };
        self.faults
            .push(format!("services[{index}] ({name:?}): left out: {fault}"));
    }
}

/// Start order, stable. A dependency that does not exist, or that closes a circle, is dropped and reported: the service
/// runs without waiting for it, for a daemon that retries is worth more than one that never starts.
fn order(mut rest: Vec<ServiceSpec>, faults: &mut Vec<String>) -> Vec<ServiceSpec> {
    let names: Vec<String> = rest.iter().map(|spec| spec.name.clone()).collect();
    for spec in &mut rest {
        let name = spec.name.clone();
        spec.after.retain(|wanted| {
            let known = names.contains(wanted) && *wanted != name;
            if !known {
                faults.push(format!(
                    "services ({name:?}): after: ignored {wanted:?}, there is no such other service"
                ));
            }
            known
        });
    }
    let mut ordered: Vec<ServiceSpec> = Vec::new();
    while !rest.is_empty() {
        let done = |wanted: &String| ordered.iter().any(|earlier| earlier.name == *wanted);
        let next = match rest.iter().position(|spec| spec.after.iter().all(done)) {
            Some(next) => next,
            None => {
                let dropped: Vec<String> = rest[0].after.iter().filter(|wanted| !done(wanted)).cloned().collect();
                faults.push(format!(
                    "services ({:?}): after: ignored {dropped:?}, it is a circle",
                    rest[0].name
                ));
                rest[0].after.retain(|wanted| !dropped.contains(wanted));
                0
            }
        };
        ordered.push(rest.remove(next));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(config: &Config) -> Vec<&str> {
        config.services.iter().map(|spec| spec.name.as_str()).collect()
    }

    #[test]
    fn orders_by_dependency_and_fills_defaults() {
        let config = Config::parse(
            br#"{"services":[
                {"name":"capsuled","argv":["/c"],"after":["containerd","dnsmasq"],"stopTimeoutMs":60000},
                {"name":"dnsmasq","argv":["/d"],"after":["containerd"]},
                {"name":"containerd","argv":["/k"],"readySocket":"/run/k.sock","oomScoreAdj":-999}
            ],"logDir":"/logs","logMaxBytes":1000,"logFiles":2,"watchdog":"/dev/watchdog"}"#,
        );
        assert_eq!(config.faults, Vec::<String>::new());
        assert_eq!(names(&config), ["containerd", "dnsmasq", "capsuled"]);
        assert_eq!(config.services[0].stop_timeout_ms, 10_000);
        assert_eq!(config.watchdog, Some("/dev/watchdog".into()));
        assert_eq!((config.log_max_bytes, config.log_files), (1000, 2));
    }

    #[test]
    fn leaves_out_what_is_wrong_and_keeps_the_rest() {
        let config = Config::parse(
            br#"{"services":[
                {"name":"good","argv":["/g"],"after":["typo","missing"]},
                {"name":"typo","argv":["/t"],"redySocket":"/x"},
                {"name":"rel","argv":["relative"]},
                {"name":"none","argv":[]},
                {"name":"Bad Name","argv":["/b"]},
                {"name":"good","argv":["/again"]},
                {"name":"score","argv":["/s"],"oomScoreAdj":5000},
                17
            ],"logFiles":0,"colour":"red"}"#,
        );
        assert_eq!(names(&config), ["good"]);
        assert!(config.services[0].after.is_empty());
        assert_eq!(config.faults.len(), 11, "{:#?}", config.faults);
        assert_eq!(config.log_files, 4);
    }

    #[test]
    fn breaks_a_circle_and_says_so() {
        let config = Config::parse(
            br#"{"services":[{"name":"a","argv":["/a"],"after":["b"]},{"name":"b","argv":["/b"],"after":["a"]}]}"#,
        );
        assert_eq!(names(&config), ["a", "b"]);
        assert_eq!(config.faults.len(), 1);
    }

    #[test]
    fn survives_no_table_at_all() {
        for text in [&b""[..], b"[]", b"{\"services\":", b"\xff\xfe"] {
            let config = Config::parse(text);
            assert!(config.services.is_empty());
            assert_eq!(config.faults.len(), 1);
        }
        assert_eq!(Config::load(Path::new("/does/not/exist")).faults.len(), 1);
    }
}
