//! Names and links that lead out of the destination, and a name that would lead out of its line of a message.

use super::ArchiveError;
use super::testing::{Tar, unpack_hostile};
use std::os::unix::fs::symlink;

#[test]
fn what_leads_out_is_refused_and_nothing_after_it_is_written() {
    let hostile: [(&str, Tar); 14] = [
        ("..", Tar::default().file("../outside/new", b"x")),
        ("inner ..", Tar::default().file("a/../../outside/new", b"x")),
        ("absolute", Tar::default().file("/tmp/capsule-never", b"x")),
        (
            "through an absolute link",
            Tar::default().symlink("l", "/tmp").file("l/capsule-never", b"x"),
        ),
        (
            "through a relative link",
            Tar::default().symlink("l", "../outside").file("l/new", b"x"),
        ),
        (
            "directory over a link",
            Tar::default().symlink("l", "../outside").dir("l"),
        ),
        (
            "through a link in a directory",
            Tar::default().dir("d").symlink("d/l", "../../outside").dir("d/l/new"),
        ),
        ("hard link out", Tar::default().hard_link("h", "../outside/secret")),
        ("hard link absolute", Tar::default().hard_link("h", "/etc/passwd")),
        (
            "hard link through a link",
            Tar::default().symlink("l", "../outside").hard_link("h", "l/secret"),
        ),
        ("no name", Tar::default().file("", b"x")),
        ("file as the destination", Tar::default().file(".", b"x")),
        ("unknown type", Tar::default().with(b'Z', "z", "", b"")),
        ("sparse", Tar::default().with(b'S', "s", "", b"")),
    ];
    for (name, tar) in hostile {
        let (result, found) = unpack_hostile(&tar.file("after", b"x").end(), |_| ());
        assert!(
            matches!(
                result,
                Err(ArchiveError::Refused { .. } | ArchiveError::FileInTheWay { .. })
            ),
            "{name}: {result:?}"
        );
        assert!(!found.contains_key("after"), "{name}");
    }
    let (result, _) = unpack_hostile(&Tar::default().file("l/new", b"x").end(), |into| {
        symlink("../outside", into.join("l")).unwrap()
    });
    assert!(
        matches!(result, Err(ArchiveError::Refused { .. })),
        "a link that was there before: {result:?}"
    );
}

#[test]
fn links_out_are_only_data() {
    let tar = Tar::default()
        .symlink("l", "../outside/secret")
        .file("l", b"replaced")
        .symlink("abs", "/etc/passwd");
    let (result, found) = unpack_hostile(&tar.end(), |_| ());
    result.unwrap();
    assert!(found["l"].ends_with("replaced"));
    assert_eq!(found["abs"], "-> /etc/passwd");
}

#[test]
fn messages_stay_on_one_line() {
    let (result, _) = unpack_hostile(&Tar::default().file("../a\nb\x1b[2J", b"").end(), |_| ());
    let message = result.unwrap_err().to_string();
    assert!(!message.contains(['\n', '\x1b']), "{message:?}");
}
