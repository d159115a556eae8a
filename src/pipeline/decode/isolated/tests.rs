use std::io::{self, Write};

use proptest::prelude::*;

use super::super::decoder::Decoder;
use super::protocol::{GO, Head, NO, Request, parse_refusal, refusal};
use super::*;
use crate::failure::Class;
use crate::model::frame::{Filter, Fit};

const FRAME: Frame = Frame { side: 8, fit: Fit::Pad([255; 3]), filter: Filter::Bicubic };
const SETTINGS: Settings = Settings { max_pixels: 1_000_000, ignore_orientation: false };

/// A process that sends a hello and then runs this.
fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("head -c 9 /dev/zero; {script}")]);
    command
}

fn isolated(launch: fn() -> Command) -> IsolatedDecoder {
    IsolatedDecoder::new(launch, Duration::from_secs(30))
}

/// Outcome of an image of one byte.
fn failure(decoder: &mut IsolatedDecoder) -> Failure {
    decoder.row("job", (&SETTINGS, FRAME), b"x", &mut |_| Ok(())).expect_err("no row")
}

#[test]
fn an_image_that_ends_three_fresh_processes_is_rejected_with_how_they_ended() {
    let failed = failure(&mut isolated(|| shell("head -c 4 >/dev/null; kill -SEGV $$")));
    assert_eq!((failed.code, failed.class()), (Code::AttemptsExhausted, Class::Reject));
    assert!(failed.message.contains("3 times") && failed.message.contains("SIGSEGV"), "{failed}");
    let failed = failure(&mut isolated(|| shell("head -c 4 >/dev/null; exit 7")));
    assert!(failed.code == Code::AttemptsExhausted && failed.message.contains("exit code 7"), "{failed}");
    let failed = failure(&mut isolated(|| shell("head -c 27 >/dev/null; head -c 9 /dev/zero; sleep 100")));
    assert!(failed.code == Code::AttemptsExhausted && failed.message.contains("an answer that is none"), "{failed}");
}

#[test]
fn an_image_that_takes_too_long_is_rejected_whatever_its_process_waits_for() {
    // In the second, the image does not fit the pipe.
    for (launch, image) in [(|| shell("exec sleep 100")) as fn() -> Command, || shell("exec sleep 100")]
        .into_iter()
        .zip([vec![0; 1], vec![0; 4 << 20]])
    {
        let mut decoder = IsolatedDecoder::new(launch, Duration::from_millis(50));
        let failed = decoder.row("job", (&SETTINGS, FRAME), &image, &mut |_| Ok(())).expect_err("it hangs");
        assert!(failed.code == Code::AttemptsExhausted && failed.message.contains("50ms"), "{failed}");
    }
}

#[test]
fn a_process_that_ends_after_other_images_is_no_evidence() {
    // Refuses its first image, and dies over its second.
    let launch = || {
        shell(
            "head -c 27 >/dev/null; printf '\\003\\003\\0\\0\\0\\0\\0\\0\\0\\0\\0x'; head -c 27 >/dev/null; kill -ABRT $$",
        )
    };
    let mut decoder = isolated(launch);
    for _ in 0..4 {
        let failed = failure(&mut decoder);
        assert_eq!((failed.code, failed.message.as_str()), (Code::ImageUndecodable, "x"));
    }
}

#[test]
fn what_is_not_the_images_doing_hands_the_job_back() {
    let killed: fn() -> Command = || shell("head -c 4 >/dev/null; kill -KILL $$");
    let absent: fn() -> Command = || Command::new("/nowhere");
    let silent: fn() -> Command = || Command::new("true");
    for (launch, why) in [(killed, "from outside"), (absent, "cannot start"), (silent, "before it was ready")] {
        let failed = failure(&mut isolated(launch));
        assert_eq!((failed.code, failed.class()), (Code::ShuttingDown, Class::Retry));
        assert!(failed.message.contains(why), "{failed}");
    }
}

#[test]
fn a_process_is_ended_when_it_has_been_idle() {
    let mut decoder = isolated(|| shell("exec sleep 100"));
    assert!(decoder.idle_until().is_none(), "there is none before it is needed");
    decoder.process = Some(Process::start(&mut (decoder.launch)()).expect("it starts"));
    decoder.end_if_idle();
    assert!(decoder.process.is_some());
    decoder.used = Instant::now().checked_sub(IDLE).expect("the machine has run for a while");
    decoder.end_if_idle();
    assert!(decoder.process.is_none());
}

fn request(image: &[u8]) -> Vec<u8> {
    let request = Request { settings: SETTINGS, frame: FRAME, length: image.len() as u64 };
    [&request.to_bytes(), image].concat()
}

/// A PNG of one colour.
fn png(side: u32) -> Vec<u8> {
    let mut file = io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(side, side, image::Rgb([9, 8, 7]));
    image.write_to(&mut file, image::ImageFormat::Png).expect("it is written");
    file.into_inner()
}

/// Takes the next message of an isolated decoder.
fn next(output: &mut &[u8]) -> (Head, Vec<u8>) {
    let (head, rest) = output.split_first_chunk().expect("a head");
    let head = Head::parse(*head).expect("a head");
    let length = match head {
        Head::Hello | Head::Needs(_) => 0,
        Head::Row(length) | Head::Refused(length) => usize::try_from(length).expect("a few"),
    };
    let (content, rest) = rest.split_at(length);
    *output = rest;
    (head, content.to_vec())
}

#[test]
fn images_are_served_one_after_another_each_after_its_memory_is_allowed() {
    let (small, large) = (png(5), png(20));
    let mut input = Vec::new();
    for (image, answer) in [(&small, Some(GO)), (&b"nonsense".to_vec(), None), (&large, Some(NO)), (&large, Some(GO))] {
        input.write_all(&request(image)).expect("memory");
        input.extend(answer);
    }
    let (mut output, mut limits) = (Vec::new(), Vec::new());
    let mut limit = |bytes| {
        limits.push(bytes);
        Ok(())
    };
    child::serve(&mut &*input, &mut output, &mut limit).expect("it is served");
    let mut output = &*output;
    let row = |image: &[u8]| {
        let mut needed = 0;
        let mut reserve = |bytes| {
            needed = bytes;
            Ok(())
        };
        let row = Decoder::new(SETTINGS, FRAME).row(image, &mut reserve).expect("a row").to_vec();
        (Head::Needs(needed), (Head::Row(192), row))
    };
    assert_eq!(next(&mut output).0, Head::Hello);
    let (needs, expected) = row(&small);
    assert_eq!((next(&mut output).0, next(&mut output)), (needs, expected));
    let (_, content) = next(&mut output);
    assert_eq!(parse_refusal(&content).expect("a refusal").code, Code::ImageUndecodable);
    let (needs, expected) = row(&large);
    assert_eq!(next(&mut output).0, needs);
    assert!(matches!(next(&mut output).0, Head::Refused(_)), "there is no memory");
    assert_eq!((next(&mut output).0, next(&mut output)), (needs, expected));
    assert!(output.is_empty());
    let Head::Needs(needed) = needs else { panic!("{needs:?}") };
    assert_eq!(limits.last(), Some(&(large.len() as u64 + needed + 192)));
}

#[test]
fn a_request_that_is_cut_short_ends_the_decoder() {
    let whole = request(&png(5));
    for length in [1, Request::BYTES, whole.len() - 1, whole.len()] {
        let mut output = Vec::new();
        let served = child::serve(&mut &whole[..length], &mut output, &mut |_| Ok(()));
        assert_eq!(served.is_ok(), length < Request::BYTES, "{length}");
    }
}

proptest! {
    #[test]
    fn requests_and_refusals_arrive_as_they_were_sent(
        (max_pixels, length, side, ignore_orientation) in (any::<u64>(), any::<u64>(), any::<u32>(), any::<bool>()),
        colour in proptest::option::of(any::<[u8; 3]>()),
        (filter, is_retriable, is_too_large) in (0..3_usize, any::<bool>(), any::<bool>()),
        message in "\\PC{0,2000}",
    ) {
        let filter = [Filter::Bicubic, Filter::Bilinear, Filter::Lanczos][filter];
        let frame = Frame { side, fit: colour.map_or(Fit::Stretch, Fit::Pad), filter };
        let settings = Settings { max_pixels, ignore_orientation };
        let arrived = Request::parse(&Request { settings: settings.clone(), frame, length }.to_bytes()).expect("a request");
        prop_assert_eq!((arrived.settings, arrived.frame, arrived.length), (settings, frame, length));

        let code = if is_too_large { Code::ImageTooLarge } else { Code::ImageUndecodable };
        let failure = Failure::new(code, message);
        let failure = if is_retriable { failure.retriable() } else { failure };
        let sent = refusal(&failure);
        prop_assert!(sent.len() as u64 <= protocol::MAX_REFUSAL);
        let arrived = parse_refusal(&sent).expect("a refusal");
        prop_assert_eq!((arrived.code, arrived.class(), &arrived.message), (failure.code, failure.class(), &failure.message));
    }
}
