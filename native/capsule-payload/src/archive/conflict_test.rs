//! Entries that meet what is there already.

use super::ArchiveError;
use super::testing::{Tar, unpack_hostile, unpack_to};
use crate::scratch::Scratch;
use std::fs;

#[test]
fn a_write_to_a_hard_link_changes_one_name_only() {
    let tar = Tar::default().hard_link("new", "old").file("new", b"changed");
    let (result, found) = unpack_hostile(&tar.end(), |into| fs::write(into.join("old"), "kept").unwrap());
    result.unwrap();
    assert!(found["old"].ends_with("kept") && found["new"].ends_with("changed"));
    let again = Tar::default()
        .file("a", b"x")
        .hard_link("b", "a")
        .hard_link("b", "a")
        .hard_link("a", "a");
    unpack_hostile(&again.end(), |_| ()).0.unwrap();
}

#[test]
fn conflicts_are_named() {
    let over_dir = unpack_hostile(&Tar::default().file("d", b"x").end(), |into| {
        fs::create_dir(into.join("d")).unwrap()
    });
    assert!(
        matches!(over_dir.0, Err(ArchiveError::DirectoryInTheWay { .. })),
        "{:?}",
        over_dir.0
    );
    let over_file = unpack_hostile(&Tar::default().dir("f").end(), |into| {
        fs::write(into.join("f"), "kept").unwrap()
    });
    assert!(
        matches!(over_file.0, Err(ArchiveError::FileInTheWay { .. })),
        "{:?}",
        over_file.0
    );
    assert!(over_file.1["f"].ends_with("kept"));
    let scratch = Scratch::new("no-dir");
    fs::write(scratch.path().join("file"), "").unwrap();
    let tar = Tar::default().file("a", b"").end();
    assert!(matches!(
        unpack_to(&tar, &scratch.path().join("file")),
        Err(ArchiveError::NotADirectory { .. })
    ));
    assert!(matches!(
        unpack_to(&tar, &scratch.path().join("none")),
        Err(ArchiveError::NotFound { .. })
    ));
}
