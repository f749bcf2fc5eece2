//! Reads a tar stream entry by entry, in bounded memory whatever the stream holds.

use super::error::ArchiveError;
use super::header::{BLOCK, Header, decimal, records};
use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering};

/// Longest extension (pax header, GNU long name) in bytes: a path has at most 4096.
const MAX_EXTENSION_BYTES: u64 = 256 * 1024;
/// Zero padding that may follow the end, in bytes (GNU tar pads to 10 KiB).
const MAX_PADDING_BYTES: u64 = 1024 * 1024;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// An entry with everything that its extensions say already applied. Names are as they came: check them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub kind: EntryKind,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub mtime: i64,
    pub major: u64,
    pub minor: u64,
}

/// A tar stream. Invariant: `left` bytes of the current entry and then `padding` come before the next header.
pub(super) struct Reader<'a, R> {
    input: R,
    cancelled: &'a AtomicBool,
    left: u64,
    padding: u64,
}

#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
}

impl<'a, R: Read> Reader<'a, R> {
    pub fn new(input: R, cancelled: &'a AtomicBool) -> Self {
        Self {
            input,
            cancelled,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry; `None` at the archive's proper end, which is two zero blocks and nothing but zeros behind.
    pub fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut extension = Extension::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            match header.kind {
                b'x' => extension.take_pax(&self.extension(&header)?)?,
                b'L' => extension.path = extension.path.or(Some(self.long_name(&header)?)),
                b'K' => extension.link = extension.link.or(Some(self.long_name(&header)?)),
                // A global header's fields (a commit id, say) are about the archive, not about its entries.
                b'g' => drop(self.extension(&header)?),
                _ => return self.entry(header, extension).map(Some),
            }
        }
    }

    /// Reads on in the current entry; 0 at its end.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.read_some(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(ArchiveError::Truncated);
        }
        self.left -= count as u64;
        Ok(count)
    }

    fn entry(&mut self, header: Header, extension: Extension) -> Result<Entry, ArchiveError> {
        let path = extension.path.unwrap_or(header.name);
        let kind = match header.kind {
            b'0' | 0 | b'7' if path.ends_with(b"/") => EntryKind::Directory,
            b'0' | 0 | b'7' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            b'S' => {
                return Err(ArchiveError::refused(
                    &path,
                    "sparse files are not supported; make the archive without --sparse",
                ));
            }
            _ => return Err(ArchiveError::refused(&path, "an unknown type of entry")),
        };
        // Only files have data; some writers leave a size in other headers without data behind it.
        let size = if kind == EntryKind::File {
            extension.size.unwrap_or(header.size)
        } else {
            0
        };
        self.begin_data(size);
        Ok(Entry {
            kind,
            path,
            link: extension.link.unwrap_or(header.link),
            mode: header.mode,
            uid: extension.uid.unwrap_or(header.uid),
            gid: extension.gid.unwrap_or(header.gid),
            size,
            mtime: extension.mtime.unwrap_or(header.mtime),
            major: header.major,
            minor: header.minor,
        })
    }

    /// The next header block, or `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let mut block = [0; BLOCK];
        self.read_block(&mut block)?;
        if block != [0; BLOCK] {
            return Header::parse(&block).map(Some);
        }
        self.read_block(&mut block)?;
        let mut padding = 0;
        loop {
            if block.iter().any(|byte| *byte != 0) || padding > MAX_PADDING_BYTES {
                return Err(ArchiveError::Malformed("data behind its end"));
            }
            let count = self.read_some(&mut block)?;
            if count == 0 {
                return Ok(None);
            }
            block[count..].fill(0);
            padding += count as u64;
        }
    }

    fn begin_data(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        if header.size > MAX_EXTENSION_BYTES {
            return Err(ArchiveError::Malformed("an extension header of unreasonable size"));
        }
        self.begin_data(header.size);
        let mut data = vec![0; header.size as usize];
        let mut filled = 0;
        while filled < data.len() {
            filled += self.read_data(&mut data[filled..])?;
        }
        Ok(data)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        let mut name = self.extension(header)?;
        name.truncate(memchr::memchr(0, &name).unwrap_or(name.len()));
        Ok(name)
    }

    fn skip(&mut self) -> Result<(), ArchiveError> {
        self.left += std::mem::take(&mut self.padding);
        let mut buffer = [0; 8192];
        while self.left > 0 {
            self.read_data(&mut buffer)?;
        }
        Ok(())
    }

    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<(), ArchiveError> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.read_some(&mut block[filled..])? {
                0 => return Err(ArchiveError::Truncated),
                count => filled += count,
            }
        }
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(ArchiveError::Cancelled);
            }
            match self.input.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => return other.map_err(ArchiveError::Read),
            }
        }
    }
}

impl Extension {
    fn take_pax(&mut self, data: &[u8]) -> Result<(), ArchiveError> {
        const BAD: ArchiveError = ArchiveError::Malformed("a number in a pax record");
        for (key, value) in records(data)? {
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(decimal(value).filter(|size| *size < 1 << 62).ok_or(BAD)?),
                b"uid" => self.uid = Some(decimal(value).ok_or(BAD)?),
                b"gid" => self.gid = Some(decimal(value).ok_or(BAD)?),
                b"mtime" => self.mtime = Some(whole_seconds(value).ok_or(BAD)?),
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(ArchiveError::Malformed(
                        "sparse files are not supported; make it without --sparse",
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// `-12.75` → -13: rounded down, as a timespec with a positive fraction would be.
fn whole_seconds(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    let down = i64::from(sign < 0 && fraction.iter().any(|digit| *digit != b'0'));
    Some(sign * seconds - down)
}
