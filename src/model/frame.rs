//! The square that a model takes, and how a picture is made to fill it.

/// Bytes per pixel: red, green, blue.
pub const CHANNELS: usize = 3;

/// The square a model looks at, and how pictures are made to fill it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// Width and height in pixels.
    pub side: u32,
    /// How a picture that is no square becomes one.
    pub fit: Fit,
    /// How it is resized.
    pub filter: Filter,
}

impl Frame {
    /// Whether a picture of this size, reduced from a larger one, still has all the detail that shows in the frame: at least
    /// twice as many pixels along each side, so that the last and largest step of resizing is the reference's.
    #[must_use]
    pub fn is_enough(&self, width: u32, height: u32) -> bool {
        let decisive = match self.fit {
            Fit::Pad(_) => width.max(height),
            Fit::Stretch => width.min(height),
        };
        decisive >= self.side.saturating_mul(2)
    }

    /// Bytes that fitting a picture of this size takes besides it and the row, at most, whichever way up it is: the picture
    /// as wide as the row, with what the filter reads of the padding above and below.
    #[must_use]
    pub fn work_bytes(&self, width: u32, height: u32) -> u64 {
        let [short, long] = [width.min(height), width.max(height)].map(u64::from);
        let lines = match self.fit {
            Fit::Stretch => long,
            // The longer a picture is than the square's other side, the narrower it becomes.
            Fit::Pad(_) => short,
        };
        // The filter reaches a few pixels of the coarser side.
        let margin = 16 * (long / u64::from(self.side.max(1)) + 2);
        (lines + margin) * u64::from(self.side) * CHANNELS as u64
    }

    /// Bytes that a picture takes which has just the detail that shows in the frame: its pixels, its row, and fitting it.
    #[must_use]
    pub fn picture_bytes(&self) -> u64 {
        let side = self.side.saturating_mul(2);
        let pixels = u64::from(side).pow(2) * CHANNELS as u64;
        pixels + self.row_bytes() as u64 + self.work_bytes(side, side)
    }

    /// Bytes of one row of the model's input.
    #[must_use]
    pub const fn row_bytes(&self) -> usize {
        self.side as usize * self.side as usize * CHANNELS
    }
}

/// How a picture that is no square becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Centred on a square of this colour (RGB); an odd pixel of padding goes right or below.
    Pad([u8; CHANNELS]),
    /// Stretched.
    Stretch,
}

/// Pillow's antialiasing filters of the same names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// a = -0.5.
    #[default]
    Bicubic,
    /// A triangle.
    Bilinear,
    /// Of three lobes.
    Lanczos,
}

impl Filter {
    /// The filter of this name, in lower case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Bicubic, Self::Bilinear, Self::Lanczos].into_iter().find(|filter| filter.as_str() == name)
    }

    /// The name it is known by.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bicubic => "bicubic",
            Self::Bilinear => "bilinear",
            Self::Lanczos => "lanczos",
        }
    }

    /// How far it reaches on each side, in pixels of the coarser side.
    #[must_use]
    pub(crate) const fn support(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Bilinear => 1.0,
            Self::Lanczos => 3.0,
        }
    }
}
