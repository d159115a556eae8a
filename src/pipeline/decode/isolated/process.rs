//! The worker's side of an isolated decoder's process: every wait for it is bounded, and no process outlives its owner.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;

use super::super::picture::{Reserve, Settings};
use super::ARGUMENT;
use super::protocol::{GO, Head, MAX_REFUSAL, NO, Request, parse_refusal};
use crate::failure::Failure;
use crate::model::frame::Frame;

/// Time limit for a process to become ready.
const START: Duration = Duration::from_secs(10);

/// Capacity of each pipe, so that a row is not passed on by the page. 1 MiB, which every user may have.
#[cfg(target_os = "linux")]
const PIPE: usize = 1 << 20;

/// Signals that a process causes itself: SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGXCPU, SIGSYS.
const OWN_SIGNALS: [(i32, &str); 8] = [
    (4, "SIGILL"),
    (5, "SIGTRAP"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (11, "SIGSEGV"),
    (24, "SIGXCPU"),
    (31, "SIGSYS"),
];

/// This program as an isolated decoder, with an empty environment.
pub(super) fn own_program() -> Command {
    // This program, even if it was replaced on disk.
    #[cfg(target_os = "linux")]
    let program = "/proc/self/exe";
    #[cfg(not(target_os = "linux"))]
    let program = std::env::current_exe().unwrap_or_default();
    let mut command = Command::new(program);
    command.arg0("tagmill").arg(ARGUMENT).env_clear();
    #[cfg(debug_assertions)]
    if let Some(value) = std::env::var_os(super::super::test_picture::SWITCH) {
        command.env(super::super::test_picture::SWITCH, value);
    }
    command
}

/// Reason why a process gave no answer.
#[derive(Debug)]
pub(super) enum Lost {
    /// Its pipes are closed.
    Closed,
    /// The time limit passed.
    TimedOut,
    /// It answered something else.
    Garbled,
}

/// End of a process.
#[derive(Debug)]
pub(super) enum End {
    /// By its own doing.
    Itself(String),
    /// By a signal that others send.
    FromOutside(i32),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Itself(how) => f.write_str(how),
            Self::FromOutside(signal) => write!(f, "killed from outside by signal {signal}"),
        }
    }
}

/// A process, killed and reaped on drop.
pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    is_fresh: bool,
}

impl Process {
    /// Starts a process and waits until it is ready.
    ///
    /// # Errors
    /// If it can't be started, or is not ready in time.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        // A process group of its own, because an interrupt from the terminal is for the worker.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0).current_dir("/");
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("it has no pipes"));
        };
        let mut process = Self { child, input, output, is_fresh: true };
        fcntl_setfl(&process.input, OFlags::NONBLOCK)?;
        fcntl_setfl(&process.output, OFlags::NONBLOCK)?;
        #[cfg(target_os = "linux")]
        for pipe in [process.input.as_fd(), process.output.as_fd()] {
            // Fails if the user has too many pipes. This one is only slower then.
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE);
        }
        match process.head(Instant::now() + START) {
            Ok(Head::Hello) => Ok(process),
            Err(Lost::TimedOut) => Err(io::Error::other(format!("it was not ready after {START:?}"))),
            _ => {
                let _ = process.child.kill();
                Err(io::Error::other(format!("it ended before it was ready: {}", process.child.wait()?)))
            }
        }
    }

    /// Returns `true` if it has received no image yet.
    pub(super) const fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Returns the row of an image, or its refusal.
    ///
    /// # Errors
    /// If the process gives no answer. It can't be used any more then.
    pub(super) fn row(
        &mut self,
        (settings, frame): (&Settings, Frame),
        encoded: &[u8],
        reserve: Reserve<'_>,
        time_limit: Duration,
    ) -> Result<Result<Box<[u8]>, Failure>, Lost> {
        self.is_fresh = false;
        let deadline = Instant::now() + time_limit;
        let request = Request { settings: settings.clone(), frame, length: encoded.len() as u64 };
        self.write(&request.to_bytes(), deadline)?;
        self.write(encoded, deadline)?;
        let bytes = match self.head(deadline)? {
            Head::Needs(bytes) => bytes,
            Head::Refused(length) => return self.refusal(length, deadline).map(Err),
            _ => return Err(Lost::Garbled),
        };
        let reserved = reserve(bytes);
        let deadline = Instant::now() + time_limit;
        self.write(&[if reserved.is_ok() { GO } else { NO }], deadline)?;
        match (self.head(deadline)?, reserved) {
            (Head::Row(length), Ok(())) if length == frame.row_bytes() as u64 => {
                let mut row = vec![0; frame.row_bytes()];
                self.read(&mut row, deadline)?;
                Ok(Ok(row.into_boxed_slice()))
            }
            (Head::Refused(length), reserved) => {
                let refusal = self.refusal(length, deadline)?;
                Ok(Err(reserved.err().unwrap_or(refusal)))
            }
            _ => Err(Lost::Garbled),
        }
    }

    /// Kills and reaps it.
    pub(super) fn end(mut self, lost: Lost, time_limit: Duration) -> End {
        // A process that is ending already keeps its status.
        let _ = self.child.kill();
        let status = self.child.wait();
        match (lost, status) {
            (Lost::TimedOut, _) => End::Itself(format!("no answer after {time_limit:?}")),
            (Lost::Garbled, _) => End::Itself("an answer that is none".into()),
            (Lost::Closed, Ok(status)) => end_of(status),
            (Lost::Closed, Err(error)) => End::Itself(error.to_string()),
        }
    }

    fn head(&mut self, deadline: Instant) -> Result<Head, Lost> {
        let mut bytes = [0; Head::BYTES];
        self.read(&mut bytes, deadline)?;
        Head::parse(bytes).ok_or(Lost::Garbled)
    }

    fn refusal(&mut self, length: u64, deadline: Instant) -> Result<Failure, Lost> {
        let mut bytes = vec![0; usize::try_from(length.min(MAX_REFUSAL)).unwrap_or_default()];
        self.read(&mut bytes, deadline)?;
        parse_refusal(&bytes).ok_or(Lost::Garbled)
    }

    fn read(&mut self, mut bytes: &mut [u8], deadline: Instant) -> Result<(), Lost> {
        while !bytes.is_empty() {
            match self.output.read(bytes) {
                Ok(0) => return Err(Lost::Closed),
                Ok(read) => bytes = &mut bytes[read..],
                Err(error) => retry(&error, &self.output, PollFlags::IN, deadline)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8], deadline: Instant) -> Result<(), Lost> {
        while !bytes.is_empty() {
            match self.input.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) => retry(&error, &self.input, PollFlags::OUT, deadline)?,
            }
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a pipe is ready again, if that is why it failed.
fn retry(error: &io::Error, pipe: &impl AsFd, ready: PollFlags, deadline: Instant) -> Result<(), Lost> {
    match error.kind() {
        io::ErrorKind::WouldBlock => {}
        io::ErrorKind::Interrupted => return Ok(()),
        _ => return Err(Lost::Closed),
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(|_| Lost::TimedOut)?;
    match poll(&mut [PollFd::new(pipe, ready)], Some(&left)) {
        Ok(0) => Err(Lost::TimedOut),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(_) => Err(Lost::Closed),
    }
}

fn end_of(status: ExitStatus) -> End {
    match status.signal() {
        Some(signal) => match OWN_SIGNALS.iter().find(|(number, _)| *number == signal) {
            Some((_, name)) => End::Itself((*name).to_owned()),
            None => End::FromOutside(signal),
        },
        None => End::Itself(format!("exit code {}", status.code().unwrap_or_default())),
    }
}
