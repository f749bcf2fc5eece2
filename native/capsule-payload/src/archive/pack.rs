//! Packs a path as a tar stream.
//!
//! The tree may change meanwhile, and its owner may mean harm: directories are opened relative to each other without
//! following links, and a file that grew or shrank still gives the number of bytes that its header says.

use super::error::{ArchiveError, printable};
use super::header::{BLOCK, Header};
use super::stat::{Kind, not_found};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, major, minor};
use nix::sys::statfs::{
    CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEVPTS_SUPER_MAGIC, FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs,
};
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAX_DEPTH: usize = 500;
/// Views of the kernel, not files: endless, and different for everyone who looks.
const KERNEL_VIEWS: [FsType; 5] = [
    PROC_SUPER_MAGIC,
    SYSFS_MAGIC,
    CGROUP_SUPER_MAGIC,
    CGROUP2_SUPER_MAGIC,
    DEVPTS_SUPER_MAGIC,
];

/// Writes `path` and all below it to `output`. The first entry is named as the last component of `path`; a final link is
/// packed as a link. A path that ends in `/` is followed; `/` itself and a path that ends in `/.` give entries below `.`.
/// `notice` hears, in a line each, what was left out: sockets, kernel views, files that vanished.
pub fn pack(path: &Path, output: impl Write, notice: &mut dyn FnMut(String)) -> Result<(), ArchiveError> {
    let bytes = path.as_os_str().as_bytes();
    let follow = bytes.ends_with(b"/") || bytes.ends_with(b"/.") || bytes == b".";
    let trimmed = &bytes[..bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1)];
    let name = match trimmed.rsplit(|byte| *byte == b'/').next() {
        None | Some(b"") => b".",
        Some(b"..") => return Err(ArchiveError::refused(bytes, "its last component has no name (..)")),
        Some(name) => name,
    };
    let flag = if follow {
        AtFlags::empty()
    } else {
        AtFlags::AT_SYMLINK_NOFOLLOW
    };
    let root = fstatat(AT_FDCWD, path, flag).map_err(not_found(bytes))?;
    let lookup = CString::new(bytes).map_err(|_| ArchiveError::refused(bytes, "a NUL byte in its name"))?;
    let mut packer = Packer {
        output,
        notice,
        links: HashMap::new(),
        scratch: Vec::new(),
        buffer: vec![0; 32 * 1024],
    };
    let mut archived = name.to_vec();
    packer.entry(AT_FDCWD, &lookup, &mut archived, &root, follow, 0)?;
    packer.write(&[0; 2 * BLOCK])?;
    packer.output.flush().map_err(ArchiveError::Write)
}

struct Packer<'a, W> {
    output: W,
    notice: &'a mut dyn FnMut(String),
    /// First name of each file with several.
    links: HashMap<(u64, u64), Vec<u8>>,
    scratch: Vec<u8>,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<'_, W> {
    /// Packs one entry and all below it. `archived` is its name in the archive, restored on return.
    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CString,
        archived: &mut Vec<u8>,
        found: &FileStat,
        follow: bool,
        depth: usize,
    ) -> Result<(), ArchiveError> {
        let mut header = Header {
            name: archived.clone(),
            mode: found.st_mode & 0o7777,
            uid: u64::from(found.st_uid),
            gid: u64::from(found.st_gid),
            mtime: found.st_mtime,
            ..Header::default()
        };
        let kind = Kind::of(found);
        if kind != Kind::Directory && found.st_nlink > 1 {
            if let Some(first) = self.links.get(&(found.st_dev, found.st_ino)) {
                header.kind = b'1';
                header.link = first.clone();
                return self.header(&header);
            }
            self.links.insert((found.st_dev, found.st_ino), archived.clone());
        }
        match kind {
            Kind::File => self.file(parent, name, header, follow),
            Kind::Directory => self.directory(parent, name, archived, header, follow, depth),
            Kind::Symlink => {
                let Some(target) = self.there(readlinkat(parent, name.as_c_str()), archived)? else {
                    return Ok(());
                };
                header.kind = b'2';
                header.link = target.as_bytes().to_vec();
                self.header(&header)
            }
            Kind::Socket => {
                self.notice(archived, "a socket, left out");
                Ok(())
            }
            Kind::Fifo => {
                header.kind = b'6';
                self.header(&header)
            }
            Kind::CharDevice | Kind::BlockDevice => {
                header.kind = if kind == Kind::CharDevice { b'3' } else { b'4' };
                header.major = major(found.st_rdev);
                header.minor = minor(found.st_rdev);
                self.header(&header)
            }
        }
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CString,
        mut header: Header,
        follow: bool,
    ) -> Result<(), ArchiveError> {
        // Not blocking: a fifo may have taken the file's place since it was looked at.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | no_follow(follow);
        let Some(fd) = self.there(openat(parent, name.as_c_str(), flags, Mode::empty()), &header.name)? else {
            return Ok(());
        };
        let found = fstat(&fd).map_err(ArchiveError::file(&header.name))?;
        if Kind::of(&found) != Kind::File {
            self.notice(&header.name, "changed its type meanwhile, left out");
            return Ok(());
        }
        header.kind = b'0';
        header.size = u64::try_from(found.st_size).unwrap_or(0);
        self.header(&header)?;
        let mut file = File::from(fd);
        let mut left = header.size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let count = match file.read(&mut self.buffer[..wanted]) {
                Ok(0) => {
                    self.notice(&header.name, "became shorter meanwhile, filled up with zeros");
                    self.zeros(left)?;
                    break;
                }
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                    return Err(ArchiveError::file(&header.name)(errno));
                }
            };
            self.output
                .write_all(&self.buffer[..count])
                .map_err(ArchiveError::Write)?;
            left -= count as u64;
        }
        self.zeros((BLOCK as u64 - header.size % BLOCK as u64) % BLOCK as u64)
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CString,
        archived: &mut Vec<u8>,
        mut header: Header,
        follow: bool,
        depth: usize,
    ) -> Result<(), ArchiveError> {
        if depth >= MAX_DEPTH {
            return Err(ArchiveError::refused(archived, "directories are nested too deeply"));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | no_follow(follow);
        let Some(fd) = self.there(openat(parent, name.as_c_str(), flags, Mode::empty()), archived)? else {
            return Ok(());
        };
        header.kind = b'5';
        header.name.push(b'/');
        self.header(&header)?;
        let is_view = fstatfs(&fd).is_ok_and(|fs| KERNEL_VIEWS.contains(&fs.filesystem_type()));
        if is_view {
            self.notice(archived, "a view of the kernel, its content is left out");
            return Ok(());
        }
        let mut directory = Dir::from_fd(fd).map_err(ArchiveError::file(archived))?;
        let mut names = Vec::new();
        for entry in directory.iter() {
            let entry = entry.map_err(ArchiveError::file(archived))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        // One order, whatever the filesystem: the same tree gives the same archive.
        names.sort_unstable();
        for child in names {
            let length = archived.len();
            archived.push(b'/');
            archived.extend_from_slice(child.as_bytes());
            let looked_up = fstatat(directory.as_fd(), child.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
            if let Some(found) = self.there(looked_up, archived)? {
                self.entry(directory.as_fd(), &child, archived, &found, false, depth + 1)?;
            }
            archived.truncate(length);
        }
        Ok(())
    }

    /// `None` for what has vanished, or turned into a link, since its directory was read.
    fn there<T>(&mut self, result: nix::Result<T>, name: &[u8]) -> Result<Option<T>, ArchiveError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR | Errno::EINVAL) => {
                self.notice(name, "vanished meanwhile, left out");
                Ok(None)
            }
            Err(error) => Err(ArchiveError::file(name)(error)),
        }
    }

    fn notice(&mut self, name: &[u8], text: &str) {
        (self.notice)(format!("{}: {text}", printable(name)));
    }

    fn header(&mut self, header: &Header) -> Result<(), ArchiveError> {
        self.scratch.clear();
        header.encode(&mut self.scratch);
        self.output.write_all(&self.scratch).map_err(ArchiveError::Write)
    }

    fn zeros(&mut self, mut count: u64) -> Result<(), ArchiveError> {
        while count > 0 {
            let now = count.min(4096);
            self.write(&[0; 4096][..now as usize])?;
            count -= now;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.output.write_all(bytes).map_err(ArchiveError::Write)
    }
}

fn no_follow(follow: bool) -> OFlag {
    if follow { OFlag::empty() } else { OFlag::O_NOFOLLOW }
}
