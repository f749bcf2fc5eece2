//! Too much of something: bytes, entries, depth, zeros.

use super::header::Header;
use super::testing::{Tar, unpack_hostile, unpack_to};
use super::{ArchiveError, UnpackOptions, unpack};
use crate::scratch::Scratch;
use std::io::Read;
use std::sync::atomic::AtomicBool;

#[test]
fn limits_are_kept_before_anything_is_written() {
    let zeros = vec![0; (1 << 20) + 1];
    let (result, found) = unpack_hostile(&Tar::default().file("big", &zeros).end(), |_| ());
    assert!(matches!(result, Err(ArchiveError::TooLarge { .. })) && found.is_empty());
    let many = (0..1001)
        .fold(Tar::default(), |tar, number| tar.dir(&number.to_string()))
        .end();
    assert!(matches!(
        unpack_hostile(&many, |_| ()).0,
        Err(ArchiveError::TooManyEntries { .. })
    ));
    let deep = Tar::default().file(&"d/".repeat(1000), b"").end();
    assert!(matches!(
        unpack_hostile(&deep, |_| ()).0,
        Err(ArchiveError::Refused { .. })
    ));
    let huge = Header {
        kind: b'x',
        size: 1 << 40,
        name: b"x".to_vec(),
        ..Header::default()
    };
    let mut tar = Vec::new();
    huge.encode(&mut tar);
    assert!(unpack_hostile(&tar, |_| ()).0.is_err());
}

#[test]
fn an_endless_stream_of_zeros_is_no_archive() {
    let scratch = Scratch::new("zeros");
    let cancelled = AtomicBool::new(false);
    let mut read = 0_u64;
    struct Counted<'a>(&'a mut u64);
    impl Read for Counted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            buffer.fill(0);
            *self.0 += buffer.len() as u64;
            Ok(buffer.len())
        }
    }
    let result = unpack(
        Counted(&mut read),
        scratch.path(),
        &UnpackOptions::default(),
        &cancelled,
    );
    assert!(matches!(result, Err(ArchiveError::Malformed(_))), "{result:?}");
    assert!(read < 2 << 20, "{read} bytes read");
    assert!(matches!(
        unpack_to(&Tar::default().end(), scratch.path()),
        Err(ArchiveError::Empty)
    ));
}
