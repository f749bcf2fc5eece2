//! Runs the real binary as PID 1 of namespaces of its own, in a root made of the host's programs and an empty `/perm`.

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const BINARY: &str = env!("CARGO_BIN_EXE_capsule-init");

/// Namespaces and chroot need root; `make test` runs as root.
pub fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// A directory for one test, removed when the test ends.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("capsule-init-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

// The mounts live and die with the mount namespace. /sys is covered so that PID 1 cannot reach the host's cgroups.
const ENTER: &str = r#"
set -e
cd "$1"
mkdir -p usr proc dev run tmp perm etc/capsule sys
for dir in bin sbin lib lib64; do
    if [ -L /$dir ]; then ln -sfn "$(readlink /$dir)" $dir; else mkdir -p $dir; mount --rbind /$dir $dir; fi
done
mount --rbind /usr usr
mount -t proc proc proc
mount -t tmpfs tmpfs sys
mkdir -p sys/fs/cgroup
mount -t tmpfs tmpfs sys/fs/cgroup
mount -t tmpfs tmpfs dev
touch dev/null capsule-init
mount --bind /dev/null dev/null
mount --bind "$2" capsule-init
exec chroot . /capsule-init
"#;

/// A running PID 1.
pub struct Capsule {
    scratch: Scratch,
    unshare: Child,
    pub pid: i32,
}

impl Capsule {
    /// Starts with `table` as its init.json. `container`: as in the namespace runner; else as on a real machine.
    pub fn start(table: &str, container: bool) -> Self {
        Self::start_with(table, container, |_| ())
    }

    /// The same, with more files in its root before it starts.
    pub fn start_with(table: &str, container: bool, prepare: impl FnOnce(&Path)) -> Self {
        let scratch = Scratch::new();
        let root = scratch.0.clone();
        fs::create_dir_all(root.join("etc/capsule")).unwrap();
        fs::create_dir_all(root.join("perm")).unwrap();
        fs::write(root.join("etc/capsule/init.json"), table).unwrap();
        prepare(&root);
        let console = fs::File::create(root.join("console")).unwrap();
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                ENTER,
                "sh",
            ])
            .arg(&root)
            .arg(BINARY)
            .env_remove("container")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(console);
        if container {
            command.env("container", "capsule-namespace");
        }
        let unshare = command.spawn().unwrap();
        let mut capsule = Self {
            scratch,
            unshare,
            pid: 0,
        };
        capsule.eventually("PID 1 answers", |capsule| {
            let parent = capsule.unshare.id();
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
            let Some(pid) = children.split_whitespace().next().and_then(|pid| pid.parse().ok()) else {
                return false;
            };
            UnixStream::connect(socket(pid)).is_ok()
        });
        let parent = capsule.unshare.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        capsule.pid = children.trim().parse().unwrap();
        capsule
    }

    /// A path inside the capsule, as the test sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.scratch.0.join(inside.trim_start_matches('/'))
    }

    pub fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).unwrap_or_default()
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(socket(self.pid)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    pub fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ask("status")).unwrap()
    }

    /// One service of `status`.
    pub fn service(&self, name: &str) -> Value {
        let status = self.status();
        let services = status["services"].as_array().unwrap();
        services.iter().find(|service| service["name"] == name).unwrap().clone()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).unwrap();
    }

    /// Waits up to 20 s for something to become true.
    pub fn eventually(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "never: {what}\n{}",
                self.console()
            );
            sleep(Duration::from_millis(5));
        }
    }

    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.unshare.try_wait().unwrap() {
                return status;
            }
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "does not go down\n{}",
                self.console()
            );
            sleep(Duration::from_millis(5));
        }
    }

    pub fn console(&self) -> String {
        self.read("console")
    }
}

impl Drop for Capsule {
    fn drop(&mut self) {
        // The end of unshare kills PID 1, and with it every process and mount of its namespaces.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

fn socket(pid: i32) -> PathBuf {
    Path::new("/proc")
        .join(pid.to_string())
        .join("root/run/capsule/init.sock")
}

/// A service table from name, shell text, and more fields.
pub fn table(services: &[(&str, &str, &str)], more: &str) -> String {
    let services: Vec<String> = services
        .iter()
        .map(|(name, script, fields)| {
            let argv = serde_json::json!(["/bin/sh", "-c", script]);
            format!(r#"{{"name":"{name}","argv":{argv}{fields}}}"#)
        })
        .collect();
    format!(r#"{{"services":[{}]{more}}}"#, services.join(","))
}
