//! Archives cut off or damaged on their way, by chance or by somebody.

use super::ArchiveError;
use super::header::BLOCK;
use super::testing::{Tar, unpack_hostile};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

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
