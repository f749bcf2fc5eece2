//! Everything that can go wrong with an archive. Each message is one line, whatever bytes the names hold.

use nix::errno::Errno;
use std::io;

/// Why a pack, unpack or stat stopped.
#[derive(Debug, displaydoc::Display, thiserror::Error)]
pub enum ArchiveError {
    /// {path}: no such file or directory
    NotFound { path: String },
    /// cannot enter the root {root}: {source} (this needs root and a path such as /proc/PID/root)
    EnterRoot { root: String, source: Errno },
    /// {path}: {source}
    File { path: String, source: Errno },
    /// {path}: not a directory; an archive is unpacked into an existing directory
    NotADirectory { path: String },
    /// cannot read the archive: {0}
    Read(io::Error),
    /// cannot write the archive: {0}
    Write(io::Error),
    /// the archive is cut off
    Truncated,
    /// the archive holds no entry
    Empty,
    /// not a tar archive, or a damaged one: {0}
    Malformed(&'static str),
    /// {name}: refused, {reason}
    Refused { name: String, reason: &'static str },
    /// {name}: refused, the archive is larger than the allowed {limit} bytes
    TooLarge { name: String, limit: u64 },
    /// {name}: refused, the archive has more than the allowed {limit} entries
    TooManyEntries { name: String, limit: u64 },
    /// {name}: a directory is in the way of a file that is not one
    DirectoryInTheWay { name: String },
    /// {name}: something that is not a directory is in the way of a directory
    FileInTheWay { name: String },
    /// stopped by a signal
    Cancelled,
}

impl ArchiveError {
    /// An error of a system call on `name`, for `map_err`.
    pub(super) fn file(name: &[u8]) -> impl FnOnce(Errno) -> Self {
        let path = printable(name);
        move |source| Self::File { path, source }
    }

    pub(super) fn refused(name: &[u8], reason: &'static str) -> Self {
        Self::Refused {
            name: printable(name),
            reason,
        }
    }
}

/// A name for people: control characters escaped, so that no name can forge a second line or move a cursor.
pub(super) fn printable(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let mut shown: String = text.chars().take(256).flat_map(char::escape_debug).collect();
    if text.chars().nth(256).is_some() {
        shown.push('…');
    }
    shown
}
