//! One 512-byte header block of a tar archive (POSIX ustar, with GNU's binary numbers), and pax records.
//! Source: POSIX.1-2017 `pax`, sections "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar Format".

use super::error::ArchiveError;
use std::ops::Range;

pub(super) const BLOCK: usize = 512;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;

/// The fields of a header, as they stand in the block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: u8,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    pub major: u64,
    pub minor: u64,
}

impl Header {
    /// Reads a block that is not all zero.
    pub fn parse(block: &[u8; BLOCK]) -> Result<Self, ArchiveError> {
        let stated = number(&block[CHECKSUM])?;
        if stated != i64::from(checksum(block)) {
            return Err(ArchiveError::Malformed("wrong checksum of a header"));
        }
        let mut name = text(&block[NAME]).to_vec();
        if block[MAGIC.start..MAGIC.start + 6] == *b"ustar\0" && block[PREFIX.start] != 0 {
            name = [text(&block[PREFIX]), &name].join(&b'/');
        }
        let positive = |field: Range<usize>| {
            u64::try_from(number(&block[field])?).map_err(|_| ArchiveError::Malformed("a negative number in a header"))
        };
        Ok(Self {
            kind: block[TYPE],
            name,
            link: text(&block[LINK]).to_vec(),
            // Some writers put the file type into the mode: only permissions are wanted.
            mode: (positive(MODE)? & 0o7777) as u32,
            uid: positive(UID)?,
            gid: positive(GID)?,
            size: positive(SIZE)?,
            mtime: number(&block[MTIME])?,
            major: positive(MAJOR).unwrap_or(0),
            minor: positive(MINOR).unwrap_or(0),
        })
    }

    /// Writes the header to `out`, preceded by a pax header for every field that does not fit.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut pax = Vec::new();
        let mut main = self.clone();
        if self.name.len() > NAME.len() {
            record(&mut pax, "path", &self.name);
            main.name.truncate(NAME.len());
        }
        if self.link.len() > LINK.len() {
            record(&mut pax, "linkpath", &self.link);
            main.link.truncate(LINK.len());
        }
        for (key, value, field) in [
            ("uid", &mut main.uid, UID),
            ("gid", &mut main.gid, GID),
            ("size", &mut main.size, SIZE),
        ] {
            if *value >= 1 << (3 * (field.len() - 1)) {
                record(&mut pax, key, value.to_string().as_bytes());
                *value = 0;
            }
        }
        if !(0..1 << 33).contains(&self.mtime) {
            record(&mut pax, "mtime", self.mtime.to_string().as_bytes());
            main.mtime = 0;
        }
        if !pax.is_empty() {
            let extension = Header {
                kind: b'x',
                name: b"././@PaxHeader".to_vec(),
                mode: 0o644,
                size: pax.len() as u64,
                ..Header::default()
            };
            out.extend_from_slice(&extension.block());
            out.extend_from_slice(&pax);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
        out.extend_from_slice(&main.block());
    }

    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..self.name.len()].copy_from_slice(&self.name);
        octal(&mut block[MODE], u64::from(self.mode));
        octal(&mut block[UID], self.uid);
        octal(&mut block[GID], self.gid);
        octal(&mut block[SIZE], self.size);
        octal(&mut block[MTIME], u64::try_from(self.mtime).unwrap_or(0));
        block[TYPE] = self.kind;
        block[LINK.start..LINK.start + self.link.len()].copy_from_slice(&self.link);
        block[MAGIC].copy_from_slice(b"ustar\x0000");
        octal(&mut block[MAJOR], self.major);
        octal(&mut block[MINOR], self.minor);
        let sum = checksum(&block);
        // By tradition the checksum alone has six digits, a NUL and a space.
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// Key and value.
pub(super) type Record<'a> = (&'a [u8], &'a [u8]);

/// Splits the payload of a pax header into its records (`<length> <key>=<value>\n`).
pub(super) fn records(mut pax: &[u8]) -> Result<Vec<Record<'_>>, ArchiveError> {
    const BAD: ArchiveError = ArchiveError::Malformed("a broken pax record");
    let mut found = Vec::new();
    while !pax.is_empty() {
        let space = memchr::memchr(b' ', pax).ok_or(BAD)?;
        let length = usize::try_from(decimal(&pax[..space]).ok_or(BAD)?).map_err(|_| BAD)?;
        if length <= space + 1 || length > pax.len() || pax[length - 1] != b'\n' {
            return Err(BAD);
        }
        let body = &pax[space + 1..length - 1];
        let equals = memchr::memchr(b'=', body).ok_or(BAD)?;
        found.push((&body[..equals], &body[equals + 1..]));
        pax = &pax[length..];
    }
    Ok(found)
}

/// A plain decimal number without sign.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    // The length counts its own digits: grow it until it is right.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn text(field: &[u8]) -> &[u8] {
    &field[..memchr::memchr(0, field).unwrap_or(field.len())]
}

/// An octal number with blanks around it, or GNU's big-endian binary form, marked by the first byte's high bit.
fn number(field: &[u8]) -> Result<i64, ArchiveError> {
    const BAD: ArchiveError = ArchiveError::Malformed("a number in a header");
    if let Some(first @ (0x80 | 0xff)) = field.first().copied() {
        let start = if first == 0xff { -1 } else { 0 };
        return field[1..].iter().try_fold(start, |value: i64, byte| {
            value
                .checked_mul(256)
                .map(|shifted| shifted | i64::from(*byte))
                .ok_or(BAD)
        });
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0, |value: i64, digit| match digit {
        b'0'..=b'7' => value
            .checked_mul(8)
            .map(|shifted| shifted | i64::from(digit - b'0'))
            .ok_or(BAD),
        _ => Err(BAD),
    })
}

fn octal(field: &mut [u8], mut value: u64) {
    let last = field.len() - 1;
    for place in field[..last].iter_mut().rev() {
        *place = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}

/// Sum of all bytes, with the checksum field itself taken as blanks.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum(block) - sum(&block[CHECKSUM]) + 8 * u32::from(b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_block(bytes: &[u8]) -> [u8; BLOCK] {
        bytes[..BLOCK].try_into().unwrap()
    }

    #[test]
    fn a_header_comes_back_as_it_was() {
        let header = Header {
            kind: b'0',
            name: b"dir/name".to_vec(),
            link: b"target".to_vec(),
            mode: 0o4755,
            uid: 1000,
            gid: 0o7777777,
            size: 0o77777777777,
            mtime: 1_795_478_400,
            major: 8,
            minor: 1,
        };
        let mut out = Vec::new();
        header.encode(&mut out);
        assert_eq!(out.len(), BLOCK);
        assert_eq!(Header::parse(&first_block(&out)).unwrap(), header);
    }

    #[test]
    fn what_does_not_fit_goes_into_a_pax_header() {
        let header = Header {
            name: vec![b'n'; 300],
            uid: 1 << 21,
            size: 1 << 33,
            mtime: -1,
            ..Header::default()
        };
        let mut out = Vec::new();
        header.encode(&mut out);
        let extension = Header::parse(&first_block(&out)).unwrap();
        assert_eq!(extension.kind, b'x');
        let pax = &out[BLOCK..BLOCK + extension.size as usize];
        let found = records(pax).unwrap();
        assert_eq!(found[0], (&b"path"[..], &header.name[..]));
        assert_eq!(found[1], (&b"uid"[..], &b"2097152"[..]));
        assert_eq!(found[2], (&b"size"[..], &b"8589934592"[..]));
        assert_eq!(found[3], (&b"mtime"[..], &b"-1"[..]));
    }

    #[test]
    fn reads_binary_numbers_and_refuses_impossible_ones() {
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]).unwrap(), 1 << 32);
        assert_eq!(number(&[0xff; 12]).unwrap(), -1);
        assert_eq!(number(b" 644 \0").unwrap(), 0o644);
        assert_eq!(number(b"").unwrap(), 0);
        assert!(number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(number(b"12x").is_err());
    }

    #[test]
    fn record_lengths_count_their_own_digits() {
        for length in 0..1200 {
            let mut out = Vec::new();
            let value = vec![b'v'; length];
            record(&mut out, "path", &value);
            assert_eq!(records(&out).unwrap(), [(&b"path"[..], &value[..])]);
        }
        for bad in [
            &b"5 a=b"[..],
            b"x a=b\n",
            b"99 a=b\n",
            b"0 a=b\n",
            b"6 abc\n",
            b"+6 a=b\n",
        ] {
            assert!(records(bad).is_err(), "{bad:?}");
        }
    }
}
