//! A log file that rotates by size and never makes its writer wait or fail: when the disk does not take a chunk, the
//! chunk is counted as lost, and the count is written as one line once there is space again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

/// Where a log lives and how much it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The directory; created when missing.
    pub dir: PathBuf,
    /// Name of the current file; older ones are `<name>.1` (newest) up to `<name>.<files - 1>`.
    pub name: String,
    /// Size in bytes at which a file is rotated. One write of at most [`RotatingLog::batch_bytes`] and a line may pass it.
    pub max_bytes: u64,
    /// Number of files kept in all, the current one included; at least 1.
    pub files: u32,
}

/// Formats the notice about `lost` lines, newline included.
pub type LossNotice = fn(out: &mut Vec<u8>, lost: u64);

/// One log on disk. Invariants: the file ends with a newline whenever a write returned; a file is only ever rotated
/// between lines.
#[derive(Debug)]
pub struct RotatingLog {
    rotation: Rotation,
    notice: LossNotice,
    file: Option<File>,
    size: u64,
    lost: u64,
}

impl RotatingLog {
    /// Opens nothing yet: the first write does, and every later one tries again while it fails.
    pub fn new(rotation: Rotation, notice: LossNotice) -> Self {
        Self {
            rotation,
            notice,
            file: None,
            size: 0,
            lost: 0,
        }
    }

    /// The most that a caller should gather before it writes: bounds both its memory and how far a file passes its limit.
    pub fn batch_bytes(&self) -> usize {
        usize::try_from(self.rotation.max_bytes)
            .unwrap_or(usize::MAX)
            .min(64 * 1024)
    }

    /// Lines that could not be written since the last loss notice.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Writes `chunk`, which holds `lines` whole lines, in one piece. Never fails: what cannot be written is lost and counted.
    pub fn write(&mut self, chunk: &[u8], lines: u64) {
        if chunk.is_empty() {
            return;
        }
        if self.lost > 0 {
            let mut notice = Vec::with_capacity(128);
            (self.notice)(&mut notice, self.lost);
            if self.append(&notice).is_err() {
                self.lost += lines;
                return;
            }
            self.lost = 0;
        }
        if self.append(chunk).is_err() {
            self.lost += lines;
        }
    }

    /// Closes the file; a later write opens it again.
    pub fn close(&mut self) {
        self.file = None;
    }

    /// Whether the path names another file than the open one: a filesystem was mounted above it. One that is gone is not
    /// made again: the workload that it belonged to may be gone too.
    fn is_elsewhere(&self) -> bool {
        let Some(Ok(open)) = self.file.as_ref().map(File::metadata) else {
            return false;
        };
        let path = self.rotation.dir.join(&self.rotation.name);
        fs::metadata(path).is_ok_and(|named| (named.dev(), named.ino()) != (open.dev(), open.ino()))
    }

    fn append(&mut self, chunk: &[u8]) -> io::Result<()> {
        if self.is_elsewhere() {
            self.file = None;
            self.size = 0;
        }
        if self.size > 0 && self.size + chunk.len() as u64 > self.rotation.max_bytes {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.open()?;
        }
        let Some(file) = self.file.as_mut() else {
            return Err(ErrorKind::NotFound.into());
        };
        match file.write_all(chunk) {
            Ok(()) => {
                self.size += chunk.len() as u64;
                Ok(())
            }
            Err(error) => {
                // A full disk often takes the first part: cut it off again, or the next line would be glued to it.
                if file.set_len(self.size).is_err() {
                    self.file = None;
                }
                Err(error)
            }
        }
    }

    fn open(&mut self) -> io::Result<()> {
        let path = self.rotation.dir.join(&self.rotation.name);
        let open = || {
            OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o640)
                .open(&path)
        };
        let mut file = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(&self.rotation.dir)?;
                open()?
            }
            other => other?,
        };
        self.size = file.metadata()?.len();
        let mut last = [b'\n'];
        // A power cut may have left half a line: end it, so that the first new line is whole.
        if self.size > 0 && file.read_at(&mut last, self.size - 1)? == 1 && last[0] != b'\n' {
            file.write_all(b"\n")?;
            self.size += 1;
        }
        self.file = Some(file);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = |number: u32| {
            let name = &self.rotation.name;
            self.rotation.dir.join(match number {
                0 => name.clone(),
                _ => format!("{name}.{number}"),
            })
        };
        // The new name of the current file is written last: whoever follows the log sees its inode change once, with
        // the rest of the chain already in place.
        for number in (0..self.rotation.files.saturating_sub(1)).rev() {
            match fs::rename(path(number), path(number + 1)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.rotation.files <= 1 {
            fs::remove_file(path(0)).or_else(|error| match error.kind() {
                ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
        }
        self.file = None;
        self.size = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::path::Path;

    fn log(dir: &Path, max_bytes: u64, files: u32) -> RotatingLog {
        let rotation = Rotation {
            dir: dir.to_path_buf(),
            name: "current.log".into(),
            max_bytes,
            files,
        };
        RotatingLog::new(rotation, |out, lost| {
            out.extend_from_slice(format!("lost {lost}\n").as_bytes());
        })
    }

    fn read(dir: &Path, name: &str) -> String {
        fs::read_to_string(dir.join(name)).unwrap()
    }

    #[test]
    fn rotates_by_size_and_keeps_the_given_number_of_files() {
        let scratch = Scratch::new("rotate");
        let dir = scratch.path().join("made/on/demand");
        let mut log = log(&dir, 10, 3);
        for number in 0..7 {
            log.write(format!("line{number}\n").as_bytes(), 1);
        }
        assert_eq!(read(&dir, "current.log"), "line6\n");
        assert_eq!(read(&dir, "current.log.1"), "line5\n");
        assert_eq!(read(&dir, "current.log.2"), "line4\n");
        assert!(!dir.join("current.log.3").exists());
    }

    #[test]
    fn one_file_starts_over() {
        let scratch = Scratch::new("one-file");
        let mut log = log(scratch.path(), 8, 1);
        log.write(b"first\n", 1);
        log.write(b"second\n", 1);
        assert_eq!(read(scratch.path(), "current.log"), "second\n");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn appends_after_a_restart_and_ends_a_torn_line() {
        let scratch = Scratch::new("append");
        fs::write(scratch.path().join("current.log"), "old\nto").unwrap();
        log(scratch.path(), 100, 2).write(b"new\n", 1);
        assert_eq!(read(scratch.path(), "current.log"), "old\nto\nnew\n");
    }

    #[test]
    fn follows_its_path_when_another_file_gets_it() {
        let scratch = Scratch::new("elsewhere");
        let dir = scratch.path().join("log");
        let mut log = log(&dir, 1000, 2);
        log.write(b"before\n", 1);
        // As when a filesystem is mounted above the directory, to which the earlier lines were copied.
        fs::rename(&dir, scratch.path().join("old")).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("current.log"), "copied\n").unwrap();
        log.write(b"after\n", 1);
        assert_eq!(read(&dir, "current.log"), "copied\nafter\n");
        fs::remove_dir_all(&dir).unwrap();
        log.write(b"late\n", 1);
        assert!(!dir.exists());
    }

    #[test]
    fn counts_what_is_lost_and_says_so_once_it_can_write_again() {
        let scratch = Scratch::new("lost");
        let blocked = scratch.path().join("dir");
        fs::write(&blocked, "a file where the directory should be").unwrap();
        let mut log = log(&blocked, 100, 2);
        log.write(b"a\nb\n", 2);
        log.write(b"c\n", 1);
        assert_eq!(log.lost(), 3);
        fs::remove_file(&blocked).unwrap();
        log.write(b"d\n", 1);
        assert_eq!(read(&blocked, "current.log"), "lost 3\nd\n");
        assert_eq!(log.lost(), 0);
    }
}
