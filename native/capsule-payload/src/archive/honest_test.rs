//! Honest trees come through whole, between us and between us and GNU tar; paths mean what `cp` needs them to mean.

use super::testing::{pack_path, tree, unpack_to, unpack_with};
use super::{ArchiveError, Kind, UnpackOptions, pack, stat};
use crate::scratch::Scratch;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;

#[test]
fn a_tree_comes_back_as_it_was() {
    let scratch = Scratch::new("round");
    let source = scratch.path().join("src");
    let deep = source
        .join("a")
        .join("long-directory-name-".repeat(6))
        .join("long-file-name-".repeat(8));
    fs::create_dir_all(deep.parent().unwrap()).unwrap();
    fs::write(&deep, "deep").unwrap();
    fs::write(source.join("script"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(source.join("script"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(source.join("empty"), "").unwrap();
    fs::hard_link(source.join("script"), source.join("twin")).unwrap();
    symlink("/etc/passwd", source.join("outward")).unwrap();
    symlink("x".repeat(300), source.join("long-link")).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(source.join("pipe"))
            .status()
            .unwrap()
            .success()
    );
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    assert!(
        Command::new("touch")
            .args(["-d", "2001-02-03 04:05:06Z"])
            .arg(source.join("a"))
            .status()
            .unwrap()
            .success()
    );

    let (tar, notices) = pack_path(&source);
    assert_eq!(notices, ["src/socket: a socket, left out"]);
    fs::remove_file(source.join("socket")).unwrap();
    // The removal is a change of the directory, maybe in the next second.
    let without_socket = pack_path(&source).0;
    let target = scratch.path().join("target");
    fs::create_dir(&target).unwrap();
    unpack_to(&tar, &target).unwrap();
    let mut expected = tree(&source);
    let mut found = tree(&target.join("src"));
    // A fifo's time is not kept track of by anybody; everything else is equal.
    assert!(expected.remove("pipe").is_some() && found.remove("pipe").is_some());
    assert_eq!(found, expected);
    let inode = |name: &str| fs::metadata(target.join("src").join(name)).unwrap().ino();
    assert_eq!(inode("script"), inode("twin"));
    assert!(fs::metadata(target.join("src/pipe")).unwrap().file_type().is_fifo());
    assert!(
        pack_path(&source).0 == without_socket,
        "the same tree gives the same bytes"
    );
}

#[test]
fn gnu_tar_and_we_read_each_other() {
    let scratch = Scratch::new("gnu");
    let source = scratch.path().join("src");
    fs::create_dir_all(source.join("dir/".to_owned() + &"n".repeat(120))).unwrap();
    fs::write(source.join("dir/file"), [7; 1500]).unwrap();
    symlink("t".repeat(150), source.join("dir/link")).unwrap();
    fs::hard_link(source.join("dir/file"), source.join("dir/twin")).unwrap();
    for format in ["gnu", "pax", "ustar"] {
        let target = scratch.path().join(format);
        fs::create_dir(&target).unwrap();
        let mut command = Command::new("tar");
        if format == "ustar" {
            // It cannot hold the long ones.
            command.args(["--exclude=link", "--exclude=nnn*"]);
        }
        command
            .args(["--format", format, "-cf-", "-C"])
            .arg(scratch.path())
            .arg("src");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        unpack_to(&output.stdout, &target).unwrap();
        if format != "ustar" {
            assert_eq!(tree(&target.join("src")), tree(&source), "{format}");
        }
    }
    let (tar, _) = pack_path(&source);
    let (archive, out) = (scratch.path().join("ours.tar"), scratch.path().join("out"));
    fs::write(&archive, tar).unwrap();
    fs::create_dir(&out).unwrap();
    let status = Command::new("tar")
        .arg("-xpf")
        .arg(&archive)
        .arg("-C")
        .arg(&out)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(tree(&out.join("src")), tree(&source));
}

#[test]
fn names_of_the_first_entry_and_rename() {
    let scratch = Scratch::new("names");
    let source = scratch.path().join("src");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "text").unwrap();
    fs::hard_link(source.join("file"), source.join("twin")).unwrap();
    symlink("src", scratch.path().join("link")).unwrap();
    let options = UnpackOptions {
        rename: Some(b"new".to_vec()),
        ..UnpackOptions::default()
    };
    let cases = [
        ("src", "new/file"),
        ("src/", "new/file"),
        ("src/.", "new/file"),
        ("src/file", "new"),
        ("link/", "new/file"),
    ];
    for (number, (path, expected)) in cases.into_iter().enumerate() {
        let target = scratch.path().join(number.to_string());
        fs::create_dir(&target).unwrap();
        let (tar, _) = pack_path(&scratch.path().join(path));
        unpack_with(&tar, &target, &options).unwrap();
        assert_eq!(fs::read(target.join(expected)).unwrap(), b"text", "{path}");
    }
    let (tar, _) = pack_path(&scratch.path().join("src/."));
    let merged = scratch.path().join("merged");
    fs::create_dir(&merged).unwrap();
    fs::set_permissions(&merged, fs::Permissions::from_mode(0o1777)).unwrap();
    unpack_to(&tar, &merged).unwrap();
    assert!(merged.join("file").exists());
    assert_eq!(
        fs::metadata(&merged).unwrap().mode() & 0o7777,
        0o1777,
        "the destination keeps its mode"
    );
    let (tar, _) = pack_path(&scratch.path().join("link"));
    assert_eq!(tar[156], b'2', "a link is packed as a link");
    assert!(matches!(
        pack(&scratch.path().join("no"), Vec::new(), &mut |_| ()),
        Err(ArchiveError::NotFound { .. })
    ));
}

#[test]
fn stat_tells_what_a_link_leads_to() {
    let scratch = Scratch::new("stat");
    fs::create_dir(scratch.path().join("dir")).unwrap();
    symlink("dir", scratch.path().join("link")).unwrap();
    symlink("nowhere", scratch.path().join("dangling")).unwrap();
    let link = stat(&scratch.path().join("link")).unwrap();
    assert_eq!(
        (link.kind, link.link_target, link.target_kind),
        (Kind::Symlink, Some(b"dir".to_vec()), Some(Kind::Directory))
    );
    assert_eq!(stat(&scratch.path().join("dangling")).unwrap().target_kind, None);
    assert!(matches!(
        stat(&scratch.path().join("none")),
        Err(ArchiveError::NotFound { .. })
    ));
}
