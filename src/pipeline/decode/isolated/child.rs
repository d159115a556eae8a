//! An isolated decoder: decodes what comes on standard input until that ends. It has an empty environment, bounded memory and
//! time, and no way to open a file or a socket.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::super::decoder::Decoder;
use super::TIME_LIMIT;
use super::protocol::{GO, Head, Request, refusal};
use crate::failure::{Code, Failure};
use crate::pipeline::stage::panic_message;
use crate::terminal;

/// Memory beside that of an image and of decoding it: the program's own data, tables of the decoders, buffers that are kept
/// between images. 256 MiB.
const BASE: u64 = 256 << 20;

/// Bytes of room for encoded images that are kept between them. 4 MiB.
const KEPT: usize = 4 << 20;

/// Runs an isolated decoder to its end.
#[must_use]
pub fn run() -> ExitCode {
    let served = pipes().and_then(|(mut input, mut output)| {
        harden()?;
        serve(&mut input, &mut output, &mut limit)
    });
    // What can't be limited says no hello, which is the worker's to report.
    if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Standard input and output, unbuffered.
fn pipes() -> io::Result<(File, File)> {
    close_inherited();
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = terminal::exact().as_fd().try_clone_to_owned()?;
    Ok((input.into(), output.into()))
}

/// Closes descriptors that a library of the worker has opened without closing them for its children.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "they belong to nothing in this process")]
fn close_inherited() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let links: Vec<_> = open.filter_map(|entry| Some(entry.ok()?.path())).collect();
    // The folder that listed them is closed by now.
    for link in links.into_iter().filter(|link| link.is_symlink()) {
        if let Some(descriptor @ 3..) = link.file_name().and_then(|name| name.to_str()?.parse().ok()) {
            // SAFETY: it is open, and nothing in this process owns more than the first three.
            unsafe { rustix::io::close(descriptor) };
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn close_inherited() {}

/// Gives up all that decoding does not take.
fn harden() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // Where memory ends, this process goes before the worker does.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    for resource in [Resource::Core, Resource::Nofile] {
        setrlimit(resource, none)?;
    }
    // libde265 decodes on a thread of its own, and this limit counts threads as well.
    if cfg!(feature = "heic") { Ok(()) } else { Ok(setrlimit(Resource::Nproc, none)?) }
}

/// Limits memory to so many bytes beside the base, and processor time to what one image may take from now on.
fn limit(bytes: u64) -> io::Result<()> {
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec.cast_unsigned();
    // The worker ends what takes too long; this is for when it can't. Once for the header, once for the pixels.
    let seconds = used + 2 * TIME_LIMIT.as_secs() + 1;
    for (resource, most) in [(Resource::Data, BASE.saturating_add(bytes)), (Resource::Cpu, seconds)] {
        let maximum = getrlimit(resource).maximum;
        let current = maximum.map_or(most, |maximum| maximum.min(most));
        setrlimit(resource, Rlimit { current: Some(current), maximum })?;
    }
    Ok(())
}

/// Answers requests until `input` ends. `limit` is called with the bytes that are to be had, before they are allocated.
pub(super) fn serve(
    input: &mut impl Read,
    output: &mut impl Write,
    limit: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<()> {
    output.write_all(&Head::Hello.to_bytes())?;
    let (mut decoder, mut encoded) = (None, Vec::new());
    let mut head = [0; Request::BYTES];
    while !is_end(input.read_exact(&mut head))? {
        let request = Request::parse(&head).ok_or(io::ErrorKind::InvalidData)?;
        limit(request.length)?;
        encoded.clear();
        if input.by_ref().take(request.length).read_to_end(&mut encoded)? as u64 != request.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match decode(&mut decoder, &request, &encoded, (input, output), limit)? {
            Ok(row) => {
                output.write_all(&Head::Row(row.len() as u64).to_bytes())?;
                output.write_all(&row)?;
            }
            Err(failure) => {
                let refusal = refusal(&failure);
                output.write_all(&Head::Refused(refusal.len() as u64).to_bytes())?;
                output.write_all(&refusal)?;
            }
        }
        encoded.truncate(KEPT);
        encoded.shrink_to(KEPT);
    }
    Ok(())
}

fn is_end(read: io::Result<()>) -> io::Result<bool> {
    match read {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
        Err(error) => Err(error),
    }
}

/// Decodes an image once the worker has reserved the memory. Errors are of the pipes.
fn decode(
    kept: &mut Option<Decoder>,
    request: &Request,
    encoded: &[u8],
    (input, output): (&mut impl Read, &mut impl Write),
    limit: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<Result<Box<[u8]>, Failure>> {
    // Kept between images of the same model, for its buffers.
    let mut decoder = match kept.take() {
        Some(decoder) if decoder.is_for(&request.settings, request.frame) => decoder,
        _ => Decoder::new(request.settings.clone(), request.frame),
    };
    let mut broken = None;
    let mut reserve = |bytes: u64| {
        let asked = ask(bytes, input, output).and_then(|goes| {
            limit(request.length.saturating_add(bytes).saturating_add(request.frame.row_bytes() as u64))?;
            Ok(goes)
        });
        let refused = || Failure::new(Code::ImageTooLarge, "there is no memory for it");
        match asked {
            Ok(true) => Ok(()),
            Ok(false) => Err(refused()),
            Err(error) => {
                broken = Some(error);
                Err(refused())
            }
        }
    };
    let row = catch_unwind(AssertUnwindSafe(|| decoder.row(encoded, &mut reserve)));
    if let Some(error) = broken {
        return Err(error);
    }
    Ok(match row {
        Ok(row) => {
            *kept = Some(decoder);
            row
        }
        // As the worker's own decoders do; the buffers may be half written.
        Err(panic) => {
            let message = format!("the isolated decoder panicked: {}", panic_message(&*panic));
            Err(Failure::new(Code::ImageUndecodable, message).retriable())
        }
    })
}

/// Asks the worker to reserve memory.
fn ask(bytes: u64, input: &mut impl Read, output: &mut impl Write) -> io::Result<bool> {
    output.write_all(&Head::Needs(bytes).to_bytes())?;
    let mut answer = [0];
    input.read_exact(&mut answer)?;
    Ok(answer == [GO])
}
