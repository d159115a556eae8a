//! Names of the tag categories that the program treats specially.

/// Category of most tags.
pub const GENERAL: &str = "general";
/// Category of the characters in the picture.
pub const CHARACTER: &str = "character";
/// Category whose scores are reported in full, apart from the tags.
pub const RATING: &str = "rating";
