//! The log writer and the archiver, as the shim and capsuled start them.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "each test program uses its part")]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use support::{BINARY, Scratch, is_root};

/// Starts the log writer with our stdin pipe as fd 3, nothing on fd 4, and our stdout pipe as fd 5.
fn logger(dir: &Path, before: &str) -> Child {
    let script = format!(
        "{before} exec {BINARY} max-bytes 100000 log {} files 3 3<&0 4</dev/null 5>&1 </dev/null >/dev/null",
        dir.display()
    );
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut ready).unwrap();
    assert!(ready.is_empty(), "ready is a closed pipe, nothing else");
    child
}

fn eventually(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn log_writer_ignores_sigterm_and_ends_with_its_input() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let dir = scratch.0.join("w1/log");
    let mut child = logger(&dir, "");
    let log = || fs::read_to_string(dir.join("current.log")).unwrap_or_default();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"one\ntw").unwrap();
    eventually(|| log().ends_with(" stdout F one\n"));
    assert!(
        Command::new("kill")
            .arg(child.id().to_string())
            .status()
            .unwrap()
            .success()
    );
    input.write_all(b"o").unwrap();
    sleep(Duration::from_millis(50));
    assert!(child.try_wait().unwrap().is_none());
    drop(input);
    assert!(child.wait().unwrap().success());
    assert!(log().ends_with(" stdout F two\n"));
}

#[test]
fn log_writer_drains_while_the_disk_is_full_and_says_what_is_lost() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let dir = scratch.0.join("small");
    fs::create_dir(&dir).unwrap();
    let mount = format!(
        "mount -t tmpfs -o size=64k tmpfs {0} && head -c 61440 /dev/zero > {0}/filler;",
        dir.display()
    );
    let mut child = logger(&dir, &mount);
    // The mount is in the writer's own namespace.
    let seen = Path::new("/proc")
        .join(child.id().to_string())
        .join("root")
        .join(dir.strip_prefix("/").unwrap());
    let mut input = child.stdin.take().unwrap();
    let start = Instant::now();
    for _ in 0..5000 {
        input.write_all(&[&[b'x'; 999][..], b"\n"].concat()).unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(10), "the payload had to wait");
    sleep(Duration::from_millis(100));
    fs::remove_file(seen.join("filler")).unwrap();
    input.write_all(b"after\n").unwrap();
    let log = || fs::read_to_string(seen.join("current.log")).unwrap_or_default();
    eventually(|| log().ends_with(" stdout F after\n"));
    let text = log();
    assert!(text.contains("log lines were lost"), "{text}");
    assert!(
        text.lines().all(|line| line.len() > 40 && &line[29..31] == "Z "),
        "a torn line"
    );
    drop(input);
    assert!(child.wait().unwrap().success());
}

fn archive(args: &[&str], root: &Path, input: &[u8]) -> Output {
    let mut child = Command::new(BINARY)
        .arg("archive")
        .arg(args[0])
        .args(["--root".as_ref(), root.as_os_str()])
        .args(&args[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A refusal closes the pipe early.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[test]
fn archives_stay_inside_the_root() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let root = scratch.0.join("root");
    fs::create_dir_all(root.join("data/dir")).unwrap();
    fs::create_dir_all(scratch.0.join("outside")).unwrap();
    fs::write(scratch.0.join("outside/secret"), "secret").unwrap();
    fs::write(root.join("data/dir/file"), "text").unwrap();
    symlink("../../../../../../../../..", root.join("up")).unwrap();
    symlink(scratch.0.join("outside"), root.join("out")).unwrap();

    let packed = archive(&["pack", "/data/dir"], &root, b"");
    assert!(packed.status.success(), "{packed:?}");
    let unpacked = archive(&["unpack", "/data", "--rename", "copy"], &root, &packed.stdout);
    assert!(unpacked.status.success(), "{unpacked:?}");
    assert_eq!(fs::read_to_string(root.join("data/copy/file")).unwrap(), "text");

    // `up` leads to the root of the payload, `out` to a path that it does not have.
    let up = archive(&["unpack", "/up"], &root, &packed.stdout);
    assert!(up.status.success() && root.join("dir/file").exists(), "{up:?}");
    for path in ["/out/", "/out/secret", "/nothing", "/data/dir/file/below"] {
        for verb in ["pack", "stat"] {
            let output = archive(&[verb, path], &root, b"");
            assert_eq!(output.status.code(), Some(3), "{verb} {path}: {output:?}");
        }
    }
    let output = archive(&["unpack", "/out"], &root, &packed.stdout);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(fs::read_dir(scratch.0.join("outside")).unwrap().count(), 1);

    let stat = archive(&["stat", "/up"], &root, b"");
    let found: serde_json::Value = serde_json::from_slice(&stat.stdout).unwrap();
    assert_eq!(found["type"], "symlink");
    assert_eq!(found["targetType"], "directory");
    let output = archive(&["unpack", "/data/dir", "--max-bytes", "3"], &root, &packed.stdout);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.starts_with("capsule-init archive: dir/file: refused") && message.lines().count() == 1,
        "{message}"
    );
    assert_eq!(
        archive(&["unpack", "/data", "--bogus"], &root, b"").status.code(),
        Some(2)
    );
}

#[test]
fn a_signal_removes_the_file_at_hand() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let root = scratch.0.join("root");
    fs::create_dir(&root).unwrap();
    fs::write(scratch.0.join("big"), vec![1; 1 << 20]).unwrap();
    let packed = archive(&["pack", "/big"], &scratch.0, b"");
    let mut child = Command::new(BINARY)
        .args(["archive", "unpack", "/", "--root"])
        .arg(&root)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&packed.stdout[..500_000]).unwrap();
    eventually(|| fs::read_dir(&root).unwrap().count() == 1);
    assert!(
        Command::new("kill")
            .arg(child.id().to_string())
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    drop(input);
}
