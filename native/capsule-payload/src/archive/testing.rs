//! What the tests of archives share: a builder of archives, and a destination with something beside it to protect.

use super::header::{BLOCK, Header};
use super::{ArchiveError, UnpackOptions, Unpacked, pack, unpack};
use crate::scratch::Scratch;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Builds archives, also those that no honest tool would write.
#[derive(Default)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    pub fn with(mut self, kind: u8, name: &str, link: &str, data: &[u8]) -> Self {
        let header = Header {
            kind,
            name: name.into(),
            link: link.into(),
            mode: 0o644,
            size: data.len() as u64,
            ..Header::default()
        };
        header.encode(&mut self.0);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.with(b'0', name, "", data)
    }

    pub fn dir(self, name: &str) -> Self {
        self.with(b'5', name, "", b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.with(b'2', name, target, b"")
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.with(b'1', name, target, b"")
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

pub(super) fn unpack_with(tar: &[u8], into: &Path, options: &UnpackOptions) -> Result<Unpacked, ArchiveError> {
    unpack(tar, into, options, &AtomicBool::new(false))
}

pub(super) fn unpack_to(tar: &[u8], into: &Path) -> Result<Unpacked, ArchiveError> {
    unpack_with(tar, into, &UnpackOptions::default())
}

pub(super) fn pack_path(path: &Path) -> (Vec<u8>, Vec<String>) {
    let (mut tar, mut notices) = (Vec::new(), Vec::new());
    pack(path, &mut tar, &mut |text| notices.push(text)).unwrap();
    (tar, notices)
}

/// Everything below a directory: type, mode, text.
pub(super) fn tree(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let mode = meta.mode() & 0o7777;
            let text = if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_file() {
                format!(
                    "{mode:o} {} {}",
                    meta.mtime(),
                    String::from_utf8_lossy(&fs::read(&path).unwrap())
                )
            } else {
                format!(
                    "{mode:o} {} {}",
                    meta.mtime(),
                    if kind.is_fifo() { "fifo" } else { "dir" }
                )
            };
            found.insert(name, text);
            if kind.is_dir() {
                walk(root, &path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

/// Unpacks into `root/into`, beside which lies `root/outside`, and checks that nothing but `into` has changed and that no
/// temporary file is left.
pub(super) fn unpack_hostile(
    tar: &[u8],
    prepare: impl Fn(&Path),
) -> (Result<Unpacked, ArchiveError>, BTreeMap<String, String>) {
    let scratch = Scratch::new("hostile");
    let (into, outside) = (scratch.path().join("into"), scratch.path().join("outside"));
    fs::create_dir(&into).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "untouched").unwrap();
    prepare(&into);
    let before = tree(&outside);
    let options = UnpackOptions {
        max_bytes: Some(1 << 20),
        max_entries: Some(1000),
        ..UnpackOptions::default()
    };
    let result = unpack_with(tar, &into, &options);
    assert_eq!(tree(&outside), before);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
    let found = tree(&into);
    assert!(!found.keys().any(|name| name.contains(".capsule-unpack")), "{found:?}");
    (result, found)
}
