//! An env.yml on paper: its text, and QR codes from which the file can be read back byte by byte. Layout only; PDF
//! and QR codes themselves are made by their crates.

use anyhow::{Context, Result, bail};
use base64::Engine;
use flate2::Compression;
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Rect, Ref, Str};
use qrcode::{Color, EcLevel, QrCode};
use std::io::Write;

/// A4, and its margin, in points.
const WIDTH: f32 = 595.0;
const HEIGHT: f32 = 842.0;
const MARGIN: f32 = 48.0;
/// Courier is 0.6 of its size wide: 100 characters fit between the margins.
const FONT_SIZE: f32 = 8.0;
const LEADING: f32 = 10.0;
const COLUMNS: usize = 100;
const LINES: usize = 72;
/// How many characters of base64 one code carries: few enough to be read from paper.
const PER_CODE: usize = 400;
/// The most codes: their numbers have three digits.
const MAX_CODES: usize = 999;
/// Codes stand on a page in two columns and three rows; this is a cell's side, and a code's.
const CELL: f32 = 248.0;
const CODE: f32 = 208.0;
const PER_PAGE: usize = 6;

/// The file as a PDF, and how many codes are in it.
///
/// # Errors
/// It is too large for paper.
pub fn print(bytes: &[u8], domain: &str, digest: &str) -> Result<(Vec<u8>, usize)> {
    let codes = codes(bytes)?;
    let mut lines = introduction(domain, digest, codes.len());
    for (number, line) in String::from_utf8_lossy(bytes).lines().enumerate() {
        lines.extend(wrapped(number + 1, line));
    }
    let mut pages: Vec<Content> = lines.chunks(LINES).map(text_page).collect();
    for (index, page) in codes.chunks(PER_PAGE).enumerate() {
        pages.push(code_page(page, index * PER_PAGE, codes.len())?);
    }
    Ok((assembled(pages)?, codes.len()))
}

/// What each code says: its number, how many there are, and a part of the compressed file in base64.
fn codes(bytes: &[u8]) -> Result<Vec<String>> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), Compression::best());
    packer.write_all(bytes).context("could not compress the file")?;
    let packed = packer.finish().context("could not compress the file")?;
    let text = base64::engine::general_purpose::STANDARD.encode(packed);
    let total = text.len().div_ceil(PER_CODE);
    if total > MAX_CODES {
        bail!("the file is too large for paper: it would take {total} QR codes, more than {MAX_CODES}");
    }
    // Base64 is ASCII, so that every cut is between two characters.
    let parts = text.as_bytes().chunks(PER_CODE).map(String::from_utf8_lossy);
    Ok(parts.enumerate().map(|(index, part)| format!("{:03}/{total:03}:{part}", index + 1)).collect())
}

fn introduction(domain: &str, digest: &str, codes: usize) -> Vec<String> {
    [
        format!("env.yml of {domain}"),
        format!("SHA-256 {digest}"),
        String::new(),
        "These pages hold every secret of the appliance. Keep them where you would keep its keys.".to_owned(),
        String::new(),
        format!("To get the file back from its {codes} QR codes, scan these pages as p-1.png, p-2.png ... and run:"),
        String::new(),
        "  zbarimg --quiet --raw p-*.png | grep -E '^[0-9]{3}/[0-9]{3}:' | sort -u \\".to_owned(),
        "    | cut -d: -f2 | tr -d '\\n' | base64 -d | gunzip > env.yml".to_owned(),
        "  sha256sum env.yml".to_owned(),
        String::new(),
        "Each code is a line of its number, the number of codes, and a part of the file: gzip, then base64.".to_owned(),
        "From a PDF, this makes the pictures; a code that is lost in one size is read in the other:".to_owned(),
        "  for r in 300 400; do pdftoppm -r $r -png env.yml.pdf p-$r; done".to_owned(),
        String::new(),
    ]
    .into()
}

/// A line with its number, cut where the page ends.
fn wrapped(number: usize, line: &str) -> Vec<String> {
    let room = COLUMNS - 6;
    let characters: Vec<char> = line.chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
    if characters.is_empty() {
        return vec![format!("{number:>4}")];
    }
    let head = |index: usize| if index == 0 { format!("{number:>4}  ") } else { "      ".to_owned() };
    let cut = |(index, part): (usize, &[char])| format!("{}{}", head(index), part.iter().collect::<String>());
    characters.chunks(room).enumerate().map(cut).collect()
}

/// Courier's own character set; what it does not have is a question mark here, and whole in the codes.
fn latin(text: &str) -> Vec<u8> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).ok().filter(|b| !(0x80..0xa0).contains(b)).unwrap_or(b'?'))
        .collect()
}

fn text_page(lines: &[String]) -> Content {
    let mut content = Content::new();
    content.begin_text().set_font(Name(b"F"), FONT_SIZE).set_leading(LEADING);
    content.next_line(MARGIN, HEIGHT - MARGIN);
    for line in lines {
        content.show(Str(&latin(line))).next_line_using_leading();
    }
    content.end_text();
    content
}

fn code_page(codes: &[String], first: usize, total: usize) -> Result<Content> {
    let mut content = Content::new();
    for (at, text) in codes.iter().enumerate() {
        let code =
            QrCode::with_error_correction_level(text.as_bytes(), EcLevel::M).context("could not make a QR code")?;
        let (column, row) = ((at % 2) as f32, (at / 2) as f32);
        let (left, top) = (MARGIN + column * CELL, HEIGHT - MARGIN - row * CELL);
        content.begin_text().set_font(Name(b"F"), FONT_SIZE).next_line(left, top);
        content.show(Str(format!("{} / {total}", first + at + 1).as_bytes())).end_text();
        // Four modules around a code must stay white (ISO/IEC 18004, 5.3.8).
        draw(&mut content, &code, left, top - 20.0);
    }
    Ok(content)
}

/// Draws a code with its upper left corner at a place; dark modules in a row are one rectangle.
fn draw(content: &mut Content, code: &QrCode, left: f32, top: f32) {
    let (colors, width) = (code.to_colors(), code.width());
    let module = CODE / width as f32;
    for (row, modules) in colors.chunks(width).enumerate() {
        let mut column = 0;
        while column < width {
            let run = modules[column..].iter().take_while(|color| **color == Color::Dark).count();
            if run > 0 {
                let (x, y) = (left + column as f32 * module, top - (row + 1) as f32 * module);
                content.rect(x, y, run as f32 * module, module);
            }
            column += run.max(1);
        }
    }
    content.fill_nonzero();
}

fn assembled(pages: Vec<Content>) -> Result<Vec<u8>> {
    let mut pdf = Pdf::new();
    let (catalog, tree, font) = (Ref::new(1), Ref::new(2), Ref::new(3));
    // At most a few thousand pages: the file is bounded.
    let reference = |number: usize| i32::try_from(number).map(Ref::new).context("there are too many pages");
    let ids = (0..pages.len())
        .map(|index| Ok((reference(4 + 2 * index)?, reference(5 + 2 * index)?)))
        .collect::<Result<Vec<(Ref, Ref)>>>()?;
    pdf.catalog(catalog).pages(tree);
    let count = i32::try_from(ids.len()).context("there are too many pages")?;
    pdf.pages(tree).kids(ids.iter().map(|(page, _)| *page)).count(count);
    pdf.type1_font(font).base_font(Name(b"Courier")).encoding_predefined(Name(b"WinAnsiEncoding"));
    for (content, (page_id, content_id)) in pages.into_iter().zip(ids) {
        let mut page = pdf.page(page_id);
        page.media_box(Rect::new(0.0, 0.0, WIDTH, HEIGHT)).parent(tree).contents(content_id);
        page.resources().fonts().pair(Name(b"F"), font);
        page.finish();
        let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), Compression::default());
        packer.write_all(&content.finish()).context("could not compress a page")?;
        let packed = packer.finish().context("could not compress a page")?;
        pdf.stream(content_id, &packed).filter(Filter::FlateDecode);
    }
    Ok(pdf.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_together_are_the_file() {
        let file: Vec<u8> = (0..5000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let codes = codes(&file).expect("it fits");
        assert!(codes.len() > 10 && codes.iter().all(|code| code.len() <= PER_CODE + 8));
        let text: String = codes.iter().map(|code| &code[8..]).collect();
        let packed = base64::engine::general_purpose::STANDARD.decode(text).expect("it is base64");
        let mut back = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*packed), &mut back).expect("it is gzip");
        assert_eq!(back, file);
    }

    #[test]
    fn what_is_too_large_for_paper_is_refused() {
        let file: Vec<u8> =
            (0..250_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes()).collect();
        assert!(print(&file, "a.de", "0").is_err_and(|error| error.to_string().contains("too large for paper")));
    }

    #[test]
    fn long_lines_are_cut_and_nothing_is_lost() {
        let cut = wrapped(7, &"x".repeat(200));
        assert_eq!(cut.iter().map(|line| line.matches('x').count()).collect::<Vec<_>>(), [94, 94, 12]);
        assert!(cut.iter().all(|line| line.len() <= COLUMNS));
        assert_eq!(wrapped(8, ""), ["   8"]);
        assert_eq!(latin("aä€"), [b'a', 0xe4, b'?']);
    }
}
