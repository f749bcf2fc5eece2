//! The open directories from the destination down to where the archive is at the moment.
//!
//! Every component is opened relative to its parent and without following a link, and stays open while the archive is
//! below it. Invariant: `open` is one path; memory and descriptors are bounded by its depth.

use super::error::{ArchiveError, printable};
use super::reader::Entry;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const MAX_DEPTH: usize = 500;
const OPEN_DIR: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

pub(super) struct Dirs {
    base: OwnedFd,
    open: Vec<OpenDir>,
    /// Give files to the users that the archive names; only root can.
    own: bool,
}

struct OpenDir {
    name: Vec<u8>,
    fd: OwnedFd,
    /// Set when we leave it: every entry made inside would change its time again, and its mode could keep us out.
    pending: Option<Metadata>,
}

/// What to do about a directory that is not there.
#[derive(Clone, Copy)]
enum Missing {
    Fail,
    Make,
    MakeWith(Metadata),
}

/// What is set on a file in the end.
#[derive(Clone, Copy)]
pub(super) struct Metadata {
    mode: u32,
    owner: Option<(Uid, Gid)>,
    mtime: i64,
}

impl Metadata {
    pub fn of(entry: &Entry, own: bool) -> Result<Self, ArchiveError> {
        let id = |id: u64| {
            // The highest one means "leave it" to chown(2).
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| ArchiveError::refused(&entry.path, "an impossible user or group id"))
        };
        let owner = (Uid::from_raw(id(entry.uid)?), Gid::from_raw(id(entry.gid)?));
        Ok(Self {
            mode: entry.mode,
            owner: own.then_some(owner),
            mtime: entry.mtime,
        })
    }

    pub fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        (self.owner.map(|owner| owner.0), self.owner.map(|owner| owner.1))
    }

    pub fn mode(&self) -> Mode {
        Mode::from_bits_truncate(self.mode)
    }

    /// Access time (left as it is) and modification time.
    pub fn times(&self) -> (TimeSpec, TimeSpec) {
        (TimeSpec::UTIME_OMIT, TimeSpec::new(self.mtime, 0))
    }

    pub fn apply(&self, fd: impl AsFd) -> nix::Result<()> {
        let (user, group) = self.owner();
        if self.owner.is_some() {
            fchown(&fd, user, group)?;
        }
        // After the owner: chown clears the set-id bits.
        fchmod(&fd, self.mode())?;
        let (atime, mtime) = self.times();
        futimens(&fd, &atime, &mtime)
    }
}

impl Dirs {
    pub fn new(base: OwnedFd, own: bool) -> Self {
        Self {
            base,
            open: Vec::new(),
            own,
        }
    }

    pub fn own(&self) -> bool {
        self.own
    }

    /// The directory at `path`; missing ones are made with mode 0755. Directories that the archive has left are finished.
    pub fn enter(&mut self, path: &[&[u8]], full_name: &[u8]) -> Result<BorrowedFd<'_>, ArchiveError> {
        self.walk(path, full_name, Missing::Make)
    }

    /// The directory at `path`, which must be there.
    pub fn find(&mut self, path: &[&[u8]], full_name: &[u8]) -> Result<BorrowedFd<'_>, ArchiveError> {
        self.walk(path, full_name, Missing::Fail)
    }

    fn walk(&mut self, path: &[&[u8]], full_name: &[u8], missing: Missing) -> Result<BorrowedFd<'_>, ArchiveError> {
        let shared = self
            .open
            .iter()
            .zip(path)
            .take_while(|(open, name)| open.name == **name)
            .count();
        self.leave(shared);
        for name in &path[shared..] {
            self.descend(name, full_name, missing)?;
        }
        Ok(self.innermost())
    }

    /// Makes the directory of an entry in the innermost one, and goes into it. One that is there keeps its own mode,
    /// owner and time: copying a tree over `/etc` must not give `/etc` to another user.
    pub fn make(&mut self, name: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        let metadata = Metadata::of(entry, self.own)?;
        self.descend(name, &entry.path, Missing::MakeWith(metadata))
    }

    /// Finishes all directories.
    pub fn finish(&mut self) {
        self.leave(0);
    }

    fn descend(&mut self, name: &[u8], full_name: &[u8], missing: Missing) -> Result<(), ArchiveError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(ArchiveError::refused(full_name, "directories are nested too deeply"));
        }
        let parent = self.innermost();
        let made = match missing {
            Missing::Fail => Err(Errno::EEXIST),
            Missing::Make => mkdirat(parent, name, Mode::from_bits_truncate(0o755)),
            // Closed to others until its real mode is set.
            Missing::MakeWith(_) => mkdirat(parent, name, Mode::S_IRWXU),
        };
        let pending = match (made, missing) {
            (Ok(()), Missing::MakeWith(metadata)) => Some(metadata),
            (Ok(()) | Err(Errno::EEXIST), _) => None,
            (Err(error), _) => return Err(ArchiveError::file(full_name)(error)),
        };
        let fd = openat(parent, name, OPEN_DIR, Mode::empty()).map_err(|error| match (error, missing) {
            (Errno::ELOOP | Errno::ENOTDIR, Missing::MakeWith(_)) => ArchiveError::FileInTheWay {
                name: printable(full_name),
            },
            (Errno::ELOOP | Errno::ENOTDIR, _) => {
                ArchiveError::refused(full_name, "its path leads through a link or a file")
            }
            (error, _) => ArchiveError::file(full_name)(error),
        })?;
        self.open.push(OpenDir {
            name: name.to_vec(),
            fd,
            pending,
        });
        Ok(())
    }

    fn innermost(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.base.as_fd(), |dir| dir.fd.as_fd())
    }

    fn leave(&mut self, keep: usize) {
        while self.open.len() > keep {
            if let Some(OpenDir {
                fd,
                pending: Some(metadata),
                ..
            }) = self.open.pop()
            {
                // What we just made ourselves takes its metadata, unless the payload interferes: its own loss.
                let _ = metadata.apply(&fd);
            }
        }
    }
}
