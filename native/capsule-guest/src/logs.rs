//! The payload's output, line by line in the form of CRI, kept until the capsule has written it. Every line has a later time
//! than the one before, so a time says what is known. Nothing is lost and nothing is sent twice to the same stream; when too
//! much is kept, reading stops, and with it the payload's writes.

use crate::streams::Pipe;
use capsule_payload::cri::{MAX_LINE_BYTES, Stream, append_line};
use capsule_payload::lines::{Ending, LineSplitter};
use capsule_payload::time::Timestamp;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes that are kept before reading stops.
const MAX_KEPT: usize = 1024 * 1024;
/// Bytes of one answer, about.
const BATCH: usize = 256 * 1024;
/// Bytes that are read at once.
const CHUNK: usize = 32 * 1024;
/// An empty line is one byte of output, and this with its stamp.
const LINE_OVERHEAD: usize = 41;
const NANOS: u64 = 1_000_000_000;

/// Nanoseconds since 1970.
pub type Time = u64;

#[derive(Clone, Default)]
pub struct Logs {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Lines came, or the end did.
    more: Notify,
    /// Lines went.
    room: Notify,
}

#[derive(Default)]
struct State {
    lines: VecDeque<(Time, Vec<u8>)>,
    bytes: usize,
    last: Time,
    open_streams: u32,
    payload_ended: bool,
    /// The number of the stream that may read: the newest.
    reader: u64,
}

/// What a reader gets next.
pub enum Next {
    Lines {
        lines: Vec<u8>,
        last: Time,
    },
    /// Both streams of the payload have ended, and all was given.
    End,
    /// Another reader has come.
    Replaced,
}

impl Logs {
    /// Lines that come get later times than this.
    pub fn begin_after(&self, time: Time) {
        let mut state = self.lock();
        state.last = state.last.max(time);
    }

    /// Takes over one stream of the payload until it ends.
    pub fn take(&self, stream: Stream, pipe: Pipe) {
        self.lock().open_streams += 1;
        let logs = self.clone();
        tokio::spawn(async move { logs.follow(stream, pipe).await });
    }

    async fn follow(&self, stream: Stream, mut pipe: Pipe) {
        let mut splitter = LineSplitter::new(MAX_LINE_BYTES);
        let mut buffer = vec![0; CHUNK];
        loop {
            let room = self.room().await;
            match pipe.read(&mut buffer[..room]).await {
                Ok(0) | Err(_) => break,
                Ok(count) => splitter.push(&buffer[..count], &mut |text, ending| self.push(stream, text, ending)),
            }
        }
        splitter.finish(&mut |text, ending| self.push(stream, text, ending));
        self.lock().open_streams -= 1;
        self.shared.more.notify_waiters();
    }

    fn push(&self, stream: Stream, text: &[u8], ending: Ending) {
        let mut state = self.lock();
        let now = nanos(Timestamp::now());
        let time = now.max(state.last + 1);
        let mut line = Vec::with_capacity(LINE_OVERHEAD + text.len());
        append_line(&mut line, stamp(time), stream, ending, text);
        state.last = time;
        state.bytes += line.len();
        state.lines.push_back((time, line));
        drop(state);
        self.shared.more.notify_waiters();
    }

    /// The payload's first process has ended: what its streams still hold is the last of it.
    pub fn payload_ended(&self) {
        self.lock().payload_ended = true;
        self.shared.more.notify_waiters();
    }

    /// Waits until there is room, and says how many bytes of output surely go into it.
    async fn room(&self) -> usize {
        loop {
            let waiting = self.shared.room.notified();
            tokio::pin!(waiting);
            waiting.as_mut().enable();
            let bytes = self.lock().bytes;
            if bytes < MAX_KEPT {
                return ((MAX_KEPT - bytes) / LINE_OVERHEAD).clamp(1, CHUNK);
            }
            waiting.await;
        }
    }

    /// A new reader, who ends the one before.
    pub fn reader(&self) -> u64 {
        let mut state = self.lock();
        state.reader += 1;
        let number = state.reader;
        drop(state);
        self.shared.more.notify_waiters();
        number
    }

    /// Everything up to this time has been written elsewhere.
    pub fn forget(&self, known: Time) {
        let mut state = self.lock();
        while state.lines.front().is_some_and(|(time, _)| *time <= known) {
            let gone = state.lines.pop_front().map_or(0, |(_, line)| line.len());
            state.bytes -= gone;
        }
        drop(state);
        self.shared.room.notify_waiters();
    }

    /// Lines later than `after`, when there are any.
    pub async fn next(&self, reader: u64, after: Time) -> Next {
        loop {
            let waiting = self.shared.more.notified();
            tokio::pin!(waiting);
            // Registered before looking: what comes in between must wake this.
            waiting.as_mut().enable();
            {
                let state = self.lock();
                if state.reader != reader {
                    return Next::Replaced;
                }
                let first = state.lines.partition_point(|(time, _)| *time <= after);
                let mut lines = Vec::new();
                let mut last = after;
                for (time, line) in state.lines.range(first..) {
                    if !lines.is_empty() && lines.len() + line.len() > BATCH {
                        break;
                    }
                    lines.extend_from_slice(line);
                    last = *time;
                }
                if !lines.is_empty() {
                    return Next::Lines { lines, last };
                }
                if state.open_streams == 0 && state.payload_ended {
                    return Next::End;
                }
            }
            waiting.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanos(time: Timestamp) -> Time {
    time.seconds * NANOS + u64::from(time.nanoseconds)
}

fn stamp(time: Time) -> Timestamp {
    Timestamp {
        seconds: time / NANOS,
        nanoseconds: u32::try_from(time % NANOS).unwrap_or(0),
    }
}

/// From a message of the interface; what lies before 1970 is 0.
pub fn time_of(time: &prost_types::Timestamp) -> Time {
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    seconds.saturating_mul(NANOS) + u64::try_from(time.nanos).unwrap_or(0)
}

/// For a message of the interface.
pub fn timestamp_of(time: Time) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(time / NANOS).unwrap_or(i64::MAX),
        nanos: i32::try_from(time % NANOS).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(lines: &[&str]) -> Logs {
        let logs = Logs::default();
        logs.begin_after(1_000 * NANOS);
        logs.lock().open_streams = 1;
        for line in lines {
            logs.push(Stream::Stdout, line.as_bytes(), Ending::Full);
        }
        logs
    }

    async fn text(logs: &Logs, reader: u64, after: Time) -> (String, Time) {
        match logs.next(reader, after).await {
            Next::Lines { lines, last } => (String::from_utf8_lossy(&lines).into_owned(), last),
            Next::End => ("end".into(), after),
            Next::Replaced => ("replaced".into(), after),
        }
    }

    #[tokio::test]
    async fn each_line_is_later_than_the_one_before() {
        let logs = with(&["a", "b"]);
        let ahead = 4_000_000_000 * NANOS;
        logs.begin_after(ahead);
        logs.push(Stream::Stderr, b"c", Ending::Partial);
        let (found, last) = text(&logs, logs.reader(), 0).await;
        assert_eq!(last, ahead + 1);
        let lines: Vec<_> = found.lines().collect();
        assert!(lines[0] < lines[1] && lines[1] < lines[2], "{found}");
        assert!(lines[0].ends_with(" stdout F a") && lines[2].ends_with(" stderr P c"));
    }

    #[tokio::test]
    async fn a_reader_goes_on_where_another_has_stopped() {
        let logs = with(&["a", "b"]);
        let first = logs.reader();
        let (_, last) = text(&logs, first, 0).await;
        logs.push(Stream::Stdout, b"c", Ending::Full);
        let second = logs.reader();
        assert_eq!(text(&logs, first, last).await.0, "replaced");
        assert!(text(&logs, second, last).await.0.ends_with(" F c\n"));
        // Nothing was acknowledged: all of it can be had again.
        assert_eq!(text(&logs, second, 0).await.0.lines().count(), 3);
    }

    #[tokio::test]
    async fn what_is_known_is_forgotten_and_the_end_is_told() {
        let logs = with(&["a"]);
        let reader = logs.reader();
        let (_, last) = text(&logs, reader, 0).await;
        logs.forget(last);
        assert_eq!(logs.lock().bytes, 0);
        logs.lock().open_streams = 0;
        logs.payload_ended();
        assert_eq!(text(&logs, reader, last).await.0, "end");
    }
}
