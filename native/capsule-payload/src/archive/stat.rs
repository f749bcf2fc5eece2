//! What a path is, for the destination decisions of `cp`.

use super::error::{ArchiveError, printable};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstatat};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl Kind {
    /// The type in `mode` as stat(2) gives it.
    pub(super) fn of(stat: &FileStat) -> Self {
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => Kind::Directory,
            SFlag::S_IFLNK => Kind::Symlink,
            SFlag::S_IFIFO => Kind::Fifo,
            SFlag::S_IFSOCK => Kind::Socket,
            SFlag::S_IFCHR => Kind::CharDevice,
            SFlag::S_IFBLK => Kind::BlockDevice,
            _ => Kind::File,
        }
    }

    /// The name in the output of `stat`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symlink",
            Kind::Fifo => "fifo",
            Kind::Socket => "socket",
            Kind::CharDevice => "char",
            Kind::BlockDevice => "block",
        }
    }
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Type of the path itself; a link is not followed unless the path ends in `/`.
    pub kind: Kind,
    /// Permission bits, 0..=0o7777.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Text of a link.
    pub link_target: Option<Vec<u8>>,
    /// Type of what a link leads to in the end; `None` for other types and for a dangling link.
    pub target_kind: Option<Kind>,
}

/// Looks `path` up in the root of this process.
pub fn stat(path: &Path) -> Result<Stat, ArchiveError> {
    let name = path.as_os_str().as_bytes();
    let found = fstatat(AT_FDCWD, path, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(not_found(name))?;
    let kind = Kind::of(&found);
    let (mut link_target, mut target_kind) = (None, None);
    if kind == Kind::Symlink {
        let target = readlinkat(AT_FDCWD, path).map_err(not_found(name))?;
        link_target = Some(target.as_bytes().to_vec());
        target_kind = fstatat(AT_FDCWD, path, AtFlags::empty())
            .ok()
            .map(|followed| Kind::of(&followed));
    }
    Ok(Stat {
        kind,
        mode: found.st_mode & 0o7777,
        size: u64::try_from(found.st_size).unwrap_or(0),
        link_target,
        target_kind,
    })
}

/// An error of looking up what the caller asked for. A path below a file is as absent as one below nothing.
pub(super) fn not_found(name: &[u8]) -> impl FnOnce(Errno) -> ArchiveError {
    move |errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR => ArchiveError::NotFound { path: printable(name) },
        errno => ArchiveError::file(name)(errno),
    }
}
