//! A QR code as the page draws it.

use qrcode::{Color, EcLevel, QrCode};
use serde::Serialize;

/// A QR code: the path of its dark modules in an SVG that is `size` units wide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drawing {
    /// The width and height in modules, the quiet zone included.
    pub size: usize,
    /// The data of an SVG path: one run of dark modules after the other.
    pub path: String,
}

/// What scanners want around a code, in modules.
const QUIET: usize = 4;

/// A QR code of an address; nothing where it is too long for one.
pub fn draw(address: &str) -> Option<Drawing> {
    use std::fmt::Write as _;
    let code = QrCode::with_error_correction_level(address, EcLevel::M).ok()?;
    let width = code.width();
    let colors = code.to_colors();
    let mut path = String::new();
    for (y, row) in colors.chunks(width.max(1)).enumerate() {
        let mut x = 0;
        for run in row.chunk_by(|a, b| a == b) {
            if run.first() == Some(&Color::Dark) {
                let length = run.len();
                let _ = write!(path, "M{} {}h{length}v1h-{length}z", x + QUIET, y + QUIET);
            }
            x += run.len();
        }
    }
    Some(Drawing { size: width + 2 * QUIET, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_drawn_with_its_quiet_zone() {
        let drawing = draw("https://id.example/device?user_code=ABCD-EFGH").unwrap();
        // Version 4 has 33 modules.
        assert_eq!(drawing.size, 41);
        // Each finder pattern begins with seven dark modules in its corner.
        assert!(drawing.path.starts_with("M4 4h7v1h-7z"), "{}", drawing.path);
        assert!(drawing.path.contains("M30 4h7v1h-7z"), "{}", drawing.path);
        assert!(drawing.path.bytes().all(|byte| b"Mhvz- 0123456789".contains(&byte)));
        assert_eq!(draw(&"x".repeat(5000)), None);
    }
}
