//! Which GPUs CUDA shows to this process, in its order, by the name that the driver's other half (NVML) knows them by as well.
//! NVML counts in the order of the bus and counts all, CUDA those that are shown, the fastest first.

use std::fmt::Write;
use std::sync::OnceLock;

use libloading::Library;

/// A device's number that no other has.
type Uuid = [u8; 16];

/// The UUID of every device, as `xxxxxxxx-xxxx-...`; `None` where CUDA can't be asked.
pub(super) fn uuids() -> Option<&'static [String]> {
    static UUIDS: OnceLock<Option<Vec<String>>> = OnceLock::new();
    UUIDS.get_or_init(|| Some(ask()?.iter().map(shown).collect())).as_deref()
}

fn shown(uuid: &Uuid) -> String {
    let mut text = String::with_capacity(36);
    for (place, byte) in uuid.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[expect(unsafe_code, reason = "the driver has no other interface")]
fn ask() -> Option<Vec<Uuid>> {
    type Init = unsafe extern "C" fn(u32) -> i32;
    type Count = unsafe extern "C" fn(*mut i32) -> i32;
    type Device = unsafe extern "C" fn(*mut i32, i32) -> i32;
    type Name = unsafe extern "C" fn(*mut Uuid, i32) -> i32;

    // SAFETY: the functions have these signatures (cuda.h) since CUDA 11.4, write nothing but what their pointers are to, and
    // are called in the order that is asked for. The library stays loaded, for ONNX Runtime uses it as well.
    unsafe {
        let library: &'static Library = Box::leak(Box::new(Library::new("libcuda.so.1").ok()?));
        let init = library.get::<Init>("cuInit").ok()?;
        let count = library.get::<Count>("cuDeviceGetCount").ok()?;
        let device = library.get::<Device>("cuDeviceGet").ok()?;
        let name = library.get::<Name>("cuDeviceGetUuid_v2").ok()?;
        let mut devices = 0;
        (init(0) == 0 && count(&raw mut devices) == 0).then_some(())?;
        let uuid = |number| {
            let (mut handle, mut uuid) = (0, [0; 16]);
            (device(&raw mut handle, number) == 0 && name(&raw mut uuid, handle) == 0).then_some(uuid)
        };
        (0..devices).map(uuid).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_shown_as_the_driver_shows_it() {
        let uuid = [0x9a, 0xf1, 0xc3, 0x21, 0x67, 0x24, 0x9c, 0x0d, 0x8c, 0x8e, 0xea, 0x63, 0xca, 0xc0, 0xf7, 0x05];
        assert_eq!(shown(&uuid), "9af1c321-6724-9c0d-8c8e-ea63cac0f705");
    }
}
