//! Compiles the C part of the JPEG decoder against the libjpeg-turbo that `turbojpeg-sys` has built.

fn main() {
    let source = "src/pipeline/decode/picture/jpeg/libjpeg.c";
    println!("cargo:rerun-if-changed={source}");
    let folders = std::env::var("DEP_TURBOJPEG_INCLUDE").unwrap_or_default();
    cc::Build::new()
        .file(source)
        .includes(folders.split(',').filter(|folder| !folder.is_empty()))
        .std("c11")
        .warnings_into_errors(false)
        .compile("tagmill_jpeg");
}
