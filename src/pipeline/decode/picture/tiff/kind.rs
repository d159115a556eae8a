//! Kinds of TIFF: what is read, and the name of what is not.

use super::directory::Directory;

pub(super) const NEW_SUBFILE_TYPE: u16 = 254;
pub(super) const WIDTH: u16 = 256;
pub(super) const HEIGHT: u16 = 257;
pub(super) const BITS: u16 = 258;
pub(super) const COMPRESSION: u16 = 259;
pub(super) const PHOTOMETRIC: u16 = 262;
pub(super) const FILL_ORDER: u16 = 266;
pub(super) const STRIP_OFFSETS: u16 = 273;
pub(super) const ORIENTATION: u16 = 274;
pub(super) const SAMPLES: u16 = 277;
pub(super) const ROWS_PER_STRIP: u16 = 278;
pub(super) const STRIP_LENGTHS: u16 = 279;
pub(super) const PLANES: u16 = 284;
pub(super) const COLOURS: u16 = 320;
pub(super) const TILE_OFFSETS: u16 = 324;
pub(super) const TILE_LENGTHS: u16 = 325;
pub(super) const SUB_DIRECTORIES: u16 = 330;
pub(super) const EXTRA_SAMPLES: u16 = 338;
pub(super) const SAMPLE_FORMAT: u16 = 339;
pub(super) const SUBSAMPLING: u16 = 530;
pub(super) const XMP: u16 = 700;
const DNG_VERSION: u16 = 50706;

const MODERN_JPEG: u64 = 7;

/// Storage of colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colours {
    Grey {
        inverted: bool,
    },
    Rgb,
    Palette,
    Cmyk,
    YCbCr,
    /// CIE L*a*b*, with a* and b* as signed bytes.
    Lab,
}

/// Meaning of the first sample after the colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extra {
    Nothing,
    Alpha,
    /// Colours are multiplied by it already.
    Premultiplied,
}

/// Kind of a picture's samples.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) colours: Colours,
    pub(super) extra: Extra,
    /// Of a pixel.
    pub(super) samples: usize,
    /// Of a sample.
    pub(super) bits: u64,
    pub(super) float: bool,
    /// Each sample of all pixels is stored apart.
    pub(super) planar: bool,
}

impl Kind {
    /// # Errors
    /// The name of the kind, where it is not read.
    pub(super) fn of(directory: &Directory<'_>, file: &[u8]) -> Result<Self, String> {
        let side = |tag| directory.number(tag).and_then(|side| u32::try_from(side).ok()).unwrap_or(0);
        refuse_raw(directory, file)?;
        let compression = directory.number(COMPRESSION).unwrap_or(1);
        refuse_compression(compression)?;
        let samples = directory.number(SAMPLES).map_or(1, |samples| usize::try_from(samples).unwrap_or(usize::MAX));
        let bits = directory.numbers(BITS);
        let depth = bits.first().copied().unwrap_or(1);
        if bits.iter().take(samples).any(|&bits| bits != depth) {
            return Err(format!("its samples have different sizes: {bits:?} bits"));
        }
        let format = directory.number(SAMPLE_FORMAT).unwrap_or(1);
        let colours = colours(directory.number(PHOTOMETRIC).unwrap_or(1))?;
        let name = || format!("{} with {depth} bits in {samples} samples a pixel", colours.name());
        let count = colours.count();
        let read = match (format, depth) {
            (1 | 4, 1 | 2 | 4) => samples == 1,
            // Signed bytes are taken for others by Pillow, too.
            (1 | 2 | 4, 8) => true,
            (1 | 4, 16) => !matches!(colours, Colours::Palette | Colours::Lab),
            (3, 32) => colours == Colours::Rgb,
            _ => false,
        };
        if !read || samples < count || samples > count + 8 {
            let of = match format {
                2 => ", signed",
                3 => ", floating point",
                _ => "",
            };
            return Err(format!("its pixels are {}{of}, which is not read", name()));
        }
        if colours == Colours::YCbCr && compression != MODERN_JPEG && directory.numbers(SUBSAMPLING) != [1, 1] {
            return Err(
                "its colour type is YCbCr with fewer samples of chroma, which is read from JPEG compression alone"
                    .into(),
            );
        }
        let extra = match directory.number(EXTRA_SAMPLES) {
            _ if samples == count || colours == Colours::Cmyk || colours == Colours::Palette => Extra::Nothing,
            Some(1) => Extra::Premultiplied,
            Some(2 | 999) => Extra::Alpha,
            None if colours == Colours::Rgb => Extra::Alpha,
            _ => Extra::Nothing,
        };
        let planar = directory.number(PLANES) == Some(2) && samples > 1;
        let (width, height) = (side(WIDTH), side(HEIGHT));
        Ok(Self { width, height, colours, extra, samples, bits: depth, float: format == 3, planar })
    }
}

impl Colours {
    /// Samples of a pixel's colour.
    pub(super) const fn count(self) -> usize {
        match self {
            Self::Grey { .. } | Self::Palette => 1,
            Self::Rgb | Self::YCbCr | Self::Lab => 3,
            Self::Cmyk => 4,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Grey { .. } => "grey",
            Self::Palette => "palette indices",
            Self::Rgb => "RGB",
            Self::YCbCr => "YCbCr",
            Self::Cmyk => "CMYK",
            Self::Lab => "CIE Lab",
        }
    }
}

fn colours(photometric: u64) -> Result<Colours, String> {
    let name = match photometric {
        0 => return Ok(Colours::Grey { inverted: true }),
        1 => return Ok(Colours::Grey { inverted: false }),
        2 => return Ok(Colours::Rgb),
        3 => return Ok(Colours::Palette),
        5 => return Ok(Colours::Cmyk),
        6 => return Ok(Colours::YCbCr),
        8 => return Ok(Colours::Lab),
        4 => "a transparency mask",
        9 => "ICC Lab",
        10 => "ITU Lab",
        32803 => return Err("it is a camera's raw picture, and its colours are a sensor's: convert it first".into()),
        32844 | 32845 => "LogLuv",
        other => return Err(format!("its colour type has the number {other}, which is not read")),
    };
    Err(format!("its colour type is {name}, which is not read"))
}

fn refuse_compression(compression: u64) -> Result<(), String> {
    let name = match compression {
        1 | 4 | 5 | 8 | MODERN_JPEG | 32773 | 32946 => return Ok(()),
        2 => "CCITT modified Huffman",
        3 => "fax group 3",
        6 => "old-style JPEG",
        32766 => "NeXT RLE",
        32809 => "ThunderScan",
        32909 => "PixarLog",
        33003 | 33004 | 33005 | 34712 => "JPEG 2000",
        34676 | 34677 => "SGILog",
        34887 => "LERC",
        34892 => "lossy JPEG of DNG",
        34925 => "LZMA",
        50000 => "zstd",
        50001 => "WebP",
        50002 | 52546 => "JPEG XL",
        other => return Err(format!("its compression has the number {other}, which is not read")),
    };
    Err(format!("its compression is {name}; read are none, LZW, deflate, PackBits, JPEG and fax group 4"))
}

/// Refuses raw files of cameras: their first picture is a thumbnail.
fn refuse_raw(directory: &Directory<'_>, file: &[u8]) -> Result<(), String> {
    let is_reduced = directory.number(NEW_SUBFILE_TYPE).is_some_and(|kind| kind & 1 == 1);
    let name = if directory.bytes(DNG_VERSION).is_some() {
        "DNG"
    } else if file.get(8..10) == Some(b"CR") {
        "CR2"
    } else if is_reduced && directory.bytes(SUB_DIRECTORIES).is_some() {
        "NEF or its kind"
    } else {
        return Ok(());
    };
    Err(format!("it is a camera's raw file ({name}), whose first picture is a thumbnail: convert it first"))
}
