//! The page as a browser and as a stranger would see it: well-formed, no number that is none, no markup from names,
//! nothing loaded.

use super::html::{bytes, duration, escape, millis, number, percent, px, shorten};
use super::*;
use roxmltree::{Document, Node};
use sample::{digits, houses, many_classes};
use std::path::PathBuf;

/// The body as XML: the page is written so that what a person sees is well-formed, names and all.
fn body(page: &str) -> String {
    let start = page.find("<body>").expect("a body") + "<body>".len();
    let end = page.find("<script>").expect("the script comes last");
    format!("<body>{}</body>", &page[start..end])
}

fn has_class(node: &Node, class: &str) -> bool {
    node.attribute("class").is_some_and(|classes| classes.split(' ').any(|c| c == class))
}

fn with_class<'a>(document: &'a Document, class: &'a str) -> impl Iterator<Item = Node<'a, 'a>> {
    document.descendants().filter(move |node| has_class(node, class))
}

fn text_of(node: Node) -> String {
    node.descendants().filter(|n| n.is_text()).filter_map(|n| n.text()).collect()
}

fn epoch(epoch: u32, train_loss: f64, val_loss: Option<f64>) -> EpochRow {
    EpochRow { epoch, train_loss, val_loss, ..EpochRow::default() }
}

/// Runs that are unusual in one way each.
fn odd_reports() -> Vec<(&'static str, Report)> {
    let only = |epochs: Vec<EpochRow>| Report { epochs, ..Report::default() };
    let nan = f64::NAN;
    let picture = |width, height, channels, n| Some(Picture { width, height, channels, pixels: vec![7; n] });
    let mistake = |image| Mistake { label: 40, predicted: 3, confidence: f32::NAN, index: 1, image };
    let regression = |truth: &[f32], predicted: &[f32]| Report {
        regression: Some(Regression { truth: truth.to_vec(), predicted: predicted.to_vec(), ..Regression::default() }),
        ..Report::default()
    };
    let mut odd_names = many_classes(5);
    odd_names.class_names = ["<script>alert(1)</script>", "a & b \"quoted\" 'single'", "nul \0 bell \u{7}", "", "]]>"]
        .map(str::to_string)
        .to_vec();
    odd_names.title = "</title><b>bold</b>".to_string();
    odd_names.command = "train '<x>' & \"y\"".to_string();
    odd_names.config_toml = "name = \"</code></pre><script>\"".to_string();
    odd_names.layers = vec![LayerRow { layer: "<i>".into(), output_shape: "<B>".into(), params: 0 }];
    odd_names.costs =
        vec![CostRow { kernel: "k<T>".into(), scope: "a&b".into(), time_us: nan, share: nan, ..CostRow::default() }];
    odd_names.mistakes = vec![Mistake { label: 0, predicted: 1, ..Mistake::default() }];
    vec![
        ("nothing at all", Report::default()),
        ("one epoch", only(vec![epoch(1, 0.5, Some(0.6))])),
        ("one epoch, NaN", only(vec![epoch(1, nan, Some(nan))])),
        ("no validation", only(vec![epoch(1, 0.5, None), epoch(2, 0.25, None), epoch(3, 0.125, None)])),
        (
            "NaN from the middle",
            only(vec![epoch(1, 0.5, Some(0.6)), epoch(2, nan, Some(0.5)), epoch(3, nan, Some(nan))]),
        ),
        (
            "infinite",
            only(vec![epoch(1, f64::INFINITY, None), epoch(2, f64::NEG_INFINITY, Some(1e308)), epoch(3, 1.0, None)]),
        ),
        ("all the same", only((1..9).map(|i| epoch(i, 0.0, Some(3.0))).collect())),
        ("tiny and huge", only(vec![epoch(1, 1e-310, Some(1e150)), epoch(2, -1e199, Some(1e199))])),
        ("epochs that repeat", only(vec![epoch(3, 0.5, None), epoch(3, 0.4, None), epoch(1, 0.3, None)])),
        ("thousands of epochs", only((0..5000).map(|i| epoch(i, 1.0 / f64::from(i + 1), None)).collect())),
        ("names with markup", odd_names),
        ("counts that fit no class", Report { confusion: vec![1, 2, 3], ..Report::default() }),
        (
            "an empty matrix",
            Report { confusion: vec![0; 9], classes: vec![ClassRow::default(); 3], ..Report::default() },
        ),
        ("two classes", many_classes(2)),
        ("thirty classes", many_classes(30)),
        ("a hundred classes", many_classes(100)),
        ("a hundred classes, no mistake", Report { confusion: identity(100), ..Report::default() }),
        (
            "pictures that do not fit",
            Report {
                mistakes: vec![
                    mistake(None),
                    mistake(picture(2, 2, 1, 3)),
                    mistake(picture(0, 0, 1, 0)),
                    mistake(picture(2, 2, 5, 20)),
                    mistake(picture(u32::MAX, u32::MAX, 4, 8)),
                    mistake(picture(500, 3, 3, 4500)),
                ],
                ..Report::default()
            },
        ),
        ("regression", houses()),
        ("regression, one row", regression(&[1.0], &[1.0])),
        ("regression, all the same", regression(&[5.0; 9], &[5.5; 9])),
        ("regression, not finite", regression(&[1.0, f32::NAN, 3.0], &[f32::INFINITY, 2.0, 2.5])),
        ("regression, nothing finite", regression(&[f32::NAN], &[1.0])),
        ("regression, empty", regression(&[], &[])),
        ("regression, extremes", regression(&[f32::MAX, f32::MIN, 0.0], &[f32::MIN, f32::MAX, f32::MIN_POSITIVE])),
        ("digits", digits()),
    ]
}

fn identity(n: usize) -> Vec<u64> {
    (0..n * n).map(|i| u64::from(i % (n + 1) == 0)).collect()
}

#[test]
fn every_page_is_well_formed_and_every_drawing_has_only_numbers() {
    let mut drawings = 0;
    for (name, report) in odd_reports() {
        let page = render(&report);
        assert_eq!(page, render(&report), "{name}: same report, same bytes");
        let body = body(&page);
        let document = Document::parse(&body).unwrap_or_else(|error| panic!("{name}: {error}"));
        for svg in document.descendants().filter(|node| node.has_tag_name("svg")) {
            drawings += 1;
            for node in svg.descendants().filter(Node::is_element) {
                for attribute in node.attributes().filter(|a| !matches!(a.name(), "aria-label" | "data-values")) {
                    let bad = ["NaN", "inf", "∞"].into_iter().find(|bad| attribute.value().contains(bad));
                    assert_eq!(
                        bad,
                        None,
                        "{name}: <{} {}={:?}>",
                        node.tag_name().name(),
                        attribute.name(),
                        attribute.value()
                    );
                }
            }
        }
        for bar in document.descendants().filter_map(|node| node.attribute("style")) {
            assert!(!bar.contains("NaN") && !bar.contains("inf"), "{name}: {bar}");
        }
    }
    assert!(drawings > 40, "only {drawings} drawings were looked at");
}

#[test]
fn no_page_loads_anything() {
    for (name, report) in odd_reports() {
        let page = render(&report);
        for outside in ["http:", "https:", "url(", "@import", "@font-face", "//cdn", "<iframe", "<object", "fetch("] {
            assert!(!page.contains(outside), "{name}: {outside}");
        }
        let body = body(&page);
        let document = Document::parse(&body).unwrap();
        for link in document.descendants().filter_map(|n| n.attribute("src").or(n.attribute("href"))) {
            assert!(link.starts_with("data:image/png;base64,") || link.starts_with('#'), "{name}: {link}");
        }
    }
}

#[test]
fn names_never_become_markup() {
    let (_, report) = odd_reports().into_iter().find(|(name, _)| *name == "names with markup").unwrap();
    let page = render(&report);
    assert_eq!(page.matches("<script>").count(), 1, "only the page's own");
    assert!(!page.contains("<b>bold"));
    assert!(!page.contains('\0'));
    let body = body(&page);
    let document = Document::parse(&body).unwrap();
    let shown: Vec<String> = with_class(&document, "cell").map(text_of).collect();
    assert!(
        shown.iter().any(|text| text.contains("true <script>alert(1)</script>, predicted a & b \"quoted\"")),
        "{shown:?}"
    );
}

#[test]
fn the_loss_curve_goes_through_its_points() {
    let epochs = vec![epoch(1, 1.0, None), epoch(2, 0.5, None), epoch(3, 0.0, None)];
    let page = render(&Report { epochs, ..Report::default() });
    // x from 60 to 464, y from 216 (0) to 14 (1).
    assert!(page.contains(r#"<path class="line a" d="M60 14L262 115L464 216"/>"#), "{page}");
    assert!(page.contains("No validation set"));
    assert!(!page.contains("log axis"));
}

#[test]
fn a_range_above_a_hundred_takes_a_logarithmic_axis() {
    let losses = |last| {
        let epochs = vec![epoch(1, 10.0, None), epoch(2, 1.0, None), epoch(3, last, None)];
        render(&Report { epochs, ..Report::default() })
    };
    assert!(losses(0.09).contains("log axis"));
    assert!(!losses(0.11).contains("log axis"));
    assert!(!losses(0.0).contains("log axis"), "zero has no logarithm");
}

#[test]
fn gaps_stay_gaps_and_what_is_not_finite_is_marked() {
    let losses = [4.0, 3.0, f64::NAN, 2.0, f64::INFINITY, 1.0, 0.0];
    let epochs = (1..).zip(losses).map(|(i, loss)| epoch(i, loss, None)).collect();
    let page = render(&Report { epochs, ..Report::default() });
    let body = body(&page);
    let document = Document::parse(&body).unwrap();
    let path = with_class(&document, "line").next().unwrap().attribute("d").unwrap();
    assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 2), "{path}");
    assert_eq!(with_class(&document, "dot").count(), 1, "epoch 4 stands alone");
    assert_eq!(with_class(&document, "cross").count(), 2);
    assert!(page.contains("The loss stopped being a finite number in epoch 3."));
}

#[test]
fn the_lowest_validation_loss_is_marked_and_learning_by_heart_is_said() {
    let rows = [(0.9, 1.0), (0.5, 0.6), (0.3, 0.7), (0.2, 0.8)];
    let epochs = (1..).zip(rows).map(|(i, (train, val))| epoch(i, train, Some(val))).collect();
    let page = render(&Report { epochs, ..Report::default() });
    assert!(page.contains("lowest 0.6000, epoch 2"));
    assert!(page.contains("Validation loss was lowest in epoch 2 (0.6000) and ended at 0.8000"));
    let healthy = (1..5).map(|i| epoch(i, 1.0 / f64::from(i), Some(1.1 / f64::from(i)))).collect();
    assert!(!render(&Report { epochs: healthy, ..Report::default() }).contains("by heart"));
}

#[test]
fn the_matrix_shows_each_count_in_its_place() {
    let names = ["cat", "dog"].map(str::to_string).to_vec();
    let page = render(&Report { confusion: vec![8, 2, 0, 10], class_names: names, ..Report::default() });
    let body = body(&page);
    let document = Document::parse(&body).unwrap();
    let cells: Vec<String> = with_class(&document, "cell").map(text_of).collect();
    let want = [
        "true cat, predicted cat: 8 of 10 (80.0\u{202f}%)8",
        "true cat, predicted dog: 2 of 10 (20.0\u{202f}%)2",
        "true dog, predicted cat: 0 of 10 (0.0\u{202f}%)0",
        "true dog, predicted dog: 10 of 10 (100.0\u{202f}%)10",
    ];
    assert_eq!(cells, want);
    let heat: Vec<(&str, &str)> = (with_class(&document, "heat"))
        .map(|cell| (cell.attribute("class").unwrap(), cell.attribute("fill-opacity").unwrap()))
        .collect();
    assert_eq!(heat, [("heat a", "0.9"), ("heat b", "0.49"), ("heat a", "1")]);
}

#[test]
fn up_to_thirty_classes_have_a_matrix_and_more_have_pairs() {
    let thirty = render(&many_classes(30));
    assert_eq!(Document::parse(&body(&thirty)).map(|d| with_class(&d, "cell").count()), Ok(900));
    assert!(render(&many_classes(31)).contains("Most confused classes"));

    let report = many_classes(100);
    let body = body(&render(&report));
    let document = Document::parse(&body).unwrap();
    assert_eq!(with_class(&document, "cell").count(), 0);
    let matrix = with_class(&document, "matrix").next().unwrap();
    let rows: Vec<String> = (matrix.descendants().filter(|n| n.has_tag_name("tr")).skip(1)).map(text_of).collect();
    assert_eq!(rows.len(), 20);
    let off_diagonal = (0..10_000).filter(|i| i / 100 != i % 100);
    let most = off_diagonal.max_by_key(|i| (report.confusion[*i], std::cmp::Reverse(*i))).unwrap();
    let (label, predicted) = (&report.class_names[most / 100], &report.class_names[most % 100]);
    assert!(rows[0].starts_with(&format!("{label}{predicted}{}", report.confusion[most])), "{}", rows[0]);
}

#[test]
fn a_picture_is_a_png_with_the_same_pixels() {
    for (channels, color) in [
        (1, png::ColorType::Grayscale),
        (2, png::ColorType::GrayscaleAlpha),
        (3, png::ColorType::Rgb),
        (4, png::ColorType::Rgba),
    ] {
        let pixels: Vec<u8> = (0..5 * 3 * channels).map(|i| (i * 37 % 251) as u8).collect();
        let uri = picture::data_uri(&Picture { width: 5, height: 3, channels, pixels: pixels.clone() }).unwrap();
        let (info, decoded) = decode(&uri);
        assert_eq!((info.width, info.height, info.color_type), (5, 3, color));
        assert_eq!(decoded, pixels);
    }
    // 320 x 2 becomes 160 x 1: each pixel the mean of four.
    let pixels: Vec<u8> = (0..640).map(|i| if i < 320 { (i % 2 * 8) as u8 } else { 100 }).collect();
    let (info, decoded) = decode(&picture::data_uri(&Picture { width: 320, height: 2, channels: 1, pixels }).unwrap());
    assert_eq!((info.width, info.height), (160, 1));
    assert_eq!(decoded, vec![52; 160]);
}

/// The test vectors of RFC 4648, section 10.
#[test]
fn base64_pads_short_ends() {
    let texts = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| picture::base64(text.as_bytes()));
    assert_eq!(texts, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
}

fn decode(uri: &str) -> (png::OutputInfo, Vec<u8>) {
    let text = uri.strip_prefix("data:image/png;base64,").unwrap();
    assert_eq!(text.len() % 4, 0);
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("no base64 digit: {other}"),
    };
    let bits = text.trim_end_matches('=').bytes().flat_map(|c| (0..6).rev().map(move |bit| digit(c) >> bit & 1));
    let bits: Vec<u8> = bits.collect();
    let file: Vec<u8> = bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |b, bit| b << 1 | bit)).collect();
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    pixels.truncate(info.buffer_size());
    (info, pixels)
}

#[test]
fn numbers_are_written_for_people() {
    let cases = [
        (0.0, "0"),
        (0.5, "0.5000"),
        (12.345678, "12.35"),
        (-1234.5, "−1234"),
        (0.000012, "1.2e-5"),
        (-3e7, "−3e7"),
        (f64::NAN, "NaN"),
        (f64::NEG_INFINITY, "−∞"),
    ];
    for (value, want) in cases {
        assert_eq!(number(value), want);
    }
    assert_eq!(
        (percent(0.98412), percent(0.99996), percent(1.0)),
        ("98.4\u{202f}%".into(), "99.99\u{202f}%".into(), "100.0\u{202f}%".into())
    );
    assert_eq!((bytes(1023), bytes(27_918_336)), (("1023".into(), "B"), ("26.6".into(), "MiB")));
    assert_eq!(
        (millis(0.0123), millis(6.834), millis(4123.0)),
        (("12.3".into(), "µs"), ("6.83".into(), "ms"), ("4.12".into(), "s"))
    );
    assert_eq!((duration(499.0), duration(7500.0)), (("8:19".into(), "min"), ("2:05".into(), "h")));
    assert_eq!((html::count(1_234_567), html::count(999)), ("1\u{202f}234\u{202f}567".into(), "999".into()));
    assert_eq!((px(-0.001), px(12.5), px(2.71999)), ("0".into(), "12.5".into(), "2.72".into()));
    assert_eq!((shorten("maple tree", 6), shorten("otter", 6)), ("maple…".into(), "otter".into()));
    assert_eq!(escape("<a href='x'>\u{1b}&"), "&lt;a href=&#39;x&#39;&gt;\u{fffd}&amp;");
}

/// Sample pages stay in the build folder, so that a person can open them.
#[test]
fn writes_sample_pages() {
    let exe = std::env::current_exe().expect("a test has a path");
    let folder: PathBuf = exe.ancestors().nth(2).expect("the build folder").join("report-samples");
    std::fs::create_dir_all(&folder).expect("the build folder is writable");
    let (_, odd) = odd_reports().into_iter().find(|(name, _)| *name == "names with markup").unwrap();
    for (name, report) in [
        ("digits.html", digits()),
        ("houses.html", houses()),
        ("30-classes.html", many_classes(30)),
        ("100-classes.html", many_classes(100)),
        ("odd-names.html", odd),
    ] {
        let path = folder.join(name);
        write(&report, &path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), render(&report), "{name}");
    }
    let error = write(&digits(), &folder.join("no such folder").join("report.html")).unwrap_err();
    assert_eq!(error.kind(), wholestep::ErrorKind::Io);
    assert!(error.to_string().contains("report.html"), "{error}");
}
