//! Archives in, trees out, and the other way round: honest ones come through whole, hostile ones change nothing outside.

use super::header::{BLOCK, Header};
use super::{ArchiveError, Kind, UnpackOptions, Unpacked, pack, stat, unpack};
use crate::scratch::Scratch;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

/// Builds archives, also those that no honest tool would write.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn with(mut self, kind: u8, name: &str, link: &str, data: &[u8]) -> Self {
        let header = Header {
            kind,
            name: name.into(),
            link: link.into(),
            mode: 0o644,
            size: data.len() as u64,
            ..Header::default()
        };
        header.encode(&mut self.0);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.with(b'0', name, "", data)
    }

    fn dir(self, name: &str) -> Self {
        self.with(b'5', name, "", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.with(b'2', name, target, b"")
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.with(b'1', name, target, b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

fn unpack_with(tar: &[u8], into: &Path, options: &UnpackOptions) -> Result<Unpacked, ArchiveError> {
    unpack(tar, into, options, &AtomicBool::new(false))
}

fn unpack_to(tar: &[u8], into: &Path) -> Result<Unpacked, ArchiveError> {
    unpack_with(tar, into, &UnpackOptions::default())
}

fn pack_path(path: &Path) -> (Vec<u8>, Vec<String>) {
    let (mut tar, mut notices) = (Vec::new(), Vec::new());
    pack(path, &mut tar, &mut |text| notices.push(text)).unwrap();
    (tar, notices)
}

/// Everything below a directory: type, mode, text.
fn tree(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let mode = meta.mode() & 0o7777;
            let text = if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_file() {
                format!(
                    "{mode:o} {} {}",
                    meta.mtime(),
                    String::from_utf8_lossy(&fs::read(&path).unwrap())
                )
            } else {
                format!(
                    "{mode:o} {} {}",
                    meta.mtime(),
                    if kind.is_fifo() { "fifo" } else { "dir" }
                )
            };
            found.insert(name, text);
            if kind.is_dir() {
                walk(root, &path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

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
    assert_eq!(pack_path(&source).0, tar, "the same tree gives the same bytes");
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

/// Unpacks into `root/into`, beside which lies `root/outside`, and checks that nothing but `into` has changed and that no
/// temporary file is left.
fn unpack_hostile(tar: &[u8], prepare: impl Fn(&Path)) -> (Result<Unpacked, ArchiveError>, BTreeMap<String, String>) {
    let scratch = Scratch::new("hostile");
    let (into, outside) = (scratch.path().join("into"), scratch.path().join("outside"));
    fs::create_dir(&into).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "untouched").unwrap();
    prepare(&into);
    let before = tree(&outside);
    let options = UnpackOptions {
        max_bytes: Some(1 << 20),
        max_entries: Some(1000),
        ..UnpackOptions::default()
    };
    let result = unpack_with(tar, &into, &options);
    assert_eq!(tree(&outside), before);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
    let found = tree(&into);
    assert!(!found.keys().any(|name| name.contains(".capsule-unpack")), "{found:?}");
    (result, found)
}

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

#[test]
fn a_cut_archive_leaves_the_old_file() {
    let tar = Tar::default().file("whole", b"1").file("f", &[b'n'; 5000]).end();
    let keep = |into: &Path| fs::write(into.join("f"), "old").unwrap();
    for length in (1..tar.len()).step_by(100).chain([512, 1024, tar.len() - 512]) {
        let (result, found) = unpack_hostile(&tar[..length], keep);
        assert!(matches!(result, Err(ArchiveError::Truncated)), "{length}: {result:?}");
        assert!(found["f"].ends_with("old") || length > 2 * BLOCK + BLOCK + 5000);
    }
    assert!(matches!(unpack_hostile(b"", keep).0, Err(ArchiveError::Truncated)));
}

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

#[test]
fn messages_stay_on_one_line() {
    let (result, _) = unpack_hostile(&Tar::default().file("../a\nb\x1b[2J", b"").end(), |_| ());
    let message = result.unwrap_err().to_string();
    assert!(!message.contains(['\n', '\x1b']), "{message:?}");
}

/// Damages good archives at random and checks what [`unpack_hostile`] checks. `CAPSULE_SEED` repeats a run.
#[test]
fn random_damage_never_leads_out() {
    let seed = std::env::var("CAPSULE_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_nanos() as u64
        });
    println!("CAPSULE_SEED={seed}");
    let mut state = seed | 1;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let names = [
        "a",
        "b/c",
        "b",
        "l",
        "l/x",
        "./d/e",
        "..",
        "../outside/secret",
        "/abs",
        "b/../../o",
        "d//e/",
        ".",
    ];
    let targets = [
        "a",
        "..",
        "../outside",
        "../outside/secret",
        "/etc/passwd",
        "b/c",
        "l/secret",
        "",
    ];
    let kinds = b"00001222555x6L";
    for _ in 0..400 {
        let mut tar = Tar::default();
        for _ in 0..random(12) {
            let data = vec![b'z'; random(1500)];
            let kind = kinds[random(kinds.len())];
            let body: &[u8] = if matches!(kind, b'0' | b'x' | b'L') { &data } else { b"" };
            tar = tar.with(kind, names[random(names.len())], targets[random(targets.len())], body);
        }
        let mut bytes = tar.end();
        for _ in 0..random(4) {
            let position = random(bytes.len());
            bytes[position] = random(256) as u8;
            // Half of the damaged headers get a right checksum again, or most damage would be found at once.
            let block = position / BLOCK * BLOCK;
            if random(2) == 0 && bytes[block + 257..block + 262] == *b"ustar" {
                let sum: u32 = (0..BLOCK)
                    .map(|at| {
                        if (148..156).contains(&at) {
                            32
                        } else {
                            u32::from(bytes[block + at])
                        }
                    })
                    .sum();
                bytes[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        if random(5) == 0 {
            bytes.truncate(random(bytes.len()));
        }
        let _ = unpack_hostile(&bytes, |into| symlink("../outside", into.join("l")).unwrap());
    }
}
