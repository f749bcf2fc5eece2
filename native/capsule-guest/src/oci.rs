//! The OCI runtime (crun) and the JSON that it is given (github.com/opencontainers/runtime-spec).

use crate::users::User;
use serde_json::{Value, json};
use std::process::Command;

pub const ID: &str = "payload";
/// Below the root of the control groups.
pub const CGROUP: &str = "/payload";

/// crun with what every call of it needs.
pub fn crun() -> Command {
    let mut command = Command::new("/usr/bin/crun");
    command.args(["--root", "/run/crun", "--cgroup-manager", "cgroupfs"]);
    command
}

/// Fills in the user of a `process`: another than root starts without effective capabilities, as execve(2) would have it.
pub fn set_user(process: &mut Value, user: &User) -> Result<(), String> {
    if !process.is_object() || !(process["capabilities"].is_object() || process["capabilities"].is_null()) {
        return Err("the OCI process is not what it should be".into());
    }
    process["user"] = json!({ "uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids });
    if user.uid != 0 {
        for set in ["effective", "permitted", "inheritable", "ambient"] {
            process["capabilities"][set] = json!([]);
        }
    }
    let has_home = process["env"].as_array().is_some_and(|env| {
        env.iter()
            .any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("HOME=")))
    });
    if let (false, Some(env)) = (has_home, process["env"].as_array_mut()) {
        env.push(json!(format!("HOME={}", user.home)));
    }
    Ok(())
}

/// The same for a whole configuration, whose control group gets the place where the agent looks for it.
pub fn prepare(config: &mut Value, user: &User) -> Result<(), String> {
    if !config.is_object() || !config["linux"].is_object() {
        return Err("the OCI configuration is not what it should be".into());
    }
    config["linux"]["cgroupsPath"] = json!(CGROUP);
    set_user(&mut config["process"], user)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> Value {
        json!({ "env": ["PATH=/bin"], "capabilities": { "bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"] } })
    }

    #[test]
    fn a_user_has_a_home_and_no_effective_capabilities() {
        let mut found = process();
        set_user(
            &mut found,
            &User {
                uid: 7,
                gid: 8,
                additional_gids: vec![9],
                home: "/srv".into(),
            },
        )
        .unwrap();
        assert_eq!(found["user"], json!({ "uid": 7, "gid": 8, "additionalGids": [9] }));
        assert_eq!(found["env"], json!(["PATH=/bin", "HOME=/srv"]));
        assert_eq!(found["capabilities"]["effective"], json!([]));
        assert_eq!(found["capabilities"]["bounding"], json!(["CAP_CHOWN"]));
    }

    #[test]
    fn root_keeps_them_and_a_home_that_is_set_stays() {
        let mut found = process();
        found["env"] = json!(["HOME=/data"]);
        set_user(
            &mut found,
            &User {
                home: "/root".into(),
                ..User::default()
            },
        )
        .unwrap();
        assert_eq!(found["env"], json!(["HOME=/data"]));
        assert_eq!(found["capabilities"]["effective"], json!(["CAP_CHOWN"]));
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for text in [
            "[]",
            "1",
            "{}",
            r#"{"linux":{},"process":[]}"#,
            r#"{"linux":{},"process":{"capabilities":[]}}"#,
        ] {
            let mut config = serde_json::from_str(text).unwrap();
            assert!(prepare(&mut config, &User::default()).is_err(), "{text}");
        }
        let mut config = json!({ "linux": { "cgroupsPath": "/other" }, "process": {} });
        prepare(&mut config, &User::default()).unwrap();
        assert_eq!(config["linux"]["cgroupsPath"], json!(CGROUP));
    }
}
