//! Unpacks a tar stream from anyone into a directory, without ever leaving it.
//!
//! - A name that is absolute or has `..` is refused, and so is one whose path leads through a link, new or old.
//! - The target of a symbolic link is data: written as it is, never followed.
//! - Files and links appear whole under their names: made beside them first, then renamed, so that a refusal or a signal
//!   leaves either the old file or the new one.
//! - What came before a refused entry stays, nothing of it or after it is written.

use super::dirs::{Dirs, Metadata};
use super::error::{ArchiveError, printable};
use super::reader::{Entry, EntryKind, Reader};
use super::stat::not_found;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::FchmodatFlags;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmodat, fstatat, makedev, mknodat, utimensat};
use nix::unistd::{UnlinkatFlags, fchownat, geteuid, linkat, symlinkat, unlinkat, write};
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Limits and naming.
#[derive(Clone, Debug, Default)]
pub struct UnpackOptions {
    /// Replaces the first component of every entry, where a leading `.` counts as one. A single plain name.
    pub rename: Option<Vec<u8>>,
    /// Most bytes of file data in all; `None` for no limit.
    pub max_bytes: Option<u64>,
    /// Most entries; `None` for no limit.
    pub max_entries: Option<u64>,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    pub entries: u64,
    pub bytes: u64,
}

/// Unpacks `input` into the directory `into`, which must exist (links in this path itself are followed: it is the
/// caller's, inside the root that the process has entered). Stops soon after `cancelled` is set.
pub fn unpack(
    input: impl Read,
    into: &Path,
    options: &UnpackOptions,
    cancelled: &AtomicBool,
) -> Result<Unpacked, ArchiveError> {
    let name = into.as_os_str().as_bytes();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let base = openat(AT_FDCWD, into, flags, Mode::empty()).map_err(|error| match error {
        Errno::ENOTDIR if fstatat(AT_FDCWD, into, AtFlags::empty()).is_ok() => {
            ArchiveError::NotADirectory { path: printable(name) }
        }
        error => not_found(name)(error),
    })?;
    if let Some(name) = &options.rename {
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(ArchiveError::refused(name, "the new name must be a single plain name"));
        }
    }
    let mut unpacker = Unpacker {
        reader: Reader::new(input, cancelled),
        dirs: Dirs::new(base, geteuid().is_root()),
        options,
        done: Unpacked::default(),
        buffer: vec![0; 32 * 1024],
    };
    let result = unpacker.run();
    unpacker.dirs.finish();
    result.map(|()| unpacker.done)
}

struct Unpacker<'a, R> {
    reader: Reader<'a, R>,
    dirs: Dirs,
    options: &'a UnpackOptions,
    done: Unpacked,
    buffer: Vec<u8>,
}

impl<R: Read> Unpacker<'_, R> {
    fn run(&mut self) -> Result<(), ArchiveError> {
        while let Some(entry) = self.reader.next()? {
            self.check_limits(&entry)?;
            let path = destination(&entry.path, self.options.rename.as_deref())?;
            let path: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
            match path.split_last() {
                Some((name, parents)) => self.entry(&entry, parents, name)?,
                // The destination itself ("./"): it exists, and keeps what it has.
                None if entry.kind == EntryKind::Directory => {}
                None => return Err(ArchiveError::refused(&entry.path, "it has no name")),
            }
        }
        if self.done.entries == 0 {
            Err(ArchiveError::Empty)
        } else {
            Ok(())
        }
    }

    fn check_limits(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        self.done.entries += 1;
        self.done.bytes = self.done.bytes.saturating_add(entry.size);
        let name = || printable(&entry.path);
        match (self.options.max_bytes, self.options.max_entries) {
            (Some(limit), _) if self.done.bytes > limit => Err(ArchiveError::TooLarge { name: name(), limit }),
            (_, Some(limit)) if self.done.entries > limit => Err(ArchiveError::TooManyEntries { name: name(), limit }),
            _ => Ok(()),
        }
    }

    fn entry(&mut self, entry: &Entry, parents: &[&[u8]], name: &[u8]) -> Result<(), ArchiveError> {
        if entry.kind == EntryKind::Directory {
            self.dirs.enter(parents, &entry.path)?;
            return self.dirs.make(name, entry);
        }
        let metadata = Metadata::of(entry, self.dirs.own())?;
        // The source of a hard link first: finding it moves through other directories.
        let source = match entry.kind {
            EntryKind::HardLink => Some(self.link_source(entry)?),
            _ => None,
        };
        let parent = self.dirs.enter(parents, &entry.path)?;
        let failed = |error| ArchiveError::file(&entry.path)(error);
        match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR => {
                return Err(ArchiveError::DirectoryInTheWay {
                    name: printable(&entry.path),
                });
            }
            _ => {}
        }
        let new = Unfinished::new(parent);
        match entry.kind {
            EntryKind::File => new.write_file(&mut self.reader, &mut self.buffer, entry, metadata)?,
            EntryKind::HardLink => {
                if let Some((directory, source)) = &source {
                    linkat(directory, source.as_slice(), parent, new.name(), AtFlags::empty()).map_err(failed)?;
                }
            }
            EntryKind::Symlink => {
                symlinkat(entry.link.as_slice(), parent, new.name()).map_err(failed)?;
                new.set_metadata(metadata, false).map_err(failed)?;
            }
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                let kind = match entry.kind {
                    EntryKind::CharDevice => SFlag::S_IFCHR,
                    EntryKind::BlockDevice => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                let device = makedev(entry.major, entry.minor);
                mknodat(parent, new.name(), kind, Mode::S_IRUSR, device).map_err(failed)?;
                new.set_metadata(metadata, true).map_err(failed)?;
            }
            EntryKind::Directory => {}
        }
        new.rename(name).map_err(failed)
    }

    /// Directory and name of what a hard link leads to: inside the destination, under the rules of any entry.
    fn link_source(&mut self, entry: &Entry) -> Result<(OwnedFd, Vec<u8>), ArchiveError> {
        let path = destination(&entry.link, self.options.rename.as_deref())?;
        let path: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
        let Some((name, parents)) = path.split_last() else {
            return Err(ArchiveError::refused(&entry.path, "a hard link to nothing"));
        };
        let directory = self.dirs.find(parents, &entry.path)?;
        let directory = directory.try_clone_to_owned().map_err(ArchiveError::Read)?;
        Ok((directory, name.to_vec()))
    }
}

/// Components below the destination.
fn destination(path: &[u8], rename: Option<&[u8]>) -> Result<Vec<Vec<u8>>, ArchiveError> {
    let refuse = |reason| Err(ArchiveError::refused(path, reason));
    if path.is_empty() {
        return refuse("it has no name");
    }
    if path.starts_with(b"/") {
        return refuse("an absolute name");
    }
    if path.len() > 4095 {
        return refuse("its name is too long");
    }
    let mut components: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty())
        .collect();
    if components.contains(&b"..".as_slice()) {
        return refuse("its name leads upwards (..)");
    }
    if path.contains(&0) {
        return refuse("a NUL byte in its name");
    }
    if let (Some(first), Some(new)) = (components.first_mut(), rename) {
        *first = new;
    }
    Ok(components
        .into_iter()
        .filter(|part| *part != b".")
        .map(<[u8]>::to_vec)
        .collect())
}

/// A new file under a temporary name; removed again unless it gets its real one.
struct Unfinished<'a> {
    parent: BorrowedFd<'a>,
    name: String,
    placed: bool,
}

impl<'a> Unfinished<'a> {
    fn new(parent: BorrowedFd<'a>) -> Self {
        // One at a time per process.
        let name = format!(".capsule-unpack-{}", std::process::id());
        Self {
            parent,
            name,
            placed: false,
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn write_file<R: Read>(
        &self,
        reader: &mut Reader<'_, R>,
        buffer: &mut [u8],
        entry: &Entry,
        metadata: Metadata,
    ) -> Result<(), ArchiveError> {
        let failed = |error| ArchiveError::file(&entry.path)(error);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(self.parent, self.name(), flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
        loop {
            let mut data = match reader.read_data(buffer)? {
                0 => break,
                count => &buffer[..count],
            };
            while !data.is_empty() {
                match write(&file, data) {
                    Ok(count) => data = &data[count..],
                    Err(Errno::EINTR) => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        metadata.apply(&file).map_err(failed)
    }

    /// For what cannot be opened without effect (a device, a fifo) or at all (a link).
    fn set_metadata(&self, metadata: Metadata, mode: bool) -> nix::Result<()> {
        let (user, group) = metadata.owner();
        if user.is_some() {
            fchownat(self.parent, self.name(), user, group, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        if mode {
            self.set_mode(metadata.mode())?;
        }
        let (atime, mtime) = metadata.times();
        utimensat(
            self.parent,
            self.name(),
            &atime,
            &mtime,
            UtimensatFlags::NoFollowSymlink,
        )
    }

    fn set_mode(&self, mode: Mode) -> nix::Result<()> {
        // Older kernels cannot change a mode without following a link. The payload could put a link here meanwhile, and
        // then change the mode of a file of its own.
        fchmodat(self.parent, self.name(), mode, FchmodatFlags::FollowSymlink)
    }

    fn rename(mut self, name: &[u8]) -> nix::Result<()> {
        renameat(self.parent, self.name(), self.parent, name)?;
        // Two links to one file: rename(2) does nothing then, and leaves both names.
        self.placed = fstatat(self.parent, self.name(), AtFlags::AT_SYMLINK_NOFOLLOW).is_err();
        Ok(())
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.placed {
            let _ = unlinkat(self.parent, self.name(), UnlinkatFlags::NoRemoveDir);
        }
    }
}
