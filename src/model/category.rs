//! Names of the categories of tags that the program treats differently from others.

/// The category of most tags.
pub const GENERAL: &str = "general";
/// The category of who is in the picture.
pub const CHARACTER: &str = "character";
/// The category that is reported whole, apart from the tags.
pub const RATING: &str = "rating";
