//! All log files belong to one thread: a disk that hangs then holds up log lines and nothing else, while PID 1 goes on
//! reaping, supervising and feeding the watchdog.
//!
//! Each service has one pipe for as long as PID 1 lives, whoever writes into it: no line is lost when it restarts.

use super::config::Config;
use capsule_payload::lines::LineSplitter;
use capsule_payload::rotating::{RotatingLog, Rotation};
use capsule_payload::time::Timestamp;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::Duration;

/// Longest log line of a service in bytes; longer ones are cut into several.
const MAX_LINE_BYTES: usize = 16 * 1024;
/// Room for output while the disk is slow, before a service has to wait (the default is 64 KiB).
const PIPE_BYTES: i32 = 1024 * 1024;
/// PID 1's own lines that may wait for the disk; more are dropped.
const QUEUE_LINES: usize = 1024;

enum Message {
    Line(String),
    /// The process of a service ended: its unfinished line, if any, is all that will come of it.
    EndLine(usize),
    Close(Sender<()>),
}

/// PID 1's side of the log thread.
pub struct Logger {
    messages: SyncSender<Message>,
    wake: Arc<EventFd>,
    /// Write ends of the services' pipes, in the order of the table.
    inputs: Vec<OwnedFd>,
}

impl Logger {
    /// Starts the thread. Without a thread (no memory) lines go to the console only, from the caller.
    pub fn start(config: &Config) -> nix::Result<Self> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (messages, queue) = sync_channel(QUEUE_LINES);
        let mut inputs = Vec::new();
        let mut sources = Vec::new();
        for spec in &config.services {
            let (output, input) = pipe2(OFlag::O_CLOEXEC)?;
            // Only the read end: a service must see an ordinary blocking pipe.
            fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            let _ = fcntl(&output, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
            inputs.push(input);
            sources.push(Source {
                pipe: File::from(output),
                lines: LineSplitter::new(MAX_LINE_BYTES),
                log: LogFile::new(config, &spec.name),
            });
        }
        let mut worker = Worker {
            queue,
            wake: Arc::clone(&wake),
            sources,
            own: LogFile::new(config, "init"),
            console: Console::open(),
            buffer: vec![0; 64 * 1024],
        };
        thread::Builder::new()
            .name("log".into())
            .stack_size(128 * 1024)
            .spawn(move || worker.run())
            .map_err(|_| nix::errno::Errno::EAGAIN)?;
        Ok(Self { messages, wake, inputs })
    }

    /// Writes a line into init's log and to the console.
    pub fn line(&self, text: String) {
        // When the disk hangs the queue is full: PID 1 must not wait, its line is dropped.
        self.send(Message::Line(text));
    }

    pub fn end_line(&self, service: usize) {
        self.send(Message::EndLine(service));
    }

    /// What a service gets as stdout and stderr.
    pub fn input(&self, service: usize) -> std::io::Result<OwnedFd> {
        self.inputs[service].try_clone()
    }

    /// Writes everything out and closes all files; gives up after `patience` when the disk hangs.
    pub fn close(&self, patience: Duration) {
        let (done, wait) = channel();
        self.send(Message::Close(done));
        let _ = wait.recv_timeout(patience);
    }

    fn send(&self, message: Message) {
        if let Ok(()) | Err(TrySendError::Full(_)) = self.messages.try_send(message) {
            let _ = self.wake.write(1);
        }
    }
}

struct Source {
    pipe: File,
    lines: LineSplitter,
    log: LogFile,
}

struct Worker {
    queue: Receiver<Message>,
    wake: Arc<EventFd>,
    sources: Vec<Source>,
    own: LogFile,
    console: Console,
    buffer: Vec<u8>,
}

impl Worker {
    fn run(&mut self) {
        loop {
            for index in self.readable() {
                self.drain(index);
            }
            while let Ok(message) = self.queue.try_recv() {
                match message {
                    Message::Line(text) => {
                        self.own.line(text.as_bytes());
                        self.own.flush();
                        self.console.line(&text);
                    }
                    Message::EndLine(index) => {
                        self.drain(index);
                        let source = &mut self.sources[index];
                        source.lines.finish(&mut |text, _| source.log.line(text));
                        source.log.flush();
                    }
                    Message::Close(done) => {
                        (0..self.sources.len()).for_each(|index| self.drain(index));
                        self.sources.clear();
                        self.own.close();
                        let _ = done.send(());
                    }
                }
            }
        }
    }

    /// Waits, and returns the services that have written something.
    fn readable(&mut self) -> Vec<usize> {
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            self.sources
                .iter()
                .map(|source| PollFd::new(source.pipe.as_fd(), PollFlags::POLLIN)),
        );
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            return Vec::new();
        }
        let ready = (1..fds.len())
            .filter(|index| fds[*index].any().unwrap_or(false))
            .map(|index| index - 1)
            .collect();
        let _ = self.wake.read();
        ready
    }

    fn drain(&mut self, index: usize) {
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        // A service that writes without end must not keep the others waiting: a pipe's worth at a time.
        for _ in 0..16 {
            match source.pipe.read(&mut self.buffer) {
                Ok(count) if count > 0 => {
                    source
                        .lines
                        .push(&self.buffer[..count], &mut |text, _| source.log.line(text));
                    source.log.flush();
                }
                _ => break,
            }
        }
    }
}

/// `<RFC 3339> <text>` lines in `<logDir>/<name>.log`.
struct LogFile {
    log: RotatingLog,
    batch: Vec<u8>,
    lines: u64,
}

impl LogFile {
    fn new(config: &Config, name: &str) -> Self {
        let rotation = Rotation {
            dir: config.log_dir.clone(),
            name: format!("{name}.log"),
            max_bytes: config.log_max_bytes,
            files: config.log_files,
        };
        let log = RotatingLog::new(rotation, |out, lost| {
            stamped(
                out,
                format!("capsule-init: {lost} lines were lost, the log could not be written").as_bytes(),
            );
        });
        Self {
            log,
            batch: Vec::new(),
            lines: 0,
        }
    }

    fn line(&mut self, text: &[u8]) {
        stamped(&mut self.batch, text);
        self.lines += 1;
        if self.batch.len() >= self.log.batch_bytes() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.log.write(&self.batch, self.lines);
        self.batch.clear();
        self.lines = 0;
    }

    fn close(&mut self) {
        self.flush();
        self.log.close();
    }
}

fn stamped(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&Timestamp::now().rfc3339());
    out.push(b' ');
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// Where a person may look: every console that the kernel writes to (a screen, a serial line), or whatever PID 1 was given
/// as stderr where there is none.
struct Console(Vec<File>);

impl Console {
    fn open() -> Self {
        let flags = OFlag::O_WRONLY | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        // Names in the order of preference, such as "tty0 ttyS0"; in a container the host's, whose devices are not there.
        let names = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
        let opened = |name: &str| {
            open(format!("/dev/{name}").as_str(), flags, Mode::empty())
                .map(File::from)
                .ok()
        };
        let mut files: Vec<File> = names.split_whitespace().filter_map(opened).collect();
        if files.is_empty() {
            let stderr = || std::io::stderr().as_fd().try_clone_to_owned().map(File::from).ok();
            files.extend(opened("console").or_else(stderr));
        }
        Self(files)
    }

    /// Best effort: a console that takes no line (a full pipe, a paused terminal) is passed over.
    fn line(&mut self, text: &str) {
        for console in &mut self.0 {
            let writable = {
                let mut fds = [PollFd::new(console.as_fd(), PollFlags::POLLOUT)];
                poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].revents() == Some(PollFlags::POLLOUT)
            };
            if writable {
                let _ = console.write_all(format!("capsule-init: {text}\r\n").as_bytes());
            }
        }
    }
}
