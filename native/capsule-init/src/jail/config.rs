//! What a jail is made of: JSON, written by capsuled.

use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// `<files_prefix>.pid` and `<files_prefix>.exit` are written: outside of the jail's root.
    pub files_prefix: PathBuf,
    /// Root directory of the program; what is in it already stays. Only `run` in it can be written to.
    pub root: PathBuf,
    pub uid: u32,
    pub gid: u32,
    /// Directories of the control groups that it joins.
    pub cgroups: Vec<PathBuf>,
    /// Directories of the capsule that it sees at the same place, read-only.
    pub read_only: Vec<PathBuf>,
    /// Device files that it sees at the same place.
    pub devices: Vec<PathBuf>,
    /// Opened for it: the first is descriptor 4, and so on.
    pub open: Vec<OpenFile>,
    /// Disks and devices for a program that opens its files itself.
    pub nodes: Vec<Node>,
    /// TAP interface that is made for it, by this name in the capsule's network: descriptor 3, unless `opens_tap`. It goes
    /// with the last process that has it.
    pub tap: Option<String>,
    /// It opens the interface itself, by its name (wire.rs).
    pub opens_tap: bool,
    /// Its standard output and error go to this log.
    pub output: Output,
    pub argv: Vec<String>,
}

/// A log in the form of a payload's (capsule-payload, `cri`): it is rotated, so no program can fill the disk with it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Output {
    pub dir: PathBuf,
    pub name: String,
    pub max_bytes: u64,
    /// Kept in all, the current one included; at least 1.
    pub max_files: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OpenFile {
    pub path: PathBuf,
    pub read_only: bool,
}

/// A disk (block device or file) or a character device of the capsule, which the program's user may open in its root.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Node {
    pub path: PathBuf,
    /// Where the program finds it: below /dev.
    pub at: PathBuf,
    pub read_only: bool,
}
