//! The real binary as PID 1, with small shell services.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "each test program uses its part")]
mod support;

use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::thread::sleep;
use std::time::Duration;
use support::{Capsule, is_root, table};

fn texts(log: &str) -> Vec<&str> {
    log.lines().map(|line| line.split_once(' ').unwrap().1).collect()
}

#[test]
fn restarts_with_growing_pauses_and_after_a_kill() {
    if !is_root() {
        return;
    }
    let services = [
        ("crash", "date +%s%N >> /perm/starts; printf half; exit 3", ""),
        ("steady", "exec sleep 1000", r#","oomScoreAdj":500,"env":{"A":"b c"}"#),
    ];
    let mut capsule = Capsule::start(&table(&services, ""), true);
    capsule.eventually("four starts", |capsule| {
        capsule.read("perm/starts").lines().count() >= 4
    });
    let starts: Vec<u128> = capsule
        .read("perm/starts")
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    let pauses: Vec<u128> = starts.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000_000).collect();
    assert!(pauses[0] >= 100 && pauses[1] >= 200 && pauses[2] >= 400, "{pauses:?}");
    capsule.eventually("each half line is ended", |capsule| {
        let log = capsule.read("perm/log/crash.log");
        texts(&log).len() >= 4 && texts(&log).iter().all(|text| *text == "half")
    });
    let crash = capsule.service("crash");
    assert_eq!(crash["lastExit"], "exit code 3");
    assert!(crash["restarts"].as_u64().unwrap() >= 3);

    let steady = capsule.service("steady");
    let inner = steady["pid"].as_i64().unwrap();
    let proc = |file: &str| fs::read(format!("/proc/{}/root/proc/{inner}/{file}", capsule.pid)).unwrap();
    assert_eq!(proc("oom_score_adj"), b"500\n");
    let environment = String::from_utf8(proc("environ")).unwrap();
    assert!(
        environment.contains("A=b c\0") && environment.contains("container=capsule-namespace\0"),
        "{environment:?}"
    );
    let status = String::from_utf8(proc("status")).unwrap();
    for mask in ["SigBlk:\t", "SigIgn:\t"] {
        let line = status.lines().find_map(|line| line.strip_prefix(mask)).unwrap();
        // Signal 32 belongs to libc, whose posix_spawn (of this test) ignores it.
        assert_eq!(u64::from_str_radix(line, 16).unwrap() & !(1 << 31), 0, "{mask}{line}");
    }
    let killed = std::process::Command::new("nsenter")
        .args([
            "-t",
            &capsule.pid.to_string(),
            "-p",
            "-m",
            "kill",
            "-9",
            &inner.to_string(),
        ])
        .status()
        .unwrap();
    assert!(killed.success());
    capsule.eventually("steady runs again", |capsule| {
        let service = capsule.service("steady");
        service["restarts"] == 1 && service["state"] == "running" && service["pid"] != inner
    });
    assert_eq!(capsule.service("steady")["lastExit"], "killed by SIGKILL");
}

#[test]
fn reaps_every_orphan() {
    if !is_root() {
        return;
    }
    let script =
        "i=0; while [ $i -lt 200 ]; do (setsid sleep 0.2 &); i=$((i+1)); done; touch /perm/made; exec sleep 1000";
    let mut capsule = Capsule::start(&table(&[("parent", script, "")], ""), true);
    capsule.eventually("all made", |capsule| capsule.path("perm/made").exists());
    capsule.eventually("nothing is left but PID 1 and its service", |capsule| {
        let proc = format!("/proc/{}/root/proc", capsule.pid);
        let pids = fs::read_dir(proc).unwrap().filter(|entry| {
            entry
                .as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        });
        pids.count() == 2
    });
}

#[test]
fn waits_for_sockets_and_files_without_holding_up_others() {
    if !is_root() {
        return;
    }
    let services = [
        ("late", "exec sleep 1000", r#","after":["base"]"#),
        ("base", "exec sleep 1000", r#","readySocket":"/perm/ready.sock""#),
        ("file", "exec sleep 1000", r#","requires":"/perm/file""#),
        ("free", "exec sleep 1000", ""),
    ];
    let mut capsule = Capsule::start(&table(&services, ""), true);
    capsule.eventually("free runs", |capsule| capsule.service("free")["state"] == "running");
    sleep(Duration::from_millis(100));
    assert_eq!(capsule.service("base")["state"], "starting");
    assert_eq!(capsule.service("late")["state"], "waiting");
    assert_eq!(capsule.service("file")["state"], "waiting");
    let _listener = UnixListener::bind(capsule.path("perm/ready.sock")).unwrap();
    capsule.eventually("late runs", |capsule| capsule.service("late")["state"] == "running");
    fs::write(capsule.path("perm/file"), "").unwrap();
    capsule.eventually("file runs", |capsule| capsule.service("file")["state"] == "running");
}

#[test]
fn rotates_logs_without_losing_a_line() {
    if !is_root() {
        return;
    }
    let script = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000";
    let more = r#","logMaxBytes":20000,"logFiles":100"#;
    let mut capsule = Capsule::start(&table(&[("talk", script, "")], more), true);
    capsule.eventually("the last line", |capsule| {
        capsule.read("perm/log/talk.log").contains("line 4999\n")
    });
    let mut log = String::new();
    for number in (1..100).rev() {
        log += &capsule.read(&format!("perm/log/talk.log.{number}"));
    }
    log += &capsule.read("perm/log/talk.log");
    assert!(capsule.path("perm/log/talk.log.5").exists());
    let expected: Vec<String> = (0..5000).map(|number| format!("line {number}")).collect();
    assert_eq!(texts(&log), expected);
}

#[test]
fn goes_down_in_order_and_takes_everything_along() {
    if !is_root() {
        return;
    }
    let note = |name: &str| format!("trap 'echo {name} >> /perm/order; exit' TERM; while :; do sleep 0.05; done");
    let top = "trap 'cat /run/capsule/shutdown > /perm/saw; sleep 0.5; echo top >> /perm/order; exit' TERM; \
               (trap '' TERM; exec setsid sleep 1000) & \
               while :; do sleep 0.05; done";
    let stubborn = "trap '' TERM; echo up >> /perm/stubborn; while :; do sleep 0.05; done";
    let services = [
        ("bottom", note("bottom"), ""),
        (
            "stubborn",
            stubborn.into(),
            r#","after":["bottom"],"stopTimeoutMs":300"#,
        ),
        ("top", top.into(), r#","after":["stubborn"]"#),
    ];
    let services: Vec<_> = services
        .iter()
        .map(|(name, script, fields)| (*name, script.as_str(), *fields))
        .collect();
    let mut capsule = Capsule::start(&table(&services, ""), true);
    capsule.eventually("all run", |capsule| {
        capsule.service("top")["state"] == "running" && capsule.path("perm/stubborn").exists()
    });
    sleep(Duration::from_millis(200));
    assert_eq!(capsule.ask("poweroff"), "ok\n");
    assert_eq!(capsule.ask("poweroff"), "ok\n");
    assert_eq!(
        capsule.ask("reboot"),
        "error: the machine goes down already (poweroff)\n"
    );
    assert_eq!(
        capsule.ask("restart bottom"),
        "error: the machine goes down (poweroff)\n"
    );
    assert_eq!(capsule.status()["shutdown"], "poweroff");
    assert_eq!(capsule.wait().code(), Some(0));
    assert_eq!(capsule.read("perm/saw"), "poweroff");
    assert_eq!(capsule.read("perm/order"), "top\nbottom\n");
    assert_eq!(
        capsule.read("perm/stubborn"),
        "up\n",
        "nothing is restarted on the way down"
    );
    let log = capsule.read("perm/log/init.log");
    assert!(log.contains("stubborn: did not stop in time, killed"), "{log}");
    assert!(log.trim_end().ends_with("down (poweroff)"), "{log}");
}

/// PID 1 may have had no child at all for a moment before: that must not shorten anybody's time to end.
#[test]
fn gives_orphans_their_time_to_end_also_after_a_moment_without_children() {
    if !is_root() {
        return;
    }
    // The first run ends with nothing left; the second leaves an orphan that needs a second to end.
    let script = r#"[ -e /perm/second ] || { : >/perm/second; exit 1; }; \
        setsid sh -c "trap 'sleep 1; : >/perm/ended; exit' TERM; : >/perm/waits; while :; do sleep 0.05; done" & \
        exec sleep 1000"#;
    let mut capsule = Capsule::start(&table(&[("one", script, "")], ""), true);
    capsule.eventually("the orphan waits", |capsule| capsule.path("perm/waits").exists());
    assert_eq!(capsule.ask("poweroff"), "ok\n");
    assert_eq!(capsule.wait().code(), Some(0));
    assert!(capsule.path("perm/ended").exists(), "{}", capsule.console());
}

#[test]
fn control_socket_bears_garbage_slow_and_many_clients() {
    if !is_root() {
        return;
    }
    let mut capsule = Capsule::start(&table(&[("one", "exec sleep 1000", "")], ""), true);
    let socket = format!("/proc/{}/root/run/capsule/init.sock", capsule.pid);
    assert_eq!(fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
    for garbage in [
        &b"\xff\xfe\0\n"[..],
        b"\n",
        b"status now\n",
        b"stop nobody\n",
        &[b'x'; 100_000],
    ] {
        let mut stream = capsule.connect();
        let _ = stream.write_all(garbage);
        let mut reply = String::new();
        let _ = stream.read_to_string(&mut reply);
        assert!(reply.starts_with("error: "), "{reply:?}");
    }
    drop(capsule.connect());
    let slow: Vec<_> = (0..20).map(|_| capsule.connect()).collect();
    let _ = (&slow[0]).write_all(b"sta");
    assert_eq!(
        capsule.status()["services"][0]["name"],
        "one",
        "20 silent clients leave room"
    );
    let many: Vec<_> = (0..50).map(|_| capsule.connect()).collect();
    let mut reply = String::new();
    (&many[49]).read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("error: too many clients"), "{reply}");
    reply.clear();
    (&slow[0]).read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "error: no request came in time\n");
    drop((slow, many));

    let pid = capsule.service("one")["pid"].clone();
    assert_eq!(capsule.ask("restart one"), "ok\n");
    capsule.eventually("another process", |capsule| {
        let one = capsule.service("one");
        one["state"] == "running" && one["pid"] != pid
    });
    assert_eq!(capsule.ask("stop one"), "ok\n");
    capsule.eventually("stopped", |capsule| capsule.service("one")["state"] == "stopped");
    assert_eq!(capsule.ask("start one"), "ok\n");
    capsule.eventually("running", |capsule| capsule.service("one")["state"] == "running");
}

#[test]
fn runs_what_is_valid_of_a_faulty_table() {
    if !is_root() {
        return;
    }
    let services = [
        ("good", "exec sleep 1000", ""),
        ("bad", "exec sleep 1000", r#","redySocket":"/x""#),
    ];
    let mut capsule = Capsule::start(&table(&services, r#","colour":1"#), true);
    capsule.eventually("good runs", |capsule| capsule.service("good")["state"] == "running");
    let faults = capsule.status()["configFaults"].to_string();
    assert!(faults.contains("redySocket") && faults.contains("colour"), "{faults}");
    capsule.eventually("it is on the console", |capsule| {
        capsule.console().contains("redySocket")
    });
    let mut empty = Capsule::start("no JSON", true);
    assert_eq!(empty.ask("reboot"), "ok\n");
    assert_eq!(empty.wait().code(), Some(0));
}

#[test]
fn a_real_machine_reboots_and_powers_off_through_the_kernel() {
    if !is_root() {
        return;
    }
    // In a PID namespace, reboot(2) ends PID 1 with SIGHUP for a reboot and SIGINT for a power-off.
    for (request, expected, watchdog) in [(Signal::SIGINT, 1, "\0"), (Signal::SIGTERM, 2, "\0V")] {
        let table = table(&[("one", "exec sleep 1000", "")], r#","watchdog":"/perm/watchdog""#);
        let mut capsule = Capsule::start_with(&table, false, |root| fs::write(root.join("perm/watchdog"), "").unwrap());
        capsule.eventually("one runs", |capsule| capsule.service("one")["state"] == "running");
        capsule.signal(request);
        assert_eq!(capsule.wait().signal(), Some(expected), "{}", capsule.console());
        assert_eq!(capsule.read("perm/watchdog"), watchdog);
    }
}

#[test]
fn refuses_to_be_anything_else() {
    let output = std::process::Command::new(support::BINARY).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("PID 1"));
}
