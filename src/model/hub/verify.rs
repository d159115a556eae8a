//! Comparison of a file on disk with the hub's listing.

use std::io::{self, ErrorKind, Read};
use std::path::PathBuf;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::file::{Digest, File};

/// Result of the comparison.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The files are the same.
    Same,
    /// The files differ, for this reason.
    Other(String),
    /// The file is missing.
    Missing,
}

/// Compares size and hash on a blocking thread.
pub(super) async fn verify(file: &File, path: PathBuf) -> io::Result<Verdict> {
    let file = file.clone();
    tokio::task::spawn_blocking(move || match compare(&file, &path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Verdict::Missing),
        verdict => verdict,
    })
    .await
    .map_err(io::Error::other)?
}

fn compare(file: &File, path: &PathBuf) -> io::Result<Verdict> {
    let found = std::fs::metadata(path)?.len();
    if found != file.size {
        return Ok(Verdict::Other(format!("it has {found} bytes instead of {}", file.size)));
    }
    let (name, listed, found) = match &file.digest {
        Digest::Unknown => return Ok(Verdict::Same),
        Digest::Sha256(listed) => ("SHA-256", listed, hash(Sha256::new(), path)?),
        Digest::GitBlob(listed) => {
            let route = format!("blob {}\0", file.size);
            ("git's SHA-1", listed, hash(Sha1::new_with_prefix(route), path)?)
        }
    };
    if *listed == found {
        return Ok(Verdict::Same);
    }
    Ok(Verdict::Other(format!("{name} of its content is {found} instead of {}", listed.escape_debug())))
}

fn hash(mut hash: impl sha2::Digest, path: &PathBuf) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            length => hash.update(&buffer[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_known_by_its_size_and_hash() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hello");
        std::fs::write(&path, "hello\n").expect("a file");
        // Hashes from `git hash-object` and `sha256sum`.
        let git = Digest::GitBlob("ce013625030ba8dba906f756967f9e9ca394464a".into());
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let cases = [
            (git, 6, true),
            (Digest::Sha256(sha256.into()), 6, true),
            (Digest::Unknown, 6, true),
            (Digest::Unknown, 7, false),
            (Digest::Sha256(sha256.replace('5', "6")), 6, false),
        ];
        for (digest, size, same) in cases {
            let file = File { path: "hello".into(), size, digest };
            let verdict = verify(&file, path.clone()).await.expect("it can be read");
            assert_eq!(verdict == Verdict::Same, same, "{file:?}: {verdict:?}");
            let missing = verify(&file, folder.path().join("gone")).await.expect("an answer");
            assert_eq!(missing, Verdict::Missing);
        }
    }
}
