//! Parameters of a download: a repository, its revision, and the model's folder.

use std::fmt;
use std::str::FromStr;

/// Repository of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repository {
    pub(super) owner: String,
    pub(super) name: String,
}

/// Error for an invalid repository name.
#[derive(Debug, thiserror::Error)]
#[error("expected OWNER/NAME, such as SmilingWolf/wd-vit-tagger-v3: letters, digits, `-`, `_` and `.`")]
pub(crate) struct InvalidRepository;

impl Repository {
    /// Last part of its name.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Repository {
    type Err = InvalidRepository;

    fn from_str(text: &str) -> Result<Self, InvalidRepository> {
        // The hub's own rule, which also excludes `..` and hidden folders.
        let valid = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
                && !part.starts_with(['-', '.'])
                && !part.ends_with(['-', '.'])
                && !part.contains("..")
                && !part.contains("--")
        };
        // Accepts the URL in a browser.
        let text = text.strip_prefix("https://huggingface.co/").unwrap_or(text).trim_end_matches('/');
        match text.split_once('/') {
            Some((owner, name)) if text.len() <= 96 && valid(owner) && valid(name) => {
                Ok(Self { owner: owner.to_owned(), name: name.to_owned() })
            }
            _ => Err(InvalidRepository),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// Branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Revision(String);

/// Error for an invalid revision.
#[derive(Debug, thiserror::Error)]
#[error("expected a branch, tag or commit, such as main")]
pub(crate) struct InvalidRevision;

impl Revision {
    /// Revision as given.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Revision {
    type Err = InvalidRevision;

    fn from_str(text: &str) -> Result<Self, InvalidRevision> {
        let odd = |character: char| character.is_whitespace() || character.is_control();
        // git allows neither `..` nor a leading dot, and in a URL both would change the path.
        if text.is_empty() || text.starts_with('.') || text.contains("..") || text.contains(odd) {
            return Err(InvalidRevision);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Name of a model's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FolderName(String);

/// Error for an invalid folder name.
#[derive(Debug, thiserror::Error)]
#[error("expected a folder's name, without `/` and not hidden")]
pub(crate) struct InvalidFolderName;

impl FolderName {
    /// Name as given.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FolderName {
    type Err = InvalidFolderName;

    fn from_str(text: &str) -> Result<Self, InvalidFolderName> {
        if text.is_empty() || text.starts_with('.') || text.contains(['/', '\\']) || text.contains(char::is_control) {
            return Err(InvalidFolderName);
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_an_owner_and_a_name() {
        let repository: Repository = "SmilingWolf/wd-vit-tagger-v3".parse().expect("well formed");
        let address = "https://huggingface.co/SmilingWolf/wd-vit-tagger-v3/".parse();
        assert_eq!(address.ok().as_ref(), Some(&repository), "as it is copied from a browser");
        assert_eq!(
            (repository.name(), repository.to_string().as_str()),
            ("wd-vit-tagger-v3", "SmilingWolf/wd-vit-tagger-v3")
        );
        for text in
            ["", "gpt2", "a/b/c", "/b", "a/", "../b", "a/..", "a/.b", "a b/c", "a/b?c", "https://host/a/b", "a/b\n"]
        {
            assert!(text.parse::<Repository>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_revision_stays_in_its_place_in_a_url() {
        for text in ["main", "v1.0", "refs/pr/1", "7f3e"] {
            assert_eq!(text.parse::<Revision>().expect("well formed").as_str(), text);
        }
        for text in ["", ".", "..", "a/../b", "a b", "a\n"] {
            assert!(text.parse::<Revision>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_folder_is_one_folder() {
        assert!("wd-vit (v3)".parse::<FolderName>().is_ok());
        for text in ["", ".", "..", ".hidden", "a/b", "/a", "a\\b"] {
            assert!(text.parse::<FolderName>().is_err(), "{text:?}");
        }
    }
}
