//! libjpeg, by the C functions in `libjpeg.c`, whose own error manager distinguishes warnings by their codes.

#![expect(unsafe_code, reason = "libjpeg is a C library, and no safe binding reports the codes of its warnings")]

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::marker::PhantomData;
use std::ptr::NonNull;

// Links libjpeg-turbo.
use turbojpeg_sys as _;

/// `struct header` of `libjpeg.c`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Header {
    pub(super) width: u32,
    pub(super) height: u32,
    /// The picture is CMYK or YCCK.
    pub(super) inks: bool,
    /// All coefficients are kept until the last scan is read: two bytes for each sample.
    pub(super) buffered: bool,
}

/// `struct warnings` of `libjpeg.c`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Warnings {
    /// Samples are missing or wrong.
    pub(super) damage: bool,
    /// The file has no end marker.
    pub(super) no_end: bool,
    /// Bytes between the last scan and the end marker.
    pub(super) stray: u32,
    /// Every bit of every coefficient is known to be read.
    pub(super) complete: bool,
}

/// `struct decoder` of `libjpeg.c`.
#[repr(C)]
struct Opaque {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn tagmill_jpeg_open(bytes: *const u8, size: usize, max_scans: c_int) -> *mut Opaque;
    fn tagmill_jpeg_read_header(decoder: *mut Opaque, header: *mut Header) -> bool;
    fn tagmill_jpeg_scale(decoder: *mut Opaque, eighths: c_uint, width: *mut u32, height: *mut u32) -> bool;
    fn tagmill_jpeg_decode(decoder: *mut Opaque, pixels: *mut u8, size: usize, warnings: *mut Warnings) -> bool;
    fn tagmill_jpeg_message(decoder: *const Opaque) -> *const c_char;
    fn tagmill_jpeg_close(decoder: *mut Opaque);
}

/// Decoder of one file.
pub(super) struct Decoder<'a> {
    decoder: NonNull<Opaque>,
    _bytes: PhantomData<&'a [u8]>,
}

impl<'a> Decoder<'a> {
    /// Creates a decoder of these bytes. It refuses a file of more scans.
    pub(super) fn new(bytes: &'a [u8], max_scans: u16) -> Result<Self, String> {
        // SAFETY: `bytes` outlives the decoder, by the lifetime of `Self`.
        let decoder = unsafe { tagmill_jpeg_open(bytes.as_ptr(), bytes.len(), c_int::from(max_scans)) };
        let decoder = NonNull::new(decoder).ok_or("out of memory")?;
        Ok(Self { decoder, _bytes: PhantomData })
    }

    /// Reads up to the first scan.
    pub(super) fn header(&mut self) -> Result<Header, String> {
        let mut header = Header::default();
        // SAFETY: the decoder lives, and `header` is as large as the C side assumes.
        let read = unsafe { tagmill_jpeg_read_header(self.decoder.as_ptr(), &raw mut header) };
        if read { Ok(header) } else { Err(self.message()) }
    }

    /// Sets the size to decode at in eighths of the one stored, and returns it. The header must have been read.
    pub(super) fn scale(&mut self, eighths: u8) -> Result<(u32, u32), String> {
        let (mut width, mut height) = (0, 0);
        // SAFETY: the decoder lives, and so do both numbers.
        let set = unsafe {
            tagmill_jpeg_scale(self.decoder.as_ptr(), c_uint::from(eighths), &raw mut width, &raw mut height)
        };
        if set { Ok((width, height)) } else { Err(self.message()) }
    }

    /// Decodes into `pixels` at the size that [`Self::scale`] returned, as RGB or CMYK.
    pub(super) fn decode(&mut self, pixels: &mut [u8]) -> Result<Warnings, String> {
        let mut warnings = Warnings::default();
        // SAFETY: the decoder lives; no more than `pixels.len()` bytes are written.
        let decoded =
            unsafe { tagmill_jpeg_decode(self.decoder.as_ptr(), pixels.as_mut_ptr(), pixels.len(), &raw mut warnings) };
        if decoded { Ok(warnings) } else { Err(self.message()) }
    }

    /// Returns the fatal error, or the first warning of damage.
    pub(super) fn message(&self) -> String {
        // SAFETY: a text that ends in zero, inside the decoder.
        let message = unsafe { CStr::from_ptr(tagmill_jpeg_message(self.decoder.as_ptr())) };
        message.to_string_lossy().into_owned()
    }
}

impl Drop for Decoder<'_> {
    fn drop(&mut self) {
        // SAFETY: live until here, and closed once.
        unsafe { tagmill_jpeg_close(self.decoder.as_ptr()) };
    }
}
