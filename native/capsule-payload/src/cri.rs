//! Logs of payloads in the line format of Kubernetes' CRI: `<RFC 3339 nano> stdout|stderr F|P <text>`.

use crate::lines::{Ending, LineSplitter};
use crate::rotating::{RotatingLog, Rotation};
use crate::time::Timestamp;

/// Longest text of one line in bytes; longer ones are cut into `P` lines and a last `F` line (CRI's own limit).
pub const MAX_LINE_BYTES: usize = 16 * 1024;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn tag(self) -> &'static [u8] {
        match self {
            Stream::Stdout => b" stdout ",
            Stream::Stderr => b" stderr ",
        }
    }
}

/// Writes both streams of a payload into one rotating log, with one write per burst.
#[derive(Debug)]
pub struct CriLog {
    stdout: LineSplitter,
    stderr: LineSplitter,
    batch: Batch,
}

#[derive(Debug)]
struct Batch {
    text: Vec<u8>,
    lines: u64,
    log: RotatingLog,
}

impl CriLog {
    /// A log at `rotation`; the file is opened by the first line.
    pub fn new(rotation: Rotation) -> Self {
        Self {
            stdout: LineSplitter::new(MAX_LINE_BYTES),
            stderr: LineSplitter::new(MAX_LINE_BYTES),
            batch: Batch {
                text: Vec::new(),
                lines: 0,
                log: RotatingLog::new(rotation, loss_notice),
            },
        }
    }

    /// Takes one burst of a stream; all its lines carry the time of this call. Returns when they are written (or lost
    /// and counted): an incomplete last line is held back.
    pub fn push(&mut self, stream: Stream, data: &[u8]) {
        let now = Timestamp::now();
        let batch = &mut self.batch;
        let splitter = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        splitter.push(data, &mut |text, ending| batch.line(now, stream, ending, text));
        batch.flush();
    }

    /// The stream is at its end: a last line without a newline is written as a full one.
    pub fn finish(&mut self, stream: Stream) {
        let now = Timestamp::now();
        let batch = &mut self.batch;
        let splitter = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        splitter.finish(&mut |text, ending| batch.line(now, stream, ending, text));
        batch.flush();
    }
}

impl Batch {
    fn line(&mut self, now: Timestamp, stream: Stream, ending: Ending, text: &[u8]) {
        append_line(&mut self.text, now, stream, ending, text);
        self.lines += 1;
        if self.text.len() >= self.log.batch_bytes() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.log.write(&self.text, self.lines);
        self.text.clear();
        self.lines = 0;
    }
}

/// Appends one line in that form.
pub fn append_line(out: &mut Vec<u8>, now: Timestamp, stream: Stream, ending: Ending, text: &[u8]) {
    out.extend_from_slice(&now.rfc3339());
    out.extend_from_slice(stream.tag());
    out.extend_from_slice(match ending {
        Ending::Full => b"F ",
        Ending::Partial => b"P ",
    });
    out.extend_from_slice(text);
    out.push(b'\n');
}

fn loss_notice(out: &mut Vec<u8>, lost: u64) {
    let text = format!("capsule: {lost} log lines were lost, the log could not be written");
    append_line(out, Timestamp::now(), Stream::Stderr, Ending::Full, text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::fs;

    fn without_stamps(text: &str) -> Vec<&str> {
        text.lines().map(|line| line.split_once(' ').unwrap().1).collect()
    }

    fn rotation(scratch: &Scratch, max_bytes: u64) -> Rotation {
        Rotation {
            dir: scratch.path().to_path_buf(),
            name: "current.log".into(),
            max_bytes,
            files: 3,
        }
    }

    #[test]
    fn writes_both_streams_and_ends_the_last_line() {
        let scratch = Scratch::new("cri");
        let mut log = CriLog::new(rotation(&scratch, 1 << 20));
        log.push(Stream::Stdout, b"one\ntw");
        log.push(Stream::Stderr, b"oops\n");
        log.push(Stream::Stdout, b"o\nrest");
        log.finish(Stream::Stdout);
        log.finish(Stream::Stderr);
        let text = fs::read_to_string(scratch.path().join("current.log")).unwrap();
        assert_eq!(
            without_stamps(&text),
            ["stdout F one", "stderr F oops", "stdout F two", "stdout F rest"]
        );
        let stamp = text.split(' ').next().unwrap();
        assert_eq!((stamp.len(), &stamp[19..20], &stamp[29..]), (30, ".", "Z"));
    }

    #[test]
    fn cuts_long_lines_as_cri_does() {
        let scratch = Scratch::new("cri-long");
        let mut log = CriLog::new(rotation(&scratch, 1 << 20));
        log.push(Stream::Stdout, &[b'x'; MAX_LINE_BYTES]);
        log.push(Stream::Stdout, b"\n");
        log.push(Stream::Stdout, &[b'y'; MAX_LINE_BYTES + 1]);
        log.push(Stream::Stdout, b"\n");
        let text = fs::read_to_string(scratch.path().join("current.log")).unwrap();
        let shape: Vec<_> = without_stamps(&text)
            .iter()
            .map(|line| (&line[..8], line.len() - 9))
            .collect();
        assert_eq!(
            shape,
            [
                ("stdout F", MAX_LINE_BYTES),
                ("stdout P", MAX_LINE_BYTES),
                ("stdout F", 1)
            ]
        );
    }

    #[test]
    fn no_line_is_lost_or_torn_by_rotation() {
        let scratch = Scratch::new("cri-rotate");
        let mut log = CriLog::new(Rotation {
            files: 1000,
            ..rotation(&scratch, 500)
        });
        let burst: String = (0..1000).map(|number| format!("line {number}\n")).collect();
        for chunk in burst.as_bytes().chunks(333) {
            log.push(Stream::Stdout, chunk);
        }
        let mut files: Vec<_> = fs::read_dir(scratch.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(files.len() > 50);
        files.sort_by_key(|path| {
            let extension = path.extension().unwrap().to_str().unwrap().to_owned();
            std::cmp::Reverse(extension.parse::<u32>().unwrap_or(0))
        });
        let text: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        let expected: Vec<_> = (0..1000).map(|number| format!("stdout F line {number}")).collect();
        assert_eq!(without_stamps(&text), expected);
    }
}
