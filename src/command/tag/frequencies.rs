//! Table of the number of images with each tag.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::atomic;
use crate::tags::Tags;
use crate::text::one_line;

/// Counts tags, and writes them at the end.
pub(super) struct Frequencies {
    path: PathBuf,
    /// By category and name.
    images: HashMap<(String, String), u64>,
}

impl Frequencies {
    /// Destination of the table.
    ///
    /// # Errors
    /// If there is one that is not to be replaced, or none can be written.
    pub(super) fn open(path: &Path, overwrite: bool) -> anyhow::Result<Self> {
        let unusable = || format!("`{}` can't be used (--frequencies)", path.display());
        match path.metadata() {
            Ok(found) if found.len() > 0 && !overwrite => {
                return Err(anyhow::anyhow!("it is not empty; --overwrite replaces it")).with_context(unusable);
            }
            Ok(_) => {}
            // Now, and not after all images are tagged.
            Err(_) => std::fs::write(path, "").with_context(unusable)?,
        }
        if path.is_dir() {
            bail!("{}: it is a folder", unusable());
        }
        Ok(Self { path: path.to_owned(), images: HashMap::new() })
    }

    pub(super) fn count(&mut self, tags: &Tags) {
        for tag in &tags.tags {
            *self.images.entry((tag.category.clone(), tag.name.clone())).or_default() += 1;
        }
    }

    /// Writes the table, the most frequent first.
    ///
    /// # Errors
    /// If it can't be written.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        let mut rows: Vec<_> = self.images.iter().collect();
        rows.sort_by(|(one, first), (other, second)| second.cmp(first).then(one.cmp(other)));
        let mut table = "tag\tcategory\timages\n".to_owned();
        for ((category, name), images) in rows {
            let _ = writeln!(table, "{}\t{}\t{images}", one_line(name), one_line(category));
        }
        atomic::write(&self.path, table.as_bytes())
            .with_context(|| format!("`{}` can't be written (--frequencies)", self.path.display()))
    }
}
