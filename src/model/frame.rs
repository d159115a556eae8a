//! The square that a model takes as input, and the rules for fitting pictures to it.

/// Bytes per pixel: red, green, blue.
pub const CHANNELS: usize = 3;

/// Square input of a model, and the rules for fitting pictures to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// Width and height in pixels.
    pub side: u32,
    /// Conversion of a picture to a square.
    pub fit: Fit,
    /// Filter for resizing.
    pub filter: Filter,
}

impl Frame {
    /// Returns `true` if a picture of this size, reduced from a larger one, keeps all detail visible in the frame: at least
    /// twice the pixels along each side, so that the last and largest step of resizing is the reference's.
    #[must_use]
    pub fn is_enough(&self, width: u32, height: u32) -> bool {
        let decisive = match self.fit {
            Fit::Pad(_) => width.max(height),
            Fit::Stretch => width.min(height),
        };
        decisive >= self.side.saturating_mul(2)
    }

    /// Maximum working memory in bytes for fitting a picture of this size in either orientation, besides the picture and the
    /// row: a picture as wide as the row, with the padding above and below that the filter reads.
    #[must_use]
    pub fn work_bytes(&self, width: u32, height: u32) -> u64 {
        let [short, long] = [width.min(height), width.max(height)].map(u64::from);
        let lines = match self.fit {
            Fit::Stretch => long,
            // A picture longer than the square becomes narrower in proportion.
            Fit::Pad(_) => short,
        };
        // The filter reads a few pixels of the coarser side.
        let margin = 16 * (long / u64::from(self.side.max(1)) + 2);
        (lines + margin) * u64::from(self.side) * CHANNELS as u64
    }

    /// Bytes of the smallest picture with all detail visible in the frame: its pixels, its row, and the working memory.
    #[must_use]
    pub fn picture_bytes(&self) -> u64 {
        let side = self.side.saturating_mul(2);
        let pixels = u64::from(side).pow(2) * CHANNELS as u64;
        pixels + self.row_bytes() as u64 + self.work_bytes(side, side)
    }

    /// Size of one row of the model's input in bytes.
    #[must_use]
    pub const fn row_bytes(&self) -> usize {
        self.side as usize * self.side as usize * CHANNELS
    }
}

/// Conversion of a picture to a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Centres it on a square of this colour (RGB). An odd pixel of padding goes right or below.
    Pad([u8; CHANNELS]),
    /// Stretches it to the square.
    Stretch,
}

/// Pillow's antialiasing filters of the same names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// Cubic filter with a = -0.5.
    #[default]
    Bicubic,
    /// Triangle filter.
    Bilinear,
    /// Lanczos filter with three lobes.
    Lanczos,
}

impl Filter {
    /// Filter of this name, in lower case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Bicubic, Self::Bilinear, Self::Lanczos].into_iter().find(|filter| filter.as_str() == name)
    }

    /// Name in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bicubic => "bicubic",
            Self::Bilinear => "bilinear",
            Self::Lanczos => "lanczos",
        }
    }

    /// Reach on each side, in pixels of the coarser side.
    #[must_use]
    pub(crate) const fn support(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Bilinear => 1.0,
            Self::Lanczos => 3.0,
        }
    }
}
