//! Files of JSON lines that are added to, and never overwritten.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::bail;
use serde::de::IgnoredAny;

/// What results, dead letters and failures begin with.
const BEGINNINGS: [&[u8]; 2] = [b"{\"id\":", b"{\"image\":"];

/// Opens a file for more lines, and shows `see` those that are there. A last line that was never finished goes. Nobody else
/// adds to the file while it is open.
///
/// # Errors
/// Where it can't be read and written, another run has it, or it holds something else; and what `see` says.
pub(super) fn open(path: &Path, mut see: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<File> {
    if path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        // As a pipe: nothing that it held can be seen again.
        return Ok(OpenOptions::new().write(true).open(path)?);
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    // A file system without locks goes without.
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        bail!("another run writes to it");
    }
    let (mut reader, mut line, mut whole) = (BufReader::new(&file), Vec::new(), 0);
    while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
        whole += line.len() as u64;
        if !line.trim_ascii().is_empty() {
            if !is_ours(&line) {
                bail!(FOREIGN);
            }
            see(&line)?;
        }
        line.clear();
    }
    drop(reader);
    if line.is_empty() {
        return Ok(file);
    }
    if is_ours(&line) && serde_json::from_slice::<IgnoredAny>(&line).is_ok() {
        // Only its end is missing.
        see(&line)?;
        file.write_all(b"\n")?;
    } else if is_begun(&line) {
        file.set_len(whole)?;
    } else {
        bail!(FOREIGN);
    }
    Ok(file)
}

/// Why a file is left alone.
const FOREIGN: &str = "it holds something else than results, one line of JSON each";

fn is_ours(line: &[u8]) -> bool {
    BEGINNINGS.iter().any(|beginning| line.starts_with(beginning))
}

/// Whether this may be a line of ours, as far as it goes; a machine that lost its power may have left zeros of it.
fn is_begun(line: &[u8]) -> bool {
    is_ours(line) || BEGINNINGS.iter().any(|ours| ours.starts_with(line)) || line.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was seen of a file with this text, and what it holds after one more line.
    fn added(text: &str) -> Result<(Vec<String>, String), String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        let mut seen = Vec::new();
        let opened = open(file.path(), |line| {
            seen.push(String::from_utf8_lossy(line).trim_end().to_owned());
            Ok(())
        });
        let read = || std::fs::read_to_string(file.path()).expect("text");
        match opened {
            Ok(mut opened) => opened.write_all(b"new\n").expect("written"),
            Err(error) => {
                assert_eq!(read(), text, "nothing is lost");
                return Err(error.to_string());
            }
        }
        Ok((seen, read()))
    }

    #[test]
    fn whole_lines_stay_and_one_that_was_not_finished_goes() {
        let line = r#"{"id":"a"}"#;
        let seen = |count: usize| vec![line.to_owned(); count];
        assert_eq!(added(""), Ok((seen(0), "new\n".to_owned())));
        assert_eq!(added(&format!("{line}\n\n{line}\n")), Ok((seen(2), format!("{line}\n\n{line}\nnew\n"))));
        assert_eq!(added(&format!("{line}\n{line}")), Ok((seen(2), format!("{line}\n{line}\nnew\n"))));
        for torn in [r#"{"id":"b","im"#, r#"{"id":"b","tags":[{"score":0."#, r#"{"id":"\"#, r#"{"image":"#, "{", "\0\0"]
        {
            assert_eq!(added(&format!("{line}\n{torn}")), Ok((seen(1), format!("{line}\nnew\n"))), "{torn}");
        }
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        for other in
            ["no lines", "lines\n", "42", "{\"name\":", "{\"tagmill_submit\":1}\n", "{\"id\":\"a\"}\nmore text"]
        {
            assert!(added(other).is_err_and(|error| error == FOREIGN), "{other}");
        }
    }

    #[test]
    fn a_file_is_one_runs() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let first = open(file.path(), |_| Ok(())).expect("it is free");
        let second = open(file.path(), |_| Ok(())).expect_err("it is not");
        assert!(second.to_string().contains("another run"), "{second}");
        drop(first);
        assert!(open(file.path(), |_| Ok(())).is_ok());
    }
}
