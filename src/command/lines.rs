//! JSON Lines files that runs append to and never overwrite.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::bail;
use serde::de::IgnoredAny;

/// First bytes of results, dead letters and failures.
const BEGINNINGS: [&[u8]; 2] = [b"{\"id\":", b"{\"image\":"];

/// Opens a file to append lines, passes its existing lines to `see`, and removes an incomplete last line. The file is locked
/// against other runs while it is open.
///
/// # Errors
/// If the file can't be read or written, another run holds its lock, or it contains something else; errors of `see`.
pub(super) fn open(path: &Path, mut see: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<File> {
    if path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        // A pipe or device, whose earlier lines cannot be read again.
        return Ok(OpenOptions::new().write(true).open(path)?);
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    // File systems without locks are tolerated.
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
        // Only its line break is missing.
        see(&line)?;
        file.write_all(b"\n")?;
    } else if is_begun(&line) {
        file.set_len(whole)?;
    } else {
        bail!(FOREIGN);
    }
    Ok(file)
}

/// Reason to reject a file.
const FOREIGN: &str = "it holds something else than results, one line of JSON each";

fn is_ours(line: &[u8]) -> bool {
    BEGINNINGS.iter().any(|beginning| line.starts_with(beginning))
}

/// Returns `true` if this may be the start of a line of ours. After a power failure, the file may end with zeros.
fn is_begun(line: &[u8]) -> bool {
    is_ours(line) || BEGINNINGS.iter().any(|ours| ours.starts_with(line)) || line.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines passed to `see` for a file with this text, and the content of the file after one more line.
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
