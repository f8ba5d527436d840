use wholestep::data::Array;
use wholestep::data::csv::{Column, ColumnKind, Csv, Missing, Vocabulary};
use wholestep::{ErrorKind, Result};

const HOUSES: &str = "sqft,city,beds,price\n900,Rome,2,1.5\n1200.5,\"Oslo, N\",3,2.25\n700,Rome,1,0.75\n";

fn error_of<T: std::fmt::Debug>(result: Result<T>) -> String {
    let e = result.unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Data | ErrorKind::Config), "{e}");
    e.to_string()
}

#[test]
fn numbers_words_and_targets() {
    let table = Csv::new().one_hot("city").int("beds").target("price").from_bytes(HOUSES.as_bytes()).unwrap();
    assert_eq!(table.rows(), 3);
    assert_eq!(table.column("city").unwrap().vocabulary, ["Oslo, N", "Rome"]);
    let data = table.into_dataset().unwrap();
    assert_eq!(data.feature_names(), ["sqft", "city=Oslo, N", "city=Rome", "beds"]);
    let x = vec![900f32, 0., 1., 2., 1200.5, 1., 0., 3., 700., 0., 1., 1.];
    assert_eq!(data.column("x").unwrap(), &Array::new(x, [3, 4]).unwrap());
    assert_eq!(data.column("y").unwrap(), &Array::new(vec![1.5f32, 2.25, 0.75], [3, 1]).unwrap());
}

#[test]
fn labels_and_index_columns() {
    let text = "b\t10\tx\r\na\t9\ty\r\nb\t9\tx\r\n";
    let csv = Csv::tsv().no_header().index(1).skip("2").label(0);
    let data = csv.from_bytes(text.as_bytes()).unwrap().into_dataset().unwrap();
    assert_eq!(data.class_names(), ["a", "b"]);
    assert_eq!(data.column("y").unwrap(), &Array::from_vec(vec![1u32, 0, 1]));
    // 9 comes before 10: words that are all numbers are ordered as numbers.
    assert_eq!(data.column("1").unwrap(), &Array::from_vec(vec![1u32, 0, 0]));
    assert_eq!(data.columns().count(), 2);
    let given = Vocabulary::Given(["b", "a"].map(String::from).to_vec());
    let data = csv.clone().column(0, ColumnKind::Label(given)).from_bytes(text.as_bytes()).unwrap().into_dataset();
    assert_eq!(data.unwrap().column("y").unwrap(), &Array::from_vec(vec![0u32, 1, 0]));
    let given = Vocabulary::Given(vec!["b".into()]);
    assert_eq!(
        error_of(csv.column(0, ColumnKind::Label(given)).from_bytes(text.as_bytes())),
        "row 2 (line 2), column \"0\": expected one of \"b\", \"a\" came; add it to the vocabulary"
    );
}

#[test]
fn missing_and_infinite_cells() {
    let text = "a,b\n1,2\n,3\n4,inf\n5,6\nNaN,7\n";
    let read = |missing| Csv::new().missing(missing).from_bytes(text.as_bytes());
    assert_eq!(
        error_of(read(Missing::Error)),
        "row 2 (line 3), column \"a\": expected a finite number, nothing came; \
         leave the row out, fill the cell in, or skip the column"
    );
    let dropped = read(Missing::DropRow).unwrap();
    assert_eq!(dropped.dropped_rows, [2, 3, 5]);
    assert_eq!(dropped.columns[0].values, Array::from_vec(vec![1f64, 5.0]));
    let filled = read(Missing::Fill(-1.5)).unwrap();
    assert_eq!(filled.columns[0].values, Array::from_vec(vec![1f64, -1.5, 4.0, 5.0, -1.5]));
    assert_eq!(filled.columns[1].values, Array::from_vec(vec![2f64, 3.0, -1.5, 6.0, 7.0]));
    assert_eq!(
        error_of(Csv::new().from_bytes(b"a\n1\n-inf\n")),
        "row 2 (line 3), column \"a\": expected a finite number, \"-inf\" came; \
         leave the row out, fill the cell in, or skip the column"
    );
    assert_eq!(
        error_of(Csv::new().one_hot("a").missing(Missing::Fill(0.0)).from_bytes(b"a\nNA\n")),
        "row 1 (line 2), column \"a\": expected a word, \"NA\" came; \
         a number cannot fill a word; leave the row out, or skip the column"
    );
    assert_eq!(
        error_of(Csv::new().missing(Missing::DropRow).from_bytes(b"a\nNA\n")),
        "no row is left: 1 came after the header, 1 were dropped for missing cells"
    );
    let words = Csv::new().one_hot("a").missing_words(["-"]).from_bytes(b"a\nNA\n").unwrap();
    assert_eq!(words.columns[0].vocabulary, ["NA"]);
}

#[test]
fn wrong_cells_rows_and_columns_are_named() {
    let text_of = |csv: Csv, text: &str| error_of(csv.from_bytes(text.as_bytes()));
    assert_eq!(
        text_of(Csv::new(), HOUSES),
        "row 1 (line 2), column \"city\": expected a number, \"Rome\" came; \
         make the column one_hot, index or label, or skip it"
    );
    assert_eq!(
        text_of(Csv::new().int("a"), "a\n1.5\n"),
        "row 1 (line 2), column \"a\": expected a whole number, \"1.5\" came; use Float for fractions"
    );
    assert_eq!(
        text_of(Csv::new().int("a"), "a\n16777217\n"),
        "row 1 (line 2), column \"a\": expected a whole number up to 16777216, which f32 holds exactly, \
         \"16777217\" came; use index for a code, Float to round"
    );
    assert_eq!(
        text_of(Csv::new(), "a\n1e39\n"),
        "row 1 (line 2), column \"a\": expected a number that f32 can hold, \"1e39\" came; scale the column"
    );
    assert_eq!(
        text_of(Csv::new(), "a,b\n1,2\n\"3\n4\",5\n6\n"),
        "row 2 (line 3), column \"a\": expected a number, \"3\\n4\" came; \
         make the column one_hot, index or label, or skip it"
    );
    // The quoted line break puts row 3 on line 5.
    assert_eq!(
        text_of(Csv::new().one_hot("a"), "a,b\n1,2\n\"3\n4\",5\n6\n"),
        "row 3 (line 5): expected 2 cells as in the first line, 1 came; check the delimiter (',') and the quotes"
    );
    assert_eq!(text_of(Csv::new().target("c"), "a,b\n1,2\n"), "no column \"c\"; the columns are \"a\", \"b\"");
    assert_eq!(
        text_of(Csv::new().no_header().target(2), "1,2\n"),
        "no column 2; the columns are \"0\", \"1\"; without a header they are counted from 0"
    );
    assert_eq!(
        text_of(Csv::new(), "a,a\n1,2\n"),
        "header: column \"a\" came twice; give each column its own name, or use no_header() for a table without names"
    );
    assert_eq!(text_of(Csv::new(), ""), "the table is empty; expected at least one row");
    assert_eq!(
        text_of(Csv::new(), "a,b\n"),
        "no row is left: 0 came after the header, 0 were dropped for missing cells"
    );
    assert_eq!(text_of(Csv::new().skip_lines(3), "a\n1\n"), "expected 3 lines to skip, the file has only 2");
    let bytes = Csv::new().one_hot("a").from_bytes(b"a\n\xff\n");
    assert_eq!(error_of(bytes), "row 1 (line 2), column \"a\": the cell is not UTF-8; save the table as UTF-8");
    let both = Csv::new().label("a").target("b").from_bytes(b"a,b\n1,2\n").unwrap();
    assert_eq!(
        error_of(both.into_dataset()),
        "expected one label column or any number of target columns, labels \"a\" and targets \"b\" came"
    );
    let wide: String = (0..1025).map(|i| format!("w{i}\n")).collect();
    assert_eq!(
        text_of(Csv::new().no_header().one_hot(0), &wide),
        "column \"0\": expected at most 1024 words for one_hot, 1025 came; use index and an embedding"
    );
}

#[test]
fn a_byte_order_mark_blank_lines_and_a_path() {
    let text = "\u{feff}a;b\n1;2\n\n3;4\n";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.csv");
    std::fs::write(&path, text).unwrap();
    let data = Csv::new().delimiter(b';').label(Column::Last).read(&path).unwrap().into_dataset().unwrap();
    assert_eq!(data.feature_names(), ["a"]);
    assert_eq!(data.column("x").unwrap(), &Array::new(vec![1f32, 3.0], [2, 1]).unwrap());
    let e = Csv::new().read(&path).unwrap_err().to_string();
    assert!(e.starts_with(&format!("{}: row 1 (line 2), column \"a;b\": ", path.display())), "{e}");
    assert_eq!(Csv::new().read(dir.path().join("none")).unwrap_err().kind(), ErrorKind::Io);
}
