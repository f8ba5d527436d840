use std::path::Path;

use wholestep::data::images::{Channels, ImageFolder, folder, folder_skipping, from_bytes};
use wholestep::data::{Array, npz};

use crate::golden;

fn options(channels: Channels) -> ImageFolder {
    ImageFolder { channels, size: None, classes: Vec::new() }
}

/// What Pillow made of the same files, u8 `[N, C, H, W]`.
fn pillow(name: &str) -> Array {
    let arrays = npz::read(golden("pets.npz")).unwrap();
    arrays.into_iter().find(|a| a.0 == name).unwrap().1
}

/// The largest difference in 8-bit steps for each picture.
fn steps_off(x: &Array, want: &Array) -> Vec<f32> {
    assert_eq!(x.shape(), want.shape());
    let n = x.row_elems();
    let pairs: Vec<f32> = x
        .slice::<f32>()
        .unwrap()
        .iter()
        .zip(want.slice::<u8>().unwrap())
        .map(|(a, &b)| (a * 255.0 - f32::from(b)).abs())
        .collect();
    pairs.chunks(n).map(|picture| picture.iter().copied().fold(0.0, f32::max)).collect()
}

#[test]
fn classes_order_and_pixels_are_those_of_pillow() {
    let data = folder(golden("pets"), &options(Channels::Rgb)).unwrap();
    assert_eq!(data.class_names(), ["cat", "dog"]);
    assert_eq!(data.column("y").unwrap(), &Array::from_vec(vec![0u32, 0, 0, 1, 1, 1]));
    assert_eq!(data.column("x").unwrap().shape(), [6, 3, 6, 8]);
    for (channels, name) in [(Channels::Rgb, "rgb"), (Channels::Gray, "gray")] {
        let data = folder(golden("pets"), &options(channels)).unwrap();
        let off = steps_off(data.column("x").unwrap(), &pillow(name));
        for (i, off) in off.iter().enumerate() {
            // PNG is exact. JPEG (pictures 2 and 5) allows decoders to differ in rounding and in how colour is enlarged.
            let bound = if i % 3 == 2 { 6.0 } else { 1e-3 };
            assert!(*off <= bound, "{name}, picture {i}: {off} of 255");
        }
    }
}

#[test]
fn resizing_is_that_of_pillow_within_a_step() {
    let half = ImageFolder { size: Some((3, 4)), ..options(Channels::Rgb) };
    let data = folder(golden("pets"), &half).unwrap();
    let off = steps_off(data.column("x").unwrap(), &pillow("halved"));
    assert!([0, 1, 3, 4].iter().all(|&i| off[i] <= 1.001), "{off:?}");
}

fn copied(dir: &Path) {
    for class in ["cat", "dog"] {
        std::fs::create_dir(dir.join(class)).unwrap();
        std::fs::copy(golden("pets").join(class).join("a.png"), dir.join(class).join("a.png")).unwrap();
    }
}

/// A picture with a palette of so many bytes, of which its pixels use the first color.
fn with_palette(bytes: usize) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 8, 6);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Four);
    encoder.set_palette(vec![7; bytes]);
    encoder.write_header().unwrap().write_image_data(&[0; 4 * 6]).unwrap();
    file
}

/// The library that reads pictures panics where a palette ends within a color; fuzzing found it.
#[test]
fn a_palette_that_ends_within_a_color_is_an_error() {
    from_bytes(&with_palette(12), Channels::Rgb).unwrap();
    for bytes in [4, 10, 280] {
        let error = from_bytes(&with_palette(bytes), Channels::Rgb).unwrap_err().to_string();
        assert!(error.contains("its palette ends within a color"), "{bytes}: {error}");
    }
}

#[test]
fn the_file_that_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    copied(dir.path());
    let error = |options: &ImageFolder| {
        let e = folder(dir.path(), options).unwrap_err().to_string();
        e.replace(&dir.path().display().to_string(), "DIR").replace('\\', "/")
    };
    let rgb = options(Channels::Rgb);
    let bad = dir.path().join("dog/b.png");
    let good = std::fs::read(golden("pets/cat/a.png")).unwrap();
    std::fs::write(&bad, &good[..good.len() / 2]).unwrap();
    assert!(error(&rgb).starts_with("DIR/dog/b.png: the PNG picture is damaged: "), "{}", error(&rgb));
    let mut flipped = good.clone();
    flipped[60] ^= 0x10;
    std::fs::write(&bad, &flipped).unwrap();
    assert!(error(&rgb).starts_with("DIR/dog/b.png: the PNG picture is damaged: "), "{}", error(&rgb));
    let jpeg = std::fs::read(golden("pets/cat/c.jpg")).unwrap();
    std::fs::write(&bad, &jpeg[..jpeg.len() - 40]).unwrap();
    assert!(error(&rgb).starts_with("DIR/dog/b.png: the JPEG picture is damaged: "), "{}", error(&rgb));
    std::fs::write(&bad, b"GIF89a\x01\x00").unwrap();
    assert_eq!(
        error(&rgb),
        "DIR/dog/b.png: expected a PNG or JPEG picture, the file starts with \"GIF89a\\x01\\x00\"; convert it"
            .replace('\\', "/")
    );
    std::fs::copy(golden("see_through.png"), &bad).unwrap();
    assert_eq!(
        error(&rgb),
        "DIR/dog/b.png: the picture is transparent, and what lies behind is not known; put it on a background"
    );
    std::fs::write(&bad, one_pixel()).unwrap();
    assert_eq!(
        error(&rgb),
        "DIR/dog/b.png: expected height x width 6x8 as DIR/cat/a.png, 1x1 came; set a size to resize all pictures to"
    );
    assert!(folder(dir.path(), &ImageFolder { size: Some((2, 2)), ..rgb.clone() }).is_ok());
    assert_eq!(
        error(&ImageFolder { size: Some((0, 2)), ..rgb.clone() }),
        "DIR/cat/a.png: cannot resize to a side of 0; 1 to 65535 are possible"
    );
    std::fs::remove_file(&bad).unwrap();
    std::fs::write(dir.path().join("cat/.hidden"), "x").unwrap();
    assert_eq!(folder(dir.path(), &rgb).unwrap().rows(), 2);
    assert_eq!(
        error(&ImageFolder { classes: vec!["cat".into()], ..rgb.clone() }),
        "DIR/dog: expected one of the classes [\"cat\"]"
    );
    let three = ImageFolder { classes: ["ape", "dog", "cat"].map(String::from).to_vec(), ..rgb.clone() };
    let data = folder(dir.path(), &three).unwrap();
    assert_eq!(data.column("y").unwrap(), &Array::from_vec(vec![1u32, 2]));
    std::fs::write(dir.path().join("list.txt"), "x").unwrap();
    assert_eq!(error(&rgb), "DIR/list.txt: expected one folder for each class here, a file came; move it away");
    std::fs::remove_file(dir.path().join("list.txt")).unwrap();
    std::fs::create_dir(dir.path().join("emu")).unwrap();
    assert_eq!(error(&rgb), "DIR/emu: expected at least one picture of this class");
}

/// A PNG of one black pixel, written by the png crate.
fn one_pixel() -> Vec<u8> {
    let mut out = Vec::new();
    let encoder = png::Encoder::new(&mut out, 1, 1);
    encoder.write_header().unwrap().write_image_data(&[0]).unwrap();
    out
}

#[test]
fn a_header_of_a_huge_picture_reserves_nothing() {
    let mut bytes = one_pixel();
    // Width and height of the header become 2^31 - 1; the checksum of the chunk is made anew.
    bytes[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let e = from_bytes(&bytes, Channels::Gray).unwrap_err().to_string();
    assert_eq!(
        e,
        "expected 1 to 64000000 pixels, height x width 2147483647x2147483647 came; \
         the header is damaged, or shrink the picture"
    );
}

#[test]
fn files_that_cannot_be_read_are_left_out_and_reported_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    copied(dir.path());
    let whole = folder(dir.path(), &options(Channels::Rgb)).unwrap();
    std::fs::write(dir.path().join("cat/b.png"), "no picture").unwrap();
    std::fs::write(dir.path().join("dog/0.png"), "no picture").unwrap();
    assert!(folder(dir.path(), &options(Channels::Rgb)).is_err());
    let (data, skipped) = folder_skipping(dir.path(), &options(Channels::Rgb)).unwrap();
    assert!(data == whole, "what is left is what was there without them");
    let names: Vec<_> = skipped.iter().map(|(path, _)| path.strip_prefix(dir.path()).unwrap().to_path_buf()).collect();
    assert_eq!(names, [Path::new("cat/b.png"), Path::new("dog/0.png")]);
    assert!(skipped.iter().all(|(path, e)| e.to_string().starts_with(&path.display().to_string())), "{skipped:?}");
    for class in ["cat", "dog"] {
        std::fs::write(dir.path().join(class).join("a.png"), "no picture").unwrap();
    }
    let e = folder_skipping(dir.path(), &options(Channels::Rgb)).unwrap_err().to_string();
    assert!(e.contains("not one picture can be read; the first: "), "{e}");
}
